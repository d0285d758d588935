"""An answer as runs of one kind: reasoning, message text, tool calls, in the order they came. Knows no API's fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipstream.base.types import OutputDelta, TokenLogprob, ToolCallDelta


class Kind(StrEnum):
    """Of a segment."""

    REASONING = "reasoning"
    MESSAGE = "message"
    TOOL_CALL = "tool_call"


class Edge(StrEnum):
    """What happens to a segment."""

    START = "start"
    DELTA = "delta"
    END = "end"


@dataclass(slots=True)
class Segment:
    """One run.

    Attributes:
        kind: What it is.
        index: Its place in the answer, from 0.
        call_id: Of a tool call.
        name: Of the tool that is called.
        pieces: The text, or the arguments of a call, as they came.
        logprobs: Of a message's tokens, where asked for.
    """

    kind: Kind
    index: int
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All pieces."""
        return "".join(self.pieces)


class Change(NamedTuple):
    """One step of a segment; `piece` and `logprobs` are those of a delta."""

    edge: Edge
    segment: Segment
    piece: str = ""
    logprobs: list[TokenLogprob] | None = None


class Segments:
    """Splits deltas into segments. Only the last segment is open.

    Attributes:
        all: Every segment so far.
    """

    def __init__(self) -> None:
        self.all: list[Segment] = []
        self._is_open = False
        self._call_index = -1

    def add(self, delta: OutputDelta) -> Iterator[Change]:
        """Yield what one delta changes."""
        if delta.reasoning:
            yield from self._append(Kind.REASONING, delta.reasoning)
        if delta.text or delta.logprobs:
            yield from self._append(Kind.MESSAGE, delta.text, delta.logprobs)
        for call in delta.tool_calls:
            yield from self._append_call(call)

    def continued(self, delta: OutputDelta) -> str:
        """Take a delta that does nothing but continue the open run of text: the way of nearly every token.

        Returns:
            The piece that was added to the last segment; "" if the delta is one for `add`.
        """
        if not self._is_open or delta.logprobs or delta.tool_calls:
            return ""
        segment = self.all[-1]
        if segment.kind is Kind.MESSAGE:
            piece = "" if delta.reasoning else delta.text
        else:
            piece = delta.reasoning if segment.kind is Kind.REASONING and not delta.text else ""
        if piece:
            segment.pieces.append(piece)
        return piece

    def finish(self) -> Iterator[Change]:
        """Yield what closes the answer; one that said nothing has an empty message."""
        if not self.all:
            yield from self._open(Segment(Kind.MESSAGE, 0))
        yield from self._close()

    def assistant_message(self) -> dict[str, Any]:
        """Return the answer as a message of a chat, as templates take it."""
        message: dict[str, Any] = {"role": "assistant", "content": self._text(Kind.MESSAGE)}
        if reasoning := self._text(Kind.REASONING):
            message["reasoning_content"] = reasoning
        calls = [
            {
                "id": segment.call_id,
                "type": "function",
                "function": {"name": segment.name, "arguments": segment.text},
            }
            for segment in self.all
            if segment.kind is Kind.TOOL_CALL
        ]
        if calls:
            message["tool_calls"] = calls
        return message

    def _text(self, kind: Kind) -> str:
        return "".join(segment.text for segment in self.all if segment.kind is kind)

    def _append(
        self, kind: Kind, piece: str, logprobs: list[TokenLogprob] | None = None
    ) -> Iterator[Change]:
        if not (self._is_open and self.all[-1].kind is kind):
            yield from self._open(Segment(kind, len(self.all)))
        segment = self.all[-1]
        segment.pieces.append(piece)
        segment.logprobs += logprobs or []
        yield Change(Edge.DELTA, segment, piece, logprobs)

    def _append_call(self, call: ToolCallDelta) -> Iterator[Change]:
        is_same = self._is_open and self.all[-1].kind is Kind.TOOL_CALL
        if not (is_same and call.index == self._call_index):
            self._call_index = call.index
            segment = Segment(Kind.TOOL_CALL, len(self.all), call.call_id, call.name)
            yield from self._open(segment)
        if call.arguments:
            self.all[-1].pieces.append(call.arguments)
            yield Change(Edge.DELTA, self.all[-1], call.arguments)

    def _open(self, segment: Segment) -> Iterator[Change]:
        yield from self._close()
        self.all.append(segment)
        self._is_open = True
        yield Change(Edge.START, segment)

    def _close(self) -> Iterator[Change]:
        if self._is_open:
            self._is_open = False
            yield Change(Edge.END, self.all[-1])
