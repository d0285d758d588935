"""Who holds which KV cells: one sequence per running request, finished ones kept as cached prefixes. No scheduling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.engine.runner import RunnerInfo

# An idle sequence is taken over if it loses at most this many cached tokens for each one that is reused. A turn that
# drops the previous turn's reasoning stays below it; a common system prompt alone does not cost a long conversation.
_MAX_LOST_PER_REUSED = 4
_COMPARE_CHUNK = 256


class KVCache:
    """Accounts for cells and sequence ids, and keeps the runner's memory in line with the accounts.

    ::

        cells     | live: a request's tokens | idle: cached prefixes, nobody's | free              |
                  0           num_live_cells                      num_used_cells      num_kv_cells

        seq_ids   empty --allocate--> live --release--> idle --evict--> empty
                                       ^                  |
                                       '----allocate------'   (trimmed to the common prefix)

    Prefixes are found by comparing a prompt with every idle sequence, O(idle sequences + common tokens) per
    admission. How they are found is nobody else's business: `allocate` answers with a sequence and how many of the
    prompt's tokens it holds already.

    Everything but the numbers is for the engine thread.

    Args:
        info: What the runner can hold.
        trim: `ModelRunner.trim`.
    """

    def __init__(self, info: RunnerInfo, trim: Callable[[int, int], bool]) -> None:
        self._num_kv_cells = info.num_kv_cells
        self._max_num_seqs = info.max_num_seqs
        self._can_trim = info.can_trim
        self._trim = trim
        self._empty = list(range(info.max_num_seqs - 1, -1, -1))
        self._live: dict[int, int] = {}  # seq_id -> cells
        self._idle: dict[int, list[int]] = {}  # seq_id -> its tokens, least recently used first
        self.num_live_cells = 0
        self.num_idle_cells = 0

    @property
    def num_free_cells(self) -> int:
        """Cells that hold nothing."""
        return self._num_kv_cells - self.num_live_cells - self.num_idle_cells

    def fits(self, num_tokens: int) -> bool:
        """Tell whether that many further cells could be had by evicting every idle sequence."""
        return self.num_live_cells + num_tokens <= self._num_kv_cells

    def allocate(self, token_ids: Sequence[int]) -> tuple[int, int] | None:
        """Find a sequence for a new request and make it live.

        Args:
            token_ids: What the request wants computed, its prompt.

        Returns:
            (seq_id, num_cached_tokens): the sequence holds that many of `token_ids`, always fewer than all, so that
            computing the rest gives logits. None if every sequence is live.
        """
        seq_id, num_common = self._find_prefix(token_ids)
        if seq_id < 0 and self._empty:
            seq_id = self._empty.pop()
            self._live[seq_id] = 0
            return seq_id, 0
        if seq_id < 0:
            if not self._idle:
                return None
            seq_id = next(iter(self._idle))
            num_common = self._num_reusable(self._idle[seq_id], token_ids)
        num_cached = len(self._idle.pop(seq_id))
        self.num_idle_cells -= num_cached
        if num_common < num_cached and not self._trim(seq_id, num_common):
            self._trim(seq_id, 0)
            num_common = 0
        self._live[seq_id] = num_common
        self.num_live_cells += num_common
        return seq_id, num_common

    def append(self, seq_id: int, num_tokens: int) -> None:
        """Account for tokens a step has added to a live sequence."""
        self._live[seq_id] += num_tokens
        self.num_live_cells += num_tokens

    def clear(self, seq_id: int) -> None:
        """Empty a live sequence; it stays with its request."""
        self._trim(seq_id, 0)
        self.num_live_cells -= self._live[seq_id]
        self._live[seq_id] = 0

    def release(self, seq_id: int, token_ids: list[int]) -> None:
        """Take a sequence back from its request and keep what it holds as a cached prefix.

        Args:
            seq_id: A live sequence.
            token_ids: The tokens in its cells; ownership passes to the cache.
        """
        num_cells = self._live.pop(seq_id)
        assert len(token_ids) == num_cells, (len(token_ids), num_cells)
        self.num_live_cells -= num_cells
        if num_cells:
            self._idle[seq_id] = token_ids
            self.num_idle_cells += num_cells
        else:
            self._empty.append(seq_id)

    def make_room(self, num_cells: int) -> int:
        """Evict idle sequences, least recently used first, until that many cells are free.

        Returns:
            The number of free cells, maybe too few.
        """
        while self.num_free_cells < num_cells and self.evict():
            pass
        return self.num_free_cells

    def evict(self) -> bool:
        """Drop the least recently used idle sequence; False if there is none."""
        if not self._idle:
            return False
        seq_id = next(iter(self._idle))
        self._trim(seq_id, 0)
        self.num_idle_cells -= len(self._idle.pop(seq_id))
        self._empty.append(seq_id)
        return True

    def reset(self) -> None:
        """Empty every sequence, live ones too, and forget whose they were."""
        for seq_id in range(self._max_num_seqs):
            self._trim(seq_id, 0)
        self._empty = list(range(self._max_num_seqs - 1, -1, -1))
        self._live.clear()
        self._idle.clear()
        self.num_live_cells = self.num_idle_cells = 0

    def check_integrity(self, live: dict[int, int]) -> None:
        """Assert that the accounts add up. For tests.

        Args:
            live: seq_id -> computed tokens, as the requests have it.
        """
        assert self._live == live, (self._live, live)
        seq_ids = [*self._empty, *self._live, *self._idle]
        assert sorted(seq_ids) == list(range(self._max_num_seqs)), seq_ids
        assert self.num_live_cells == sum(self._live.values())
        assert self.num_idle_cells == sum(map(len, self._idle.values()))
        assert all(self._idle.values())
        assert self.num_free_cells >= 0

    def idle_sequences(self) -> dict[int, list[int]]:
        """Return seq_id -> tokens of the cached prefixes, least recently used first. A copy, for tests."""
        return {seq_id: list(token_ids) for seq_id, token_ids in self._idle.items()}

    def _find_prefix(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """Return the idle sequence worth taking over that shares most with `token_ids`, or (-1, 0)."""
        best_seq_id, best = -1, 0
        for seq_id, cached in self._idle.items():
            num_common = self._num_reusable(cached, token_ids)
            if num_common > best and len(cached) - num_common <= _MAX_LOST_PER_REUSED * num_common:
                best_seq_id, best = seq_id, num_common
        return best_seq_id, best

    def _num_reusable(self, cached: list[int], token_ids: Sequence[int]) -> int:
        num_common = min(_num_common(cached, token_ids), len(token_ids) - 1)
        if not self._can_trim and num_common < len(cached):
            return 0
        return num_common


def _num_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common prefix; whole chunks are compared at C speed."""
    end = min(len(left), len(right))
    start = 0
    while (
        start < end
        and left[start : start + _COMPARE_CHUNK] == right[start : start + _COMPARE_CHUNK]
    ):
        start += _COMPARE_CHUNK
    start = min(start, end)
    while start < end and left[start] == right[start]:
        start += 1
    return start
