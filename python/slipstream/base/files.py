"""Small files that several processes read and write: replaced as a whole, edited under a lock, re-read when changed."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Generic, TypeVar

from slipstream.base.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Value = TypeVar("Value")
PRIVATE = 0o600
_POLL_S = 0.01


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that only this user may read. Whoever reads it sees the old text or the new one, never a part.

    Raises:
        StoreError: the disk is full, or the folder cannot be written; the old file is as it was.
    """
    replace_file_locked(path, data).close()


def replace_file_locked(path: Path, data: bytes) -> IO[bytes]:
    """Do as `replace_file`, and hold a lock on the new file from before it is there.

    Returns:
        The open file; closing it, or the end of the process, gives up the lock.

    Raises:
        StoreError: as `replace_file`.
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mkstemp makes it 0600 from the start
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        partial = Path(name)
        file = os.fdopen(handle, "w+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        message = f"{path} cannot be written: {error.strerror or error}"
        raise StoreError(message) from error
    return file


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way and return its new name.

    Raises:
        StoreError: it cannot be moved.
    """
    target = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.replace(target)
    except OSError as error:
        message = f"{path} cannot be moved: {error.strerror or error}"
        raise StoreError(message) from error
    return target


@contextmanager
def locked(path: Path, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold the lock file at `path`, which only processes of this function respect.

    Raises:
        StoreError: another process holds it for longer than `timeout_s`, or it cannot be made.
    """
    with open_lock(path) as file:
        if not try_lock(file, timeout_s):
            message = f"{path} is held by another process for more than {timeout_s:g} s"
            raise StoreError(message)
        yield


def open_lock(path: Path) -> IO[bytes]:
    """Open a lock file, making it if need be; closing it gives up the lock.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE), "r+b")
    except OSError as error:
        message = f"{path} cannot be opened: {error.strerror or error}"
        raise StoreError(message) from error


def try_lock(file: IO[bytes], timeout_s: float = 0.0, *, shared: bool = False) -> bool:
    """Lock an open file until it is closed or its process ends, however that ends.

    Args:
        file: From `open_lock`.
        timeout_s: How long to wait for whoever holds it.
        shared: Beside other shared locks.

    Returns:
        Whether it is locked now.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_POLL_S)


class WatchedFile(Generic[Value]):
    """What a file says, read again when it has changed; asking costs a stat, about 2 us.

    Args:
        path: Of the file.
        parse: Makes the value of the bytes; of None where there is no file.
    """

    def __init__(self, path: Path, parse: Callable[[bytes | None], Value]) -> None:
        self._path = path
        self._parse = parse
        self._seen: tuple[int, ...] | None = None
        self._value: Value

    def read(self) -> Value:
        """Return the value. What `parse` raises is raised again at every call until the file is mended.

        Raises:
            OSError: the file is there and cannot be read.
        """
        found: tuple[int, ...] = ()
        try:
            stat = self._path.stat()
            found = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            pass
        if found != self._seen:
            self._seen = None
            self._value = self._parse(self._path.read_bytes() if found else None)
            self._seen = found
        return self._value
