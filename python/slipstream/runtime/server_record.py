"""Which server of this user runs: a file that says where it is, locked by the server's process while it lives.

So a killed server leaves no doubt. The file is for this user only, as it holds a key that opens everything while that
server runs. Further servers of the same SLIPSTREAM_HOME run as well; the command line does not know of them.
"""

from __future__ import annotations

import os
import signal
import time
from typing import IO, TYPE_CHECKING

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import ServerError
from slipstream.base.files import locked, replace_file_locked, try_lock
from slipstream.runtime.tokens import new_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_STOP_S = 15.0  # a server ends within 5 s of a signal


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A running server.

    Attributes:
        pid: Of its process.
        url: Where this machine reaches it; None until it answers.
        port: Of that URL.
        key: Opens everything while it runs.
        started_s: Unix time.
        version: Of Slipstream.
    """

    pid: int
    key: str
    version: str
    url: str | None = None
    port: int | None = None
    started_s: float = 0.0

    def __repr__(self) -> str:
        """Without the key."""
        return f"ServerRecord(pid={self.pid}, url={self.url!r})"


class Claim:
    """A server's hold on the record, from its start to the end of its process.

    Args:
        record: What is known from the start.
    """

    def __init__(self, record: ServerRecord) -> None:
        self.record = record
        # Each version of the file stays locked: somebody may have opened an older one.
        self._files = [self._write()]

    def publish(self, url: str, port: int) -> None:
        """Say that the server answers at `url`."""
        self.record = msgspec.structs.replace(self.record, url=url, port=port)
        self._files.append(self._write())

    def release(self) -> None:
        """Give up the hold before the process ends."""
        for file in self._files:
            file.close()

    def _write(self) -> IO[bytes]:
        return replace_file_locked(_path(), msgspec.json.encode(self.record) + b"\n")


def claim(version: str) -> Claim | None:
    """Become the server the command line knows.

    Returns:
        The hold on the record; None where another server of this user has it.

    Raises:
        StoreError: SLIPSTREAM_HOME cannot be written.
    """
    with locked(_path().with_suffix(".lock")):
        if find() is not None:
            return None
        record = ServerRecord(
            pid=os.getpid(), key=new_secret(), version=version, started_s=time.time()
        )
        return Claim(record)


def find() -> ServerRecord | None:
    """Return the server of this user that runs, also while it does not answer yet."""
    try:
        with _path().open("rb") as file:
            if try_lock(file, shared=True):
                return None
            return msgspec.json.decode(file.read(), type=ServerRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until it holds; another process gives no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def stop(record: ServerRecord) -> None:
    """End a server and wait until it is gone.

    Raises:
        ServerError: it is not this user's to end, or did not end.
    """
    try:
        os.kill(record.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        message = f"the server is process {record.pid}, which this user may not end"
        raise ServerError(message) from error
    if not wait(lambda: not _runs(record), _STOP_S):
        message = f"the server did not end within {_STOP_S:g} s; `kill -9 {record.pid}` ends it"
        raise ServerError(message)


def _runs(record: ServerRecord) -> bool:
    found = find()
    return found is not None and found.pid == record.pid


def _path() -> Path:
    return home() / "server.json"
