"""The events of a /v1/responses stream. Whoever does not stream builds the same answer and drops the events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slipstream.base.types import FinishReason
from slipstream.server.responses_answers import (
    ResponseAnswer,
    ended,
    failed,
    item_id,
    item_of,
    part_of,
    token_logprobs,
)
from slipstream.server.segments import Change, Edge, Kind, Segments
from slipstream.server.sse import PLACE, cut_event, named_event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipstream.base.types import OutputDelta, Usage
    from slipstream.server.responses_answers import Item
    from slipstream.server.segments import Segment

_PIECES = {
    Kind.MESSAGE: "response.output_text",
    Kind.REASONING: "response.reasoning_text",
    Kind.TOOL_CALL: "response.function_call_arguments",
}


class ResponseStream:
    """Builds one answer from deltas and tells of each step.

    Every event has a `sequence_number` that rises by one; `output_index` is the item's place in the final `output`.

    Args:
        body: From `begun`.

    Attributes:
        body: The answer as it stands.
        segments: Of the answer.
    """

    def __init__(self, body: ResponseAnswer) -> None:
        self.body = body
        self.segments = Segments()
        self._num_events = 0
        self._status = "completed"  # of items that end
        self._pieces: list[bytes] = []  # of a delta of the open text, without number and text

    def begin(self) -> bytes:
        """Return the first events."""
        return self._whole("response.created") + self._whole("response.in_progress")

    def add(self, delta: OutputDelta) -> bytes:
        """Return the events of one delta; may be b""."""
        piece = self.segments.continued(delta)
        if not piece:
            return self._events(self.segments.add(delta))
        head, middle, tail = self._pieces
        event = b"%b%d%b%b%b" % (head, self._num_events, middle, json.dumps(piece).encode(), tail)
        self._num_events += 1
        return event

    def end(self, reason: FinishReason | None, usage: Usage | None) -> tuple[bytes, bytes]:
        """Return the events that close the items, and the last one, which tells of the whole answer."""
        if reason is FinishReason.LENGTH:
            self._status = "incomplete"  # of the item that was cut
        closing = self._events(self.segments.finish())
        self.body = ended(self.body, self._items(), reason, usage)
        return closing, self._whole(f"response.{self.body.status}")

    def fail(self, error: BaseException) -> bytes:
        """Return the last event of an answer that failed."""
        self._status = "incomplete"
        self.body = failed(self.body, self._items(), error)
        return self._whole("response.failed")

    def _items(self) -> list[Item]:
        last = len(self.segments.all) - 1
        return [
            item_of(self.body.id, segment, self._status if segment.index == last else "completed")
            for segment in self.segments.all
        ]

    def _events(self, changes: Iterable[Change]) -> bytes:
        makers = {Edge.START: self._start, Edge.DELTA: self._delta, Edge.END: self._done}
        return b"".join(makers[change.edge](change) for change in changes)

    def _start(self, change: Change) -> bytes:
        segment = change.segment
        item = item_of(self.body.id, segment, "in_progress")
        event = self._event("response.output_item.added", output_index=segment.index, item=item)
        if segment.kind is not Kind.TOOL_CALL:
            event += self._part("response.content_part.added", segment, part_of(segment, "", ()))
            name = f"{_PIECES[segment.kind]}.delta"
            fields = {
                "type": name,
                "sequence_number": PLACE,
                **self._place(segment),
                "delta": PLACE,
            }
            if segment.kind is Kind.MESSAGE:
                fields["logprobs"] = []
            self._pieces = cut_event(name, fields)
        return event

    def _delta(self, change: Change) -> bytes:
        fields: dict[str, Any] = {"delta": change.piece}
        if change.segment.kind is Kind.MESSAGE:
            fields["logprobs"] = token_logprobs(change.logprobs)
        return self._piece("delta", change.segment, fields)

    def _done(self, change: Change) -> bytes:
        segment = change.segment
        is_last = segment.index == len(self.segments.all) - 1
        item = item_of(self.body.id, segment, self._status if is_last else "completed")
        if segment.kind is Kind.TOOL_CALL:
            fields: dict[str, Any] = {"arguments": segment.text, "name": segment.name}
        else:
            fields = {"text": segment.text}
        if segment.kind is Kind.MESSAGE:
            fields["logprobs"] = token_logprobs(segment.logprobs)
        events = self._piece("done", segment, fields)
        if segment.kind is not Kind.TOOL_CALL:
            events += self._part("response.content_part.done", segment, item["content"][0])
        return events + self._event(
            "response.output_item.done", output_index=segment.index, item=item
        )

    def _piece(self, edge: str, segment: Segment, fields: dict[str, Any]) -> bytes:
        place = self._place(segment)
        if segment.kind is Kind.TOOL_CALL:
            del place["content_index"]
        return self._event(f"{_PIECES[segment.kind]}.{edge}", **place, **fields)

    def _part(self, name: str, segment: Segment, part: Item) -> bytes:
        return self._event(name, **self._place(segment), part=part)

    def _place(self, segment: Segment) -> dict[str, Any]:
        return {
            "item_id": item_id(self.body.id, segment),
            "output_index": segment.index,
            "content_index": 0,
        }

    def _whole(self, name: str) -> bytes:
        return self._event(name, response=self.body.model_dump())

    def _event(self, name: str, /, **fields: Any) -> bytes:
        event = named_event(name, {"type": name, "sequence_number": self._num_events, **fields})
        self._num_events += 1
        return event
