"""Follows where an output thinks: counts the tokens of it and tells when a budget is spent. Knows no requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.output_rules import ThinkingTags

# Before thinking begins, or begins again, there are line ends and the like. Behind more than that it is an answer
# that speaks of the tags.
_MAX_HEAD_BYTES = 64


class ThinkingTracker:
    """The reasoning of one output, token by token. O(1) for each.

    Args:
        tags: What it stands between.
        budget: Most tokens of it; None for no limit.
        end_tokens: (id, bytes) of the tokens that end it, for when the budget is spent.

    Attributes:
        num_tokens: Spent on it so far, those that end it included.
        end_tokens: See the arguments.
    """

    __slots__ = (
        "_budget",
        "_ends",
        "_head_bytes",
        "_is_open",
        "_start",
        "_tail",
        "_tail_bytes",
        "end_tokens",
        "num_tokens",
    )

    def __init__(
        self,
        tags: ThinkingTags,
        budget: int | None = None,
        end_tokens: Sequence[tuple[int, bytes]] = (),
    ) -> None:
        self.num_tokens = 0
        self.end_tokens = list(end_tokens)
        self._start = tags.start.encode()
        self._ends = [end.encode() for end in tags.ends]
        self._budget = budget
        self._is_open = tags.is_open
        self._tail = b""
        self._tail_bytes = max(map(len, [self._start, *self._ends]), default=0)
        self._head_bytes = 0

    @property
    def must_end(self) -> bool:
        """Whether the budget is spent and the output still thinks."""
        return self._is_open and self._budget is not None and self.num_tokens >= self._budget

    @property
    def num_left(self) -> int | None:
        """Tokens that may come before `must_end` has to be asked again; None for any number."""
        if self._budget is None:
            return None
        if self._is_open:
            return max(1, self._budget - self.num_tokens)
        return 1 if self._budget == 0 and self._may_start else None

    @property
    def _may_start(self) -> bool:
        return bool(self._start) and self._head_bytes <= _MAX_HEAD_BYTES

    def push(self, piece: bytes) -> None:
        """Take the next token's bytes, those of control tokens that belong to the tags included."""
        if self._is_open:
            self.num_tokens += 1
            self._tail += piece
            if any(end in self._tail for end in self._ends):
                self._is_open, self._tail, self._head_bytes = False, b"", 0
        elif self._may_start:
            self._tail += piece
            self._head_bytes += len(piece)
            if self._start in self._tail:
                self._is_open, self._tail = True, b""
        else:
            return
        # A tag can end anywhere in the piece, so all of the piece was kept for the search.
        self._tail = self._tail[-self._tail_bytes :]
