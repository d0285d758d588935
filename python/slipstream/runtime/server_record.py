"""Which server of this user runs: a lock it holds while it lives, and a file that says where it is.

`server.lock` is held by the server's process, so that a killed one leaves no doubt; `server.json` says the rest, for
this user only, as it holds a key that opens everything while that server runs. What it says counts only while the lock
is held. Further servers of the same SLIPSTREAM_HOME run as well; the command line does not know of them.
"""

from __future__ import annotations

import os
import signal
import time
from typing import IO, TYPE_CHECKING

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import ServerError
from slipstream.base.files import open_lock, replace_file, try_lock
from slipstream.runtime.tokens import new_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CLAIM_S = 1.0  # whoever looks holds the lock for a moment
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
        lock: Held.
        record: To be published.
    """

    def __init__(self, lock: IO[bytes], record: ServerRecord) -> None:
        self._lock = lock
        self.record = record
        self._write()

    def publish(self, url: str, port: int) -> None:
        """Say that the server answers at `url`."""
        self.record = msgspec.structs.replace(self.record, url=url, port=port)
        self._write()

    def release(self) -> None:
        """Give up the hold before the process ends."""
        self._lock.close()

    def _write(self) -> None:
        replace_file(_file(), msgspec.json.encode(self.record) + b"\n")


def claim(version: str) -> Claim | None:
    """Become the server the command line knows.

    Returns:
        The hold on the record; None where another server of this user has it.

    Raises:
        StoreError: SLIPSTREAM_HOME cannot be written.
    """
    lock = open_lock(_lock())
    if not try_lock(lock, _CLAIM_S):
        lock.close()
        return None
    record = ServerRecord(pid=os.getpid(), key=new_secret(), version=version, started_s=time.time())
    return Claim(lock, record)


def find() -> ServerRecord | None:
    """Return the server of this user that runs, also while it does not answer yet."""
    try:
        record = msgspec.json.decode(_file().read_bytes(), type=ServerRecord)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if _is_held() else None


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
    if not wait(lambda: not _is_held(), _STOP_S):
        message = f"the server did not end within {_STOP_S:g} s; `kill -9 {record.pid}` ends it"
        raise ServerError(message)


def _is_held() -> bool:
    if not _lock().exists():
        return False
    with open_lock(_lock()) as file:
        return not try_lock(file, shared=True)


def _file() -> Path:
    return home() / "server.json"


def _lock() -> Path:
    return home() / "server.lock"
