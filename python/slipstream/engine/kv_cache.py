"""Who holds which KV cells: one sequence per running request, finished ones kept as cached prefixes. No scheduling."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from slipstream.base.errors import SlipstreamError
from slipstream.engine.prefix_tree import PrefixMatch, PrefixTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.engine.prefix_store import PrefixStore, StoredPrefix
    from slipstream.engine.runner import ModelRunner

    Stored = tuple[StoredPrefix, int]  # and how many of its tokens are wanted

_log = logging.getLogger(__name__)
# Without an empty sequence to share its prefix with, an idle one is cut and taken over if that loses so few tokens.
_MAX_LOST = 16
# Where nothing can be shared: at most this many lost for each one reused. A turn that drops the previous turn's
# reasoning stays below it; a common system prompt alone does not cost a long conversation.
_MAX_LOST_PER_REUSED = 4


class KVCache:
    """Accounts for cells and sequence ids, and keeps the runner's memory in line with the accounts.

    ::

        cells     | live: some request's tokens | idle: only cached prefixes hold them | free  |
                  0              num_live_cells                           num_used_cells       num_kv_cells

        seq_ids   empty --allocate--> live --release--> idle --evict--> empty
                                       ^                  |
                                       '----allocate------'   (trimmed to the common prefix)

    A cell may belong to several sequences, live and idle ones, and counts once. `find` says what a prompt can have,
    `allocate` gives it: an idle sequence that is taken over, or an empty one that shares the prefix of another.
    Memory that cannot share (`RunnerInfo.can_share`) only has the former, and its prefixes are found by comparing
    with each idle sequence.

    Everything but the numbers is for the engine thread.

    What is evicted goes to the store of second tiers, where there is one, and comes back from there with `restore`.

    Args:
        runner: Its `info`, `trim`, `copy_prefix`, `save_state` and `load_state` are used.
        store: The second tiers.

    Attributes:
        num_evicted_tokens: That cached prefixes have lost to make room, so far.
        num_restored_tokens: That came back from the store, so far.
    """

    def __init__(self, runner: ModelRunner, store: PrefixStore | None = None) -> None:
        info = runner.info
        self._runner = runner
        self._store = store
        self.num_evicted_tokens = self.num_restored_tokens = 0
        self._num_kv_cells = info.num_kv_cells
        self._max_num_seqs = info.max_num_seqs
        self._can_trim = info.can_trim
        self.can_share = info.can_share
        self.reset_accounts()

    def reset_accounts(self) -> None:
        """Forget everything without touching the runner."""
        self._tree = PrefixTree(self._max_num_seqs)
        self._empty = list(range(self._max_num_seqs - 1, -1, -1))
        self._live: set[int] = set()
        self._idle: dict[int, None] = {}  # least recently used first

    @property
    def num_live_cells(self) -> int:
        """Cells that requests hold."""
        return self._tree.num_live_cells

    @property
    def num_idle_cells(self) -> int:
        """Cells that only cached prefixes hold."""
        return self._tree.num_idle_cells

    @property
    def num_free_cells(self) -> int:
        """Cells that hold nothing."""
        return self._num_kv_cells - self._tree.num_live_cells - self._tree.num_idle_cells

    def fits(self, num_tokens: int) -> bool:
        """Tell whether that many further cells could be had by evicting every idle sequence."""
        return self._tree.num_live_cells + num_tokens <= self._num_kv_cells

    def find(self, token_ids: Sequence[int]) -> PrefixMatch:
        """Find the longest prefix of a prompt in memory. Changes nothing.

        One token is always left to compute, as logits come from computing.
        """
        limit = len(token_ids) - 1
        if self.can_share:
            return self._tree.longest_match(token_ids, limit)
        best, best_seq_id = 0, -1
        for seq_id in self._idle:
            num_cached = self._tree.num_tokens(seq_id)
            num_common = self._num_reusable(seq_id, token_ids)
            if num_common > best and num_cached - num_common <= _MAX_LOST_PER_REUSED * num_common:
                best_seq_id, best = seq_id, num_common
        return PrefixMatch(best, 0, frozenset([best_seq_id])) if best else PrefixMatch()

    def allocate(self, token_ids: Sequence[int], match: PrefixMatch) -> tuple[int, int] | None:
        """Make a sequence live for a new request, with what `find` has found for it.

        Args:
            token_ids: The request's tokens. Kept, not copied; the request appends what it computes further.
            match: What `find(token_ids)` has just returned.

        Returns:
            (seq_id, num_cached_tokens): the sequence holds that many of `token_ids`. None if every sequence is live.
        """
        seq_id = self._idle_to_take_over(match)
        num_cached = match.num_tokens
        if seq_id < 0 and self._empty:
            seq_id = self._empty.pop()
            self._make_live(seq_id, token_ids)
            return seq_id, self.share(seq_id, match)
        if seq_id < 0:
            if not self._idle:
                return None
            seq_id = next(iter(self._idle))  # least recently used
            self._give_up(seq_id)
            if self.can_share and seq_id not in match.owners:
                self._runner.trim(seq_id, 0)
                self._tree.truncate(seq_id, 0)
                self._make_live(seq_id, token_ids)
                return seq_id, self.share(seq_id, match)
            if not self.can_share:
                num_cached = self._num_reusable(seq_id, token_ids)
        if num_cached < self._tree.num_tokens(seq_id):
            if not self._runner.trim(seq_id, num_cached):
                self._runner.trim(seq_id, 0)
                num_cached = 0
            self._tree.truncate(seq_id, num_cached)
        self._make_live(seq_id, token_ids)
        return seq_id, num_cached

    def find_stored(self, token_ids: Sequence[int], match: PrefixMatch) -> Stored | None:
        """Find a prefix in the second tiers that is so much longer than `match` that it is worth bringing back."""
        return self._store.find(token_ids, match.num_tokens) if self._store else None

    def allocate_empty(self, token_ids: Sequence[int]) -> int:
        """Make an empty sequence live for a new request; -1 if every sequence is live."""
        if not self._empty:
            if not self._idle:
                return -1
            seq_id = next(iter(self._idle))
            del self._idle[seq_id]
            self._give_up(seq_id)
            self._drop(seq_id)
        seq_id = self._empty.pop()
        self._make_live(seq_id, token_ids)
        return seq_id

    def restore(self, seq_id: int, token_ids: Sequence[int], stored: Stored) -> int:
        """Bring a stored prefix back into an empty live sequence.

        Args:
            seq_id: The sequence.
            token_ids: What its request has to compute.
            stored: What `find_stored(token_ids)` has just returned.

        Returns:
            Tokens it holds now; 0 if the state is gone or does not fit, or there is no room.
        """
        assert self._store is not None
        entry, num_common = stored
        num_tokens = len(entry.token_ids)
        if self.make_room(num_tokens) < num_tokens:
            return 0
        state = self._store.read(entry)
        if state is None:
            return 0
        try:
            self._runner.load_state(seq_id, state)
            is_loaded = num_common == num_tokens or self._runner.trim(seq_id, num_common)
        except SlipstreamError as error:
            _log.warning("a stored prefix of %d tokens cannot be restored: %s", num_tokens, error)
            self._store.discard(entry)
            is_loaded = False
        if not is_loaded:
            self._runner.trim(seq_id, 0)
            return 0
        self._tree.rename(seq_id, token_ids)
        self._tree.extend(seq_id, num_common)
        self.num_restored_tokens += num_common
        return num_common

    def store_idle(self) -> bool:
        """Copy one cached prefix that is not stored yet to the second tiers; False if there is none."""
        return any(self._keep(seq_id) for seq_id in self._idle)

    def stash(self, seq_id: int) -> bool:
        """Copy what a live sequence holds to the second tiers, before it is cleared; False if it is not worth it."""
        return self._keep(seq_id)

    def _keep(self, seq_id: int) -> bool:
        """Copy a sequence to the second tiers, if there are any and it is worth it."""
        if self._store is None:
            return False
        token_ids = self._tree.token_ids(seq_id)
        if min(token_ids, default=0) < 0:
            return False  # a state does not tell the positions of its pictures
        try:
            return self._store.put(token_ids, lambda: self._runner.save_state(seq_id, token_ids))
        except SlipstreamError as error:
            _log.warning("a prefix of %d tokens cannot be stored: %s", len(token_ids), error)
            return False

    def _give_up(self, seq_id: int) -> None:
        """Note that a cached prefix is about to lose its cells."""
        self.num_evicted_tokens += self._tree.num_tokens(seq_id)
        self._keep(seq_id)

    def share(self, seq_id: int, match: PrefixMatch) -> int:
        """Let an empty live sequence hold what was found; return how many tokens that are.

        None, if the sliding window has moved on in every sequence that held them.
        """
        if not match.num_tokens or not self.can_share:
            return 0
        for owner in match.owners & self._idle.keys():  # they are the most recently used now
            del self._idle[owner]
            self._idle[owner] = None
        for source in sorted(match.owners):
            if self._runner.copy_prefix(source, seq_id, match.num_tokens):
                self._tree.share(source, seq_id, match.num_tokens)
                return match.num_tokens
        return 0

    def append(self, seq_id: int, num_tokens: int) -> None:
        """Account for tokens a step has added to a live sequence."""
        self._tree.extend(seq_id, num_tokens)

    def clear(self, seq_id: int) -> None:
        """Empty a live sequence; it stays with its request."""
        self._runner.trim(seq_id, 0)
        self._tree.truncate(seq_id, 0)

    def truncate(self, seq_id: int, num_tokens: int) -> None:
        """Keep only the first `num_tokens` tokens of a live sequence. Needs memory that can be trimmed."""
        self._runner.trim(seq_id, num_tokens)
        self._tree.truncate(seq_id, num_tokens)

    def rewrite(self, seq_id: int, token_ids: Sequence[int], num_kept: int) -> int:
        """Let a live sequence go on with other tokens.

        Args:
            seq_id: The sequence.
            token_ids: Of its request from now on; the first `num_kept` are those it holds.
            num_kept: Tokens it may keep.

        Returns:
            Tokens it holds now: `num_kept`, or 0 if this memory cannot drop only the others.
        """
        if not (self._can_trim and self._runner.trim(seq_id, num_kept)):
            num_kept = 0
            self._runner.trim(seq_id, 0)
        self._tree.truncate(seq_id, num_kept)
        self._tree.rename(seq_id, token_ids)
        return num_kept

    def release(self, seq_id: int) -> None:
        """Take a sequence back from its request and keep what it holds as a cached prefix, if it is the only one."""
        self._live.remove(seq_id)
        self._tree.set_live(seq_id, False)
        if self._tree.is_covered(seq_id):
            self._drop(seq_id)
        else:
            self._idle[seq_id] = None

    def make_room(self, num_cells: int) -> int:
        """Evict idle sequences, least recently used first, until that many cells are free.

        Returns:
            The number of free cells, maybe too few.
        """
        while self.num_free_cells < num_cells and self.evict():
            pass
        return self.num_free_cells

    def evict(self) -> bool:
        """Drop the least recently used idle sequence with cells of its own; False if there is none.

        Cells that other sequences hold, too, stay theirs.
        """
        for seq_id in self._idle:
            if self._tree.is_idle_in_part(seq_id):
                del self._idle[seq_id]
                self._give_up(seq_id)
                self._drop(seq_id)
                return True
        return False

    def reset(self) -> None:
        """Empty every sequence, live ones too, and forget whose they were."""
        for seq_id in range(self._max_num_seqs):
            self._runner.trim(seq_id, 0)
        self.reset_accounts()

    def check_integrity(self, live: dict[int, int]) -> None:
        """Assert that the accounts add up. For tests.

        Args:
            live: seq_id -> computed tokens, as the requests have it.
        """
        assert {seq_id: self._tree.num_tokens(seq_id) for seq_id in self._live} == live
        seq_ids = [*self._empty, *self._live, *self._idle]
        assert sorted(seq_ids) == list(range(self._max_num_seqs)), seq_ids
        assert all(self._tree.num_tokens(seq_id) for seq_id in self._idle)
        assert not any(self._tree.num_tokens(seq_id) for seq_id in self._empty)
        assert self.num_free_cells >= 0
        self._tree.check_integrity()
        if self._store is not None:
            self._store.check_integrity()

    def idle_sequences(self) -> dict[int, list[int]]:
        """Return seq_id -> tokens of the cached prefixes, least recently used first. A copy, for tests."""
        return {seq_id: self._tree.token_ids(seq_id) for seq_id in self._idle}

    def _make_live(self, seq_id: int, token_ids: Sequence[int]) -> None:
        self._idle.pop(seq_id, None)
        self._live.add(seq_id)
        self._tree.rename(seq_id, token_ids)
        self._tree.set_live(seq_id, True)

    def _drop(self, seq_id: int) -> None:
        """Empty a sequence that is nobody's."""
        self._runner.trim(seq_id, 0)
        self._tree.truncate(seq_id, 0)
        self._tree.rename(seq_id, ())
        self._empty.append(seq_id)

    def _idle_to_take_over(self, match: PrefixMatch) -> int:
        """Return the idle sequence that loses nothing by becoming the prefix found, or too little to count; else -1."""
        if not self.can_share:
            return min(match.owners, default=-1)
        lost, seq_id = min(
            (
                (self._tree.num_tokens(owner) - match.num_tokens, owner)
                for owner in match.owners & self._idle.keys()
            ),
            default=(0, -1),
        )
        return seq_id if lost <= (0 if self._empty else _MAX_LOST) else -1

    def _num_reusable(self, seq_id: int, token_ids: Sequence[int]) -> int:
        """Return how much of an idle sequence can be kept for a prompt, without sharing."""
        num_common = self._tree.num_common(seq_id, token_ids, len(token_ids) - 1)
        return num_common if self._can_trim or num_common == self._tree.num_tokens(seq_id) else 0
