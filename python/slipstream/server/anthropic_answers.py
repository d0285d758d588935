"""The bodies /v1/messages answers with, its events, and its words for errors and for why an answer ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from slipstream.base import errors
from slipstream.base.types import FinishReason, OutputDelta, Usage
from slipstream.server.errors import describe
from slipstream.server.openai_answers import Answer, finish_word
from slipstream.server.segments import Change, Edge, Kind, Segments
from slipstream.server.sse import PLACE, cut_event, named_event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipstream.server.errors import ErrorDetail
    from slipstream.server.segments import Segment

PREFIX = "/v1/messages"
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    501: "invalid_request_error",
    503: "overloaded_error",
}
_DELTAS = {
    Kind.MESSAGE: ("text_delta", "text"),
    Kind.REASONING: ("thinking_delta", "thinking"),
    Kind.TOOL_CALL: ("input_json_delta", "partial_json"),
}


class TokenCount(Answer):
    """Answer of POST /v1/messages/count_tokens."""

    input_tokens: int


class MessageUsage(Answer):
    """Token counts; the prompt is the sum of the three kinds of input tokens."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int


class MessageAnswer(Answer):
    """Answer of POST /v1/messages without `stream`."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


def anthropic_error(detail: ErrorDetail, status: int) -> dict[str, Any]:
    """Return the body of an error."""
    kind = _ERROR_TYPES.get(status, "api_error")
    message = detail.message
    if detail.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # the words by which clients know to shorten it
    return {"type": "error", "error": {"type": kind, "message": message}}


def count_of(usage: Usage) -> MessageUsage:
    """Return the counts of an answer as it stands."""
    return MessageUsage(
        input_tokens=usage.num_prompt_tokens - usage.num_cached_tokens,
        cache_read_input_tokens=usage.num_cached_tokens,
        output_tokens=usage.num_output_tokens,
    )


class MessageStream:
    """Builds one answer from deltas and tells of each step. Whoever does not stream drops the events.

    Args:
        message_id: `msg_…`.
        model: Key of the model that answers.
    """

    def __init__(self, message_id: str, model: str) -> None:
        self._message_id = message_id
        self._model = model
        self._segments = Segments()
        self._usage = Usage()
        self._stop_reason: StopReason | None = None
        self._stop_sequence: str | None = None
        self._has_begun = False
        self._pieces: list[bytes] = []  # of a delta of the open text, without the text

    def add(self, delta: OutputDelta) -> bytes:
        """Return the events of one delta, the first ones before the first delta's; may be b""."""
        self._usage = delta.usage or self._usage
        events = b"" if self._has_begun else self._begin()
        piece = self._segments.continued(delta)
        if piece:
            events += json.dumps(piece).encode().join(self._pieces)
        else:
            events += self._events(self._segments.add(delta))
        if delta.finish_reason is not None:
            self._stop_reason = _stop_reason(delta)
            self._stop_sequence = delta.stop_string
            events += self._events(self._segments.finish()) + self._end()
        return events

    def answer(self) -> MessageAnswer:
        """Return the whole message as it stands."""
        return MessageAnswer(
            id=self._message_id,
            model=self._model,
            content=[_block(segment) for segment in self._segments.all],
            stop_reason=self._stop_reason,
            stop_sequence=self._stop_sequence,
            usage=count_of(self._usage),
        )

    def _begin(self) -> bytes:
        self._has_begun = True
        return _event("message_start", message=self.answer().model_dump())

    def _end(self) -> bytes:
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        usage = count_of(self._usage).model_dump()
        return _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def _events(self, changes: Iterable[Change]) -> bytes:
        events = b""
        for change in changes:
            events += _change_event(change)
            if change.edge is Edge.START:
                index, kind = change.segment.index, change.segment.kind
                self._pieces = cut_event(*_delta_event(index, kind, PLACE))
        return events


def anthropic_end(error: BaseException | None) -> bytes:
    """Return what a stream ends with after its last event: nothing, or the error."""
    if error is None:
        return b""
    is_busy = isinstance(error, errors.ClosedError | errors.EngineDiedError)
    return named_event("error", anthropic_error(describe(error), 503 if is_busy else 500))


def _stop_reason(delta: OutputDelta) -> StopReason:
    word = finish_word(delta.finish_reason)
    if word == "length":
        return "max_tokens"
    if delta.finish_reason is FinishReason.TOOL_CALLS:
        return "tool_use"
    return "stop_sequence" if delta.stop_string is not None else "end_turn"


def _block(segment: Segment, *, is_empty: bool = False) -> dict[str, Any]:
    text = "" if is_empty else segment.text
    if segment.kind is Kind.MESSAGE:
        return {"type": "text", "text": text}
    if segment.kind is Kind.REASONING:
        return {"type": "thinking", "thinking": text, "signature": ""}
    given = _arguments(text)
    return {"type": "tool_use", "id": segment.call_id, "name": segment.name, "input": given}


def _arguments(text: str) -> dict[str, Any]:
    """Return the arguments of a call; none where the answer was cut off within them."""
    try:
        arguments = json.loads(text)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _change_event(change: Change) -> bytes:
    index = change.segment.index
    if change.edge is Edge.START:
        block = _block(change.segment, is_empty=True)
        return _event("content_block_start", index=index, content_block=block)
    if change.edge is Edge.END:
        return _event("content_block_stop", index=index)
    return named_event(*_delta_event(index, change.segment.kind, change.piece))


def _delta_event(index: int, kind: Kind, piece: str) -> tuple[str, dict[str, Any]]:
    name = "content_block_delta"
    word, field = _DELTAS[kind]
    return name, {"type": name, "index": index, "delta": {"type": word, field: piece}}


def _event(name: str, **fields: Any) -> bytes:
    return named_event(name, {"type": name, **fields})
