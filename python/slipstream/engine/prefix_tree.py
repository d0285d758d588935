"""Which sequences hold which cells: a radix tree of shared ranges. Knows no runner, no request and no policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMPARE_CHUNK = 256


@dataclass(slots=True, eq=False)
class Segment:
    """Cells of positions `start` … `end` - 1 that the same sequences hold.

    Attributes:
        token_ids: Of one of its sequences, from position 0; what lies outside the range is not this segment's.
        start: First position.
        end: One past the last position.
        parent: Holds the positions before `start`; None for the root.
        children: What follows, one for each way in which sequences go on.
        owners: Ids of the sequences that hold these cells.
        num_live: How many of the owners are live.
    """

    token_ids: Sequence[int]
    start: int
    end: int
    parent: Segment | None
    children: list[Segment] = field(default_factory=list)
    owners: set[int] = field(default_factory=set)
    num_live: int = 0


@dataclass(slots=True, frozen=True)
class PrefixMatch:
    """The longest prefix of a prompt that some sequence holds.

    Attributes:
        num_tokens: Its length, 0 if there is none.
        num_live_cells: Of its cells, those that a live sequence holds.
        owners: Ids of the sequences that hold all of it.
    """

    num_tokens: int = 0
    num_live_cells: int = 0
    owners: frozenset[int] = frozenset()


class PrefixTree:
    """The accounts of cells that several sequences may hold together. Every cell is counted once.

    ::

        sequence 0   [system prompt][question A][answer A]          leaf 0
        sequence 1   [system prompt][question B]                    leaf 1
        sequence 2   [system prompt]                                leaf 2

        root -- 0..90 {0,1,2} --+-- 90..140 {0}         a segment ends where its owners part
                                '-- 90..120 {1}

    Each sequence is a path from the root down to its leaf, so a longer tail of one sequence concerns its leaf only.
    Sharing and cutting split a segment at most once; segments with the same owners are joined again. Sequences that
    computed the same tokens separately have separate segments with equal content: the tree is one of cells.

    Cost: `extend` O(1); the others O(segments of the path), which is at most the number of sequences;
    `longest_match` O(prompt) for each separate copy of its prefix, compared at C speed.

    Args:
        num_seqs: Sequence ids are 0 … num_seqs - 1. All begin empty and not live.

    Attributes:
        num_live_cells: Cells held by a live sequence.
        num_idle_cells: Cells held, but by no live sequence.
    """

    def __init__(self, num_seqs: int) -> None:
        self._root = Segment((), 0, 0, None)
        self._leaves = [self._root] * num_seqs
        self._token_ids: list[Sequence[int]] = [()] * num_seqs
        self._is_live = [False] * num_seqs
        self.num_live_cells = 0
        self.num_idle_cells = 0

    def num_tokens(self, seq_id: int) -> int:
        """Return the length of a sequence."""
        return self._leaves[seq_id].end

    def token_ids(self, seq_id: int) -> list[int]:
        """Return a copy of a sequence's tokens."""
        return list(self._token_ids[seq_id][: self._leaves[seq_id].end])

    def is_idle_in_part(self, seq_id: int) -> bool:
        """Tell whether some cells of a sequence are held by no live one."""
        leaf = self._leaves[seq_id]
        return leaf is not self._root and not leaf.num_live

    def is_covered(self, seq_id: int) -> bool:
        """Tell whether another sequence holds all its cells, too."""
        leaf = self._leaves[seq_id]
        return leaf is self._root or len(leaf.owners) > 1

    def rename(self, seq_id: int, token_ids: Sequence[int]) -> None:
        """Say whose tokens a sequence holds from now on.

        Args:
            seq_id: The sequence.
            token_ids: Begins with the tokens it holds. It is kept, not copied, and may only grow.
        """
        self._token_ids[seq_id] = token_ids

    def extend(self, seq_id: int, num_tokens: int) -> None:
        """Add computed tokens to a live sequence; they are in its `token_ids` by the next `longest_match`."""
        leaf = self._leaves[seq_id]
        if len(leaf.owners) == 1:
            leaf.end += num_tokens
            leaf.token_ids = self._token_ids[seq_id]  # it was another's while they shared the cells
        elif num_tokens:
            self._leaves[seq_id] = child = Segment(
                self._token_ids[seq_id], leaf.end, leaf.end + num_tokens, leaf, [], {seq_id}, 1
            )
            leaf.children.append(child)
        self.num_live_cells += num_tokens

    def truncate(self, seq_id: int, num_tokens: int) -> None:
        """Let a sequence hold no more than its first `num_tokens` tokens."""
        segment = self._leaves[seq_id]
        remaining: Segment | None = None  # the lowest on the path that others hold
        while segment.end > num_tokens:
            parent = segment.parent
            assert parent is not None
            if segment.start < num_tokens:
                parent = self._split(segment, num_tokens)
            self._drop(segment, seq_id)
            remaining = remaining or (segment if segment.owners else None)
            segment = parent
        self._leaves[seq_id] = segment
        self._join_path(remaining or segment)

    def share(self, source: int, seq_id: int, num_tokens: int) -> None:
        """Let the empty sequence `seq_id` hold the first `num_tokens` cells of `source`, too."""
        assert self._leaves[seq_id] is self._root, seq_id
        segment = self._leaves[source]
        while segment.start >= num_tokens and segment.parent is not None:
            segment = segment.parent
        if segment.end > num_tokens:
            segment = self._split(segment, num_tokens)
        self._leaves[seq_id] = segment
        is_live = self._is_live[seq_id]
        while segment.parent is not None:
            segment.owners.add(seq_id)
            if is_live:
                self._count_live(segment, 1)
            segment = segment.parent

    def set_live(self, seq_id: int, is_live: bool) -> None:
        """Say whether a sequence is live."""
        if self._is_live[seq_id] == is_live:
            return
        self._is_live[seq_id] = is_live
        segment = self._leaves[seq_id]
        while segment.parent is not None:
            self._count_live(segment, 1 if is_live else -1)
            segment = segment.parent

    def num_common(self, seq_id: int, token_ids: Sequence[int], limit: int) -> int:
        """Return how many of the first `limit` of `token_ids` a sequence begins with."""
        end = min(self._leaves[seq_id].end, limit)
        return num_common_tokens(self._token_ids[seq_id], token_ids, 0, end)

    def longest_match(self, token_ids: Sequence[int], limit: int) -> PrefixMatch:
        """Find the longest prefix of `token_ids`, of at most `limit` tokens, that a sequence holds."""
        best, num_best = self._root, 0
        stack = [self._root]
        while stack:
            for child in stack.pop().children:
                end = min(child.end, limit)
                num_common = num_common_tokens(child.token_ids, token_ids, child.start, end)
                if num_common > num_best:
                    best, num_best = child, num_common
                if num_common == child.end:
                    stack.append(child)
        num_live_cells, segment = 0, best
        while segment.parent is not None:
            if segment.num_live:
                num_live_cells += min(segment.end, num_best) - segment.start
            segment = segment.parent
        return PrefixMatch(num_best, num_live_cells, frozenset(best.owners))

    def check_integrity(self) -> None:
        """Assert that the tree is a tree and the counts are right. For tests."""
        num_live_cells = num_idle_cells = 0
        paths: dict[int, int] = dict.fromkeys(range(len(self._leaves)), 0)
        stack = [self._root]
        while stack:
            segment = stack.pop()
            stack += segment.children
            for child in segment.children:
                assert child.parent is segment
                assert child.start == segment.end < child.end
                assert child.owners
                assert segment is self._root or child.owners <= segment.owners
            if segment is self._root:
                continue
            assert not segment.children or len(segment.children[0].owners) < len(segment.owners)
            length = segment.end - segment.start
            assert segment.num_live == sum(self._is_live[seq_id] for seq_id in segment.owners)
            num_live_cells += length if segment.num_live else 0
            num_idle_cells += 0 if segment.num_live else length
            for seq_id in segment.owners:
                paths[seq_id] += length
                part = list(self._token_ids[seq_id][segment.start : segment.end])
                assert part == list(segment.token_ids[segment.start : segment.end]), seq_id
        assert (num_live_cells, num_idle_cells) == (self.num_live_cells, self.num_idle_cells)
        for seq_id, leaf in enumerate(self._leaves):
            assert paths[seq_id] == leaf.end
            assert leaf is self._root or seq_id in leaf.owners

    def _drop(self, segment: Segment, seq_id: int) -> None:
        """Take a sequence off a segment, and the segment off the tree if it was the last one."""
        segment.owners.remove(seq_id)
        if self._is_live[seq_id]:
            self._count_live(segment, -1)
        if not segment.owners:
            assert segment.parent is not None
            segment.parent.children.remove(segment)
            self.num_idle_cells -= segment.end - segment.start

    def _count_live(self, segment: Segment, change: int) -> None:
        was_live = segment.num_live > 0
        segment.num_live += change
        if was_live != (segment.num_live > 0):
            length = segment.end - segment.start
            self.num_live_cells += -length if was_live else length
            self.num_idle_cells += length if was_live else -length

    def _split(self, segment: Segment, position: int) -> Segment:
        """Cut a segment in two; it becomes the lower part, as leaves point at it. Returns the upper one."""
        parent = segment.parent
        assert parent is not None
        upper = Segment(
            segment.token_ids,
            segment.start,
            position,
            parent,
            [segment],
            set(segment.owners),
            segment.num_live,
        )
        parent.children[parent.children.index(segment)] = upper
        segment.parent, segment.start = upper, position
        return upper

    def _join_path(self, segment: Segment) -> None:
        """Join segments that have the same owners as their only child, from `segment` up. The lower one stays."""
        while (parent := segment.parent) is not None:
            if segment.children and len(segment.children[0].owners) == len(segment.owners):
                child = segment.children[0]
                child.start, child.parent = segment.start, parent
                parent.children[parent.children.index(segment)] = child
            segment = parent


def num_common_tokens(left: Sequence[int], right: Sequence[int], start: int, end: int) -> int:
    """Return where `left` and `right` differ first, from `start` on and at most `end`; chunks at C speed.

    Args:
        left: Tokens, at least `end`.
        right: Likewise, of the same type.
        start: They are taken to be equal before it.
        end: Where to stop.
    """
    while start < end:
        stop = min(start + _COMPARE_CHUNK, end)
        if left[start:stop] != right[start:stop]:
            break
        start = stop
    while start < end and left[start] == right[start]:
        start += 1
    return start
