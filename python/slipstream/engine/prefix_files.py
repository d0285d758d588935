"""States of prefixes in a folder: written by a thread, atomically, within a budget. Knows no engine."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import stat
import struct
import threading
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

_log = logging.getLogger(__name__)
# | magic | number of tokens, u32 little endian | tokens, int32 | state |
_MAGIC = b"SLPPFX1\n"
_HEAD = struct.Struct("<8sI")
_MAX_TOKENS = 1 << 24
_MAX_QUEUED = 8  # states that wait to be written hold memory
_SUFFIX = ".prefix"
_PARTIAL_SUFFIX = ".tmp"  # behind the numbers of the process and the thread that write it


class PrefixFiles:
    """One folder of states of one model and build. Files it cannot make sense of are removed.

    `write` hands over to a thread; everything else is done at once, on the caller's. One caller. Other processes may
    use the folder at the same time: what they write counts here, too, and what they remove is gone. A file that cannot
    be read, marked as used or deleted is done without; nothing is raised for it.

    Args:
        folder: Made if it is not there, for this user only: the files hold what prompts said.
        max_bytes: Of all files; the least recently used go first.

    Attributes:
        num_bytes: Of the files there are or will be.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: dict[Path, int] = {}  # least recently used first
        self._pending: dict[Path, bytes] = {}  # not written yet
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[Path, bytes] | None] = queue.Queue(_MAX_QUEUED)
        self._thread: threading.Thread | None = None
        self.num_bytes = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def scan(self) -> list[tuple[Path, list[int], int]]:
        """Return the files of earlier runs, least recently used first: path, tokens and size in bytes of each.

        Raises:
            OSError: the folder cannot be read.
        """
        for path in self._folder.glob("*" + _PARTIAL_SUFFIX):
            if _is_abandoned(path):
                _delete(path)
        files = []
        for path, size in self._list():
            try:
                token_ids = _read_tokens(path)
            except OSError as error:
                _log.warning("%s cannot be read: %s", path, error)
                continue
            except (ValueError, EOFError, struct.error):
                _log.warning("%s is no cached prefix; it is removed", path)
                _delete(path)
                continue
            files.append((path, token_ids, size))
            self._sizes[path] = size
        self.num_bytes = sum(self._sizes.values())
        return files

    def fits(self, num_tokens: int, num_state_bytes: int) -> bool:
        """Tell whether a state is small enough to be kept at all."""
        return _HEAD.size + 4 * num_tokens + num_state_bytes <= self._max_bytes

    def write(self, token_ids: Sequence[int], state: bytes) -> Path | None:
        """Keep a state; return the file it will be in, None if it cannot be taken now."""
        tokens = array("i", token_ids)
        name = hashlib.sha256(tokens.tobytes()).hexdigest()[:32]
        path = self._folder / (name + _SUFFIX)
        if not self.fits(len(tokens), len(state)):
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="slipstream-files", daemon=True)
            self._thread.start()
        if self._queue.full():
            return None
        content = _HEAD.pack(_MAGIC, len(tokens)) + tokens.tobytes() + state
        with self._lock:
            self.num_bytes += len(content) - self._sizes.pop(path, 0)
            self._sizes[path] = len(content)
            self._pending[path] = state
        self._queue.put_nowait((path, content))  # there is one caller
        return path

    def read(self, path: Path) -> bytes | None:
        """Return the state in a file, None if it is gone or damaged, which removes it."""
        with self._lock:
            if path in self._pending:
                return self._pending[path]
        try:
            with path.open("rb") as file:
                file.seek(4 * _read_num_tokens(file), os.SEEK_CUR)
                state = file.read()
        except (OSError, ValueError, struct.error):
            self.remove(path)
            return None
        with contextlib.suppress(OSError):  # the folder may be there to be read only
            os.utime(path)
        with self._lock:
            if path in self._sizes:
                self._sizes[path] = self._sizes.pop(path)
        return state

    def remove(self, path: Path) -> None:
        """Forget a file and delete it."""
        with self._lock:
            self.num_bytes -= self._sizes.pop(path, 0)
            self._pending.pop(path, None)
        _delete(path)

    def trim(self) -> list[Path]:
        """Delete files until the rest is within the budget, those of other processes too; return which."""
        self._look_around()
        removed = []
        while (path := self._oldest_too_many()) is not None:
            self.remove(path)
            removed.append(path)
        return removed

    def _oldest_too_many(self) -> Path | None:
        with self._lock:  # the writer forgets what it could not write
            is_over = self.num_bytes > self._max_bytes and len(self._sizes) > 1
            return next(iter(self._sizes)) if is_over else None

    def close(self, timeout_s: float) -> None:
        """Wait for what is being written, but no longer than `timeout_s`. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                self._queue.put(None, timeout=timeout_s)
            except queue.Full:
                return
            thread.join(timeout_s)

    def _run(self) -> None:
        writer = f"{os.getpid()}-{threading.get_native_id()}"
        while (item := self._queue.get()) is not None:
            path, content = item
            partial = path.with_suffix(f".{writer}{_PARTIAL_SUFFIX}")
            try:
                descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                with self._lock:  # unless it was removed meanwhile
                    if self._pending.pop(path, None) is not None:
                        partial.replace(path)
            except OSError as error:
                _log.warning("a prefix cannot be kept in %s: %s", path, error)
                with self._lock:
                    self.num_bytes -= self._sizes.pop(path, 0)
                    self._pending.pop(path, None)
            _delete(partial)

    def _list(self) -> list[tuple[Path, int]]:
        """Return the files in the folder and their sizes, least recently used first."""
        found = []
        for path in self._folder.iterdir():
            if path.suffix == _SUFFIX:
                with contextlib.suppress(OSError):  # removed by another process
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime_ns, path, status.st_size))
        return [(path, size) for _, path, size in sorted(found)]

    def _look_around(self) -> None:
        """Take over what other processes have done to the folder."""
        with self._lock:
            try:
                found = dict(self._list())
            except OSError:
                return
            known = {
                path: size
                for path, size in self._sizes.items()
                if path in found or path in self._pending
            }
            self._sizes = {path: size for path, size in found.items() if path not in known} | known
            self.num_bytes = sum(self._sizes.values())


def _read_num_tokens(file: BinaryIO) -> int:
    """Read the head of a file.

    Raises:
        ValueError: it is none (struct.error likewise).
    """
    magic, num_tokens = _HEAD.unpack(file.read(_HEAD.size))
    if magic != _MAGIC or num_tokens > _MAX_TOKENS:
        raise ValueError(magic)
    return int(num_tokens)


def _read_tokens(path: Path) -> list[int]:
    """Read the tokens of a file; raises what opening and `_read_num_tokens` do, or EOFError."""
    with path.open("rb") as file:
        tokens = array("i")
        tokens.fromfile(file, _read_num_tokens(file))
    return tokens.tolist()


def _delete(path: Path) -> None:
    """Delete a file if that is possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s cannot be deleted: %s", path, error)


def _is_abandoned(partial: Path) -> bool:
    """Tell whether the process that was writing a file is gone."""
    pid = partial.stem.rpartition(".")[2].partition("-")[0]
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return False  # another user's
    except (ValueError, OverflowError, OSError):
        return True
    return False
