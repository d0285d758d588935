"""The systemd user unit of the server. Writes nothing itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.base.config import home
from slipstream.cli.background import serve_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

UNIT_NAME = "slipstream.service"
_STOP_S = 15  # the server takes at most 5
_UNIT = """\
[Unit]
Description=Slipstream, a server of local language models
After=network.target

[Service]
Type=exec
Environment={home}
ExecStart={command}
Restart=on-failure
RestartSec=5
TimeoutStopSec={stop_s}
KillMode=mixed
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""


def unit_path() -> Path:
    """Return where systemd looks for a user's units."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "systemd" / "user" / UNIT_NAME


def make_unit(models: Sequence[str]) -> str:
    """Return the text of the unit for this Python, this SLIPSTREAM_HOME and these models."""
    command = [sys.executable, "-m", "slipstream", "serve", *serve_arguments(models)]
    return _UNIT.format(
        home=_quoted(f"SLIPSTREAM_HOME={home().absolute()}"),
        # only in a command is "$" a variable
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        stop_s=_STOP_S,
    )


def _quoted(word: str) -> str:
    """Quote a word as systemd.syntax(7) wants it; "%" begins a specifier."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + escaped.replace("%", "%%") + '"'
