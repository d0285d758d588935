"""Turns token pieces into text a reader may see: whole characters, nothing of a stop string. Knows no requests."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class OutputText:
    """The text of one output, piece by piece.

    ::

        bytes so far | released as text | _held: start of a stop string? | _pending: half a character |
                     '-- given to the --'-- a later piece decides -------'-- a later piece completes -'
                         reader

    What a reader gets depends on the bytes alone, never on how they were cut into pieces: the stop string that is
    complete first ends the text, the longest of those complete at the same character. Bytes that are no UTF-8
    become U+FFFD, as `bytes.decode("utf-8", "replace")` makes them.

    A piece costs O(its length) without stop strings. With them it is O(piece + held) per stop string, where held is
    shorter than the longest stop string; pieces without any first character of a stop string take a short way.

    Args:
        stop: Strings that end the output.

    Attributes:
        stop_string: The stop string that ended the text, None as long as none did. No piece may follow then.
    """

    __slots__ = ("_held", "_pending", "_starts", "_stop", "stop_string")

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop_string: str | None = None
        self._stop = tuple(stop)
        self._pending = b""
        self._held = ""
        first_chars = "".join(sorted({re.escape(string[0]) for string in stop}))
        self._starts = re.compile(f"[{first_chars}]") if stop else None

    @property
    def is_whole(self) -> bool:
        """Whether the pieces so far end with a whole character."""
        return not self._pending

    def push(self, piece: bytes) -> str:
        """Take the next token's bytes.

        Returns:
            Text that can be shown now, maybe "".
        """
        if self._starts is None and not self._pending:
            try:
                return piece.decode()
            except UnicodeDecodeError:
                pass  # half a character, or no UTF-8 at all
        data = self._pending + piece
        text, num_decoded = codecs.utf_8_decode(data, "replace", False)
        self._pending = data[num_decoded:]
        return text if self._starts is None else self._hold_back(text)

    def finish(self) -> str:
        """End the output for another reason than a stop string.

        Returns:
            What was held back; half a character becomes U+FFFD.
        """
        text = self._held + self._pending.decode("utf-8", "replace")
        self._held, self._pending = "", b""
        return text

    def _hold_back(self, text: str) -> str:
        assert self._starts is not None
        if not self._held and self._starts.search(text) is None:
            return text
        text = self._held + text
        end = self._cut_at_stop(text)
        if self.stop_string is not None:
            self._held, self._pending = "", b""
            return text[:end]
        cut = len(text) - max(_num_open_chars(text, stop) for stop in self._stop)
        self._held = text[cut:]
        return text[:cut]

    def _cut_at_stop(self, text: str) -> int:
        """Return where the stop string that completes first begins, and remember it; -1 if there is none."""
        found = [
            (start + len(stop), start, stop)
            for stop in self._stop
            if (start := text.find(stop)) >= 0
        ]
        if not found:
            return -1
        _, start, self.stop_string = min(found)
        return start


def _num_open_chars(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`, shorter than `stop`."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(stop[0], start + 1)
    return 0
