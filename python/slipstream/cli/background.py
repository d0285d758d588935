"""Starts a server that outlives the command: `slipstream serve` in a session of its own, its log in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from slipstream.base.config import home
from slipstream.base.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slipstream.runtime.server_record import ServerRecord

_START_S = 600.0  # models are loaded first, perhaps from a slow disk
_SHOWN_CHARS = 2000


def log_file() -> Path:
    """Return where a server in the background writes its log."""
    return home() / "logs" / "server.log"


def start(models: Sequence[str] = (), *, restore: bool = True) -> tuple[ServerRecord, bool]:
    """Start a server with the kept settings, unless one of this user runs, and wait until it answers.

    Args:
        models: To load; without any, requests load what they name.
        restore: Load again what was loaded by hand when the last one ended, if the settings say so.

    Returns:
        Where it is, and whether it was started now.

    Raises:
        ServerError: it ended at once, which its last words explain, or does not answer.
        StoreError: SLIPSTREAM_HOME cannot be written.
    """
    from slipstream.base.files import locked
    from slipstream.runtime.server_record import find, wait

    # Who comes second finds what the first one started.
    with locked(home() / "server-start.lock", _START_S):
        running = find()
        process = None if running else _spawn(models, restore=restore)
        try:
            wait(lambda: _is_ready() or _has_ended(process), _START_S)
            record = find()
        except BaseException:
            if process is not None:
                process.terminate()  # Ctrl-C while it loads
            raise
    if record is None or record.url is None:
        raise ServerError(_what_happened(process))
    return record, running is None


def serve_arguments(models: Sequence[str]) -> list[str]:
    """Return what `serve` is told of models by who starts it for later."""
    return ["--", *models] if models else ["--no-load"]


def _spawn(models: Sequence[str], *, restore: bool) -> subprocess.Popen[bytes]:
    log = log_file()
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ["--log-file", str(log.absolute()), *([] if restore else ["--no-restore"])]
    options += serve_arguments(models)
    command = [sys.executable, "-m", "slipstream", "serve", *options]
    # What does not go through the log: last words of the process, kept until the next start.
    with log.with_suffix(".out").open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=home().absolute(),
            env={**os.environ, "SLIPSTREAM_HOME": str(home().absolute())},
        )


def _is_ready() -> bool:
    from slipstream.runtime.server_record import find

    record = find()
    return record is not None and record.url is not None


def _has_ended(process: subprocess.Popen[bytes] | None) -> bool:
    from slipstream.runtime.server_record import find

    return find() is None if process is None else process.poll() is not None


def _what_happened(process: subprocess.Popen[bytes] | None) -> str:
    log = log_file()
    if process is None or process.poll() is None:
        return f"the server does not answer within {_START_S:g} s; see {log}"
    out = log.with_suffix(".out").read_text(encoding="utf-8", errors="replace")[-_SHOWN_CHARS:]
    last = next((line for line in reversed(out.splitlines()) if line.strip()), "it said nothing")
    return f"the server did not start: {last.removeprefix('slipstream: ')} (see {log})"
