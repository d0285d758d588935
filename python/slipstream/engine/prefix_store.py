"""The second tiers of the prefix cache: states of sequences in host memory, and in files. Knows no cells."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.engine.prefix_tree import num_common_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slipstream.engine.prefix_files import PrefixFiles

_log = logging.getLogger(__name__)
_HEAD_TOKENS = 32  # entries are found by their first tokens
LEAST_TOKENS = 64
_MEMORY_BYTES_PER_S = 1e9  # of saving and restoring, before either was measured
_FILE_BYTES_PER_S = 3e8
_ALPHA = 0.2  # weight of a new measurement


@dataclass(slots=True, eq=False)
class StoredPrefix:
    """The state of a sequence of these tokens.

    Attributes:
        token_ids: All its tokens.
        num_bytes: Of the state.
        state: In host memory; None if it is only in the file.
        path: Of the file; None if it is only in host memory.
        was_written: It has been in a file, which may have had to go since.
    """

    token_ids: list[int]
    num_bytes: int
    state: bytes | None
    path: Path | None
    was_written: bool = False


class PrefixStore:
    """Keeps what the KV cache has no room for, as long as bringing it back is quicker than computing it.

    ::

        KV cache --evicted or preempted--> host memory, LRU within max_bytes --spilled--> files, if there are any
                 <------------------ restored by the next prompt that begins alike ------------------'

    All on the engine thread.

    Args:
        max_bytes: Of host memory.
        files: The tier below; None for none. Done without, with a warning, if the folder cannot be read.
        can_trim: Whether a restored sequence can be cut to what a prompt has in common with it.
        recompute_s: Seconds that computing so many tokens would take; None while nobody knows.
        least_tokens: Of a prefix that is kept or brought back.
        clock: Seconds.

    Attributes:
        num_host_bytes: Held in host memory.
        num_host_hits: Prefixes restored from host memory.
        num_file_hits: Prefixes restored from files.
    """

    def __init__(
        self,
        max_bytes: int,
        files: PrefixFiles | None,
        *,
        can_trim: bool,
        recompute_s: Callable[[int], float | None],
        least_tokens: int = LEAST_TOKENS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._max_bytes = max_bytes
        self._files = files
        self._can_trim = can_trim
        self._recompute_s = recompute_s
        self._least_tokens = least_tokens
        self._num_head_tokens = min(_HEAD_TOKENS, least_tokens)
        self._clock = clock
        self._by_head: dict[tuple[int, ...], list[StoredPrefix]] = {}
        self._in_memory: dict[StoredPrefix, None] = {}  # least recently used first
        self._by_path: dict[Path, StoredPrefix] = {}
        self._bytes_per_token = 0.0
        self._most_tokens = sys.maxsize  # longer ones are known to be larger than `max_bytes`
        self._memory_rate = _MEMORY_BYTES_PER_S
        self._file_rate = _FILE_BYTES_PER_S
        self.num_host_bytes = self.num_host_hits = self.num_file_hits = 0
        if files is not None:
            try:
                for path, token_ids, num_bytes in files.scan():
                    self._index(StoredPrefix(token_ids, num_bytes, None, path))
            except OSError as error:
                _log.warning("prefixes are not kept in files: %s", error)
                self._files = None

    @property
    def num_file_bytes(self) -> int:
        """Held in files."""
        return self._files.num_bytes if self._files else 0

    @property
    def has_files(self) -> bool:
        """Whether what is stored survives this process."""
        return self._files is not None

    def is_worth_storing(self, token_ids: Sequence[int]) -> bool:
        """Tell whether so many tokens are kept, are cheaper to copy twice than to compute, and not stored yet."""
        num_tokens = len(token_ids)
        if not self._least_tokens <= num_tokens <= self._most_tokens:
            return False
        cost_s = 2 * num_tokens * self._bytes_per_token / self._memory_rate
        recompute_s = self._recompute_s(num_tokens)
        if recompute_s is not None and recompute_s <= cost_s:
            return False
        entry, num_common = self._longest(token_ids, num_tokens)
        return entry is None or num_common < num_tokens

    def put(self, token_ids: Sequence[int], save: Callable[[], bytes]) -> bool:
        """Keep a state if it is worth it and there is room.

        Args:
            token_ids: Of the sequence.
            save: Returns its state.
        """
        if not self.is_worth_storing(token_ids):
            return False
        begin_s = self._clock()
        state = save()
        self._memory_rate += _ALPHA * (
            len(state) / max(self._clock() - begin_s, 1e-6) - self._memory_rate
        )
        num_tokens = len(token_ids)
        self._bytes_per_token = len(state) / num_tokens
        if len(state) > self._max_bytes:
            # Only memory that can be cut grows with each token.
            fitting = self._max_bytes / self._bytes_per_token if self._can_trim else num_tokens - 1
            self._most_tokens = min(self._most_tokens, int(fitting))
            return False
        entry = StoredPrefix(list(token_ids), len(state), state, None)
        if self._can_trim:
            for other in self._siblings(token_ids):
                size = len(other.token_ids)
                if size <= len(token_ids) and other.token_ids == entry.token_ids[:size]:
                    self.discard(other)
        self._index(entry)
        self._in_memory[entry] = None
        self.num_host_bytes += entry.num_bytes
        while self.num_host_bytes > self._max_bytes:
            self._spill(next(iter(self._in_memory)))
        return True

    def find(self, token_ids: Sequence[int], num_found: int) -> tuple[StoredPrefix, int] | None:
        """Find a stored prefix that is worth bringing back.

        Args:
            token_ids: Of a prompt; at least one is left to compute.
            num_found: Tokens the KV cache has already.

        Returns:
            The entry and how many of the tokens it begins with; None if computing them is quicker.
        """
        entry, num_common = self._longest(token_ids, len(token_ids) - 1)
        if entry is None or num_common - num_found < self._least_tokens:
            return None
        cost_s = entry.num_bytes / self._memory_rate
        if entry.state is None:
            cost_s += entry.num_bytes / self._file_rate
        recompute_s = self._recompute_s(num_common - num_found)
        return (entry, num_common) if recompute_s is None or cost_s < recompute_s else None

    def read(self, entry: StoredPrefix) -> bytes | None:
        """Return an entry's state, from wherever it is; None if it is gone."""
        if entry.state is not None:
            self._in_memory[entry] = self._in_memory.pop(entry)
            self.num_host_hits += 1
            return entry.state
        if self._files is None or entry.path is None:
            return None  # discarded since it was found
        begin_s = self._clock()
        state = self._files.read(entry.path)
        if state is None:
            self.discard(entry)
            return None
        self._file_rate += _ALPHA * (
            len(state) / max(self._clock() - begin_s, 1e-6) - self._file_rate
        )
        self.num_file_hits += 1
        return state

    def discard(self, entry: StoredPrefix) -> None:
        """Forget an entry, in both tiers."""
        head = tuple(entry.token_ids[: self._num_head_tokens])
        siblings = self._by_head.get(head, [])
        if entry in siblings:
            siblings.remove(entry)
            if not siblings:
                del self._by_head[head]
        if entry.state is not None:
            del self._in_memory[entry]
            self.num_host_bytes -= entry.num_bytes
            entry.state = None
        if entry.path is not None and self._files is not None:
            self._by_path.pop(entry.path, None)
            self._files.remove(entry.path)
            entry.path = None

    def write_one(self) -> bool:
        """Write one entry that has never been in a file, as soon as one can be written; False if none is left.

        Those that are larger than all files may be stay where they are.
        """
        files = self._files
        if files is None:
            return False
        for entry in self._in_memory:
            if not entry.was_written and files.fits(len(entry.token_ids), entry.num_bytes):
                self._write(entry)
                return True
        return False

    def close(self, timeout_s: float) -> None:
        """Wait for files that are being written, but no longer than `timeout_s`."""
        if self._files is not None:
            self._files.close(timeout_s)

    def check_integrity(self) -> None:
        """Assert that the accounts add up. For tests."""
        entries = [entry for siblings in self._by_head.values() for entry in siblings]
        assert len(entries) == len(set(map(id, entries)))
        assert self.num_host_bytes == sum(e.num_bytes for e in self._in_memory) <= self._max_bytes
        assert {id(e) for e in entries if e.state is not None} == {id(e) for e in self._in_memory}
        assert all(e.state is not None or e.path is not None for e in entries)

    def _spill(self, entry: StoredPrefix) -> None:
        """Take an entry out of host memory: into a file, or away."""
        if entry.path is None and not self._write(entry):
            self.discard(entry)
            return
        if entry.state is not None:
            del self._in_memory[entry]
            self.num_host_bytes -= entry.num_bytes
            entry.state = None

    def _write(self, entry: StoredPrefix) -> bool:
        if self._files is None:
            return False
        assert entry.state is not None
        entry.path = self._files.write(entry.token_ids, entry.state)
        if entry.path is None:
            return False
        entry.was_written = True
        self._by_path[entry.path] = entry
        for path in self._files.trim():
            removed = self._by_path.pop(path, None)
            if removed is not None:
                removed.path = None
                if removed.state is None:
                    self.discard(removed)
        return entry.path is not None

    def _longest(self, token_ids: Sequence[int], limit: int) -> tuple[StoredPrefix | None, int]:
        best, num_best = None, 0
        for entry in self._siblings(token_ids):
            size = len(entry.token_ids)
            num_common = num_common_tokens(entry.token_ids, token_ids, 0, min(size, limit))
            if not self._can_trim and num_common < size:
                continue
            if num_common > num_best:
                best, num_best = entry, num_common
        return best, num_best

    def _siblings(self, token_ids: Sequence[int]) -> list[StoredPrefix]:
        return list(self._by_head.get(tuple(token_ids[: self._num_head_tokens]), ()))

    def _index(self, entry: StoredPrefix) -> None:
        self._by_head.setdefault(tuple(entry.token_ids[: self._num_head_tokens]), []).append(entry)
        if entry.path is not None:
            self._by_path[entry.path] = entry
