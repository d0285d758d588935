"""Reasoning as a part of the content, between tags, for clients that split it themselves. Knows no API's fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipstream.base.types import OutputDelta

_START, _END = "<think>\n", "\n</think>\n\n"  # as Qwen and DeepSeek write it


class InlineReasoning:
    """Moves the reasoning of one answer into its text."""

    def __init__(self) -> None:
        self._is_open = False

    def move(self, delta: OutputDelta) -> None:
        """Change a delta, the next one of the answer. Reasoning that is cut off has no end tag."""
        head = ""
        if delta.reasoning:
            head = delta.reasoning if self._is_open else _START + delta.reasoning
            self._is_open = True
            delta.reasoning = ""
        if self._is_open and (delta.text or delta.tool_calls):
            head += _END
            self._is_open = False
        if head:
            delta.text = head + delta.text
