"""Takes thinking off the head of an output whose prompt has ended all thinking. Knows no template."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipstream.base.output_rules import ThinkingTags


class ThinkingHead:
    """What a model thinks though it is told not to: a second end tag, or thinking that begins anew. One output's.

    A template has one place for thinking, which the prompt has filled, so a parser takes such a head as content.

    Args:
        tags: What the model thinks between.
    """

    __slots__ = ("_ends", "_has_told", "_held", "_is_inside", "_is_over", "_start")

    def __init__(self, tags: ThinkingTags) -> None:
        self._start = tags.start.strip()
        self._ends = [end.strip() for end in tags.ends if end.strip()]
        self._held = ""
        self._is_inside = self._is_over = self._has_told = False

    def feed(self, text: str, *, is_last: bool) -> tuple[str, str]:
        """Take the next piece of output.

        Args:
            text: Whole characters.
            is_last: Nothing follows it.

        Returns:
            Thinking without white space around it, and what the form's parser is to read. Both are empty while it is
            not clear what the head is.
        """
        if self._is_over:
            return "", text
        self._held += text
        if not self._is_inside and not self._enter(is_last):
            return "", self._release() if self._is_over else ""
        places = [(self._held.find(end), end) for end in self._ends if end in self._held]
        if places:
            place, end = min(places)
            thought, rest = self._held[:place].rstrip(), self._held[place + len(end) :]
            self._held, self._is_over = "", True
            return self._told(thought), rest
        kept = 0 if is_last else self._num_kept()
        thought = self._held[: len(self._held) - kept].rstrip()
        self._held = self._held[len(thought) :]
        return self._told(thought), ""

    def _enter(self, is_last: bool) -> bool:
        """Tell whether the output thinks from here on; an end tag alone is dropped, anything else ends the head."""
        bare = self._held.lstrip()
        if self._start and bare.startswith(self._start):
            self._held, self._is_inside = bare[len(self._start) :], True
            return True
        for end in self._ends:
            if bare.startswith(end):
                self._held, self._is_over = bare[len(end) :], True
                return False
        may_be = any(tag.startswith(bare) for tag in (self._start, *self._ends))
        self._is_over = is_last or not may_be
        return False

    def _told(self, thought: str) -> str:
        """Return a thought without the white space that all of them begin with."""
        thought = thought if self._has_told else thought.lstrip()
        self._has_told = self._has_told or bool(thought)
        return thought

    def _release(self) -> str:
        held, self._held = self._held, ""
        return held

    def _num_kept(self) -> int:
        """Return how many characters at the end could be the begin of an end tag."""
        lengths = [
            length
            for end in self._ends
            for length in range(1, len(end))
            if self._held.endswith(end[:length])
        ]
        return max(lengths, default=0)
