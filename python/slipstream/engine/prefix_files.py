"""States of prefixes in a folder: written by a thread, atomically, within a budget. Knows no engine."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import struct
import threading
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)
# | magic | number of tokens, u32 little endian | tokens, int32 | state |
_MAGIC = b"SLPPFX1\n"
_HEAD = struct.Struct("<8sI")
_MAX_TOKENS = 1 << 24
_MAX_QUEUED = 8  # states that wait to be written hold memory
_SUFFIX = ".prefix"


class PrefixFiles:
    """One folder of states of one model and build. Files it cannot make sense of are removed.

    `write` hands over to a thread; everything else is done at once, on the caller's. One caller.

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

    def scan(self) -> list[tuple[Path, list[int]]]:
        """Return the files of earlier runs and the tokens of each, least recently used first.

        Raises:
            OSError: the folder cannot be read.
        """
        found = []
        for path in self._folder.iterdir():
            if path.suffix == _SUFFIX:
                found.append((path.stat().st_mtime, path))
            elif path.suffix == ".tmp":
                path.unlink(missing_ok=True)  # of a process that was killed
        files = []
        for _, path in sorted(found):
            token_ids = self._read_tokens(path)
            if token_ids is None:
                _log.warning("%s is no cached prefix; it is removed", path)
                path.unlink(missing_ok=True)
                continue
            files.append((path, token_ids))
            self._sizes[path] = path.stat().st_size
        self.num_bytes = sum(self._sizes.values())
        return files

    def write(self, token_ids: Sequence[int], state: bytes) -> Path | None:
        """Keep a state; return the file it will be in, None if it cannot be taken now."""
        tokens = array("i", token_ids)
        name = hashlib.sha256(tokens.tobytes()).hexdigest()[:32]
        path = self._folder / (name + _SUFFIX)
        content = _HEAD.pack(_MAGIC, len(tokens)) + tokens.tobytes() + state
        if len(content) > self._max_bytes:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="slipstream-files", daemon=True)
            self._thread.start()
        if self._queue.full():
            return None
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
                head = file.read(_HEAD.size)
                magic, num_tokens = _HEAD.unpack(head)
                if magic != _MAGIC or num_tokens > _MAX_TOKENS:
                    raise ValueError
                file.seek(num_tokens * 4, os.SEEK_CUR)
                state = file.read()
            os.utime(path)
        except (OSError, ValueError, struct.error):
            self.remove(path)
            return None
        with self._lock:
            if path in self._sizes:
                self._sizes[path] = self._sizes.pop(path)
        return state

    def remove(self, path: Path) -> None:
        """Forget a file and delete it."""
        with self._lock:
            self.num_bytes -= self._sizes.pop(path, 0)
            self._pending.pop(path, None)
        path.unlink(missing_ok=True)

    def trim(self) -> list[Path]:
        """Delete files until the rest is within the budget; return which."""
        removed = []
        while self.num_bytes > self._max_bytes and len(self._sizes) > 1:
            path = next(iter(self._sizes))
            self.remove(path)
            removed.append(path)
        return removed

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
        while (item := self._queue.get()) is not None:
            path, content = item
            partial = path.with_suffix(".tmp")
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
            partial.unlink(missing_ok=True)

    def _read_tokens(self, path: Path) -> list[int] | None:
        try:
            with path.open("rb") as file:
                magic, num_tokens = _HEAD.unpack(file.read(_HEAD.size))
                if magic != _MAGIC or num_tokens > _MAX_TOKENS:
                    return None
                tokens = array("i")
                tokens.fromfile(file, num_tokens)
        except (OSError, EOFError, struct.error):
            return None
        return tokens.tolist()
