"""The events of POST /api/v1/chat, and the answer they add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.base.types import Usage
from slipstream.server.lmstudio_errors import describe_native
from slipstream.server.lmstudio_v1_chat_schemas import NativeChatAnswer, NativeChatStats
from slipstream.server.segments import Edge, Kind, Segments
from slipstream.server.sse import named_event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipstream.base.types import OutputDelta
    from slipstream.server.segments import Change, Segment


class NativeChatStream:
    """Builds one answer from deltas and tells of each step.

    Args:
        model_instance_id: Of the model that answers.

    Attributes:
        segments: Of the answer.
        usage: Of the answer, once it has ended.
        load_s: What loading the model took, None if it was loaded.
    """

    def __init__(self, model_instance_id: str) -> None:
        self.segments = Segments()
        self.usage = Usage()
        self.load_s: float | None = None
        self._instance = {"model_instance_id": model_instance_id}

    def begin(self) -> bytes:
        """Return the first event."""
        return _event("chat.start", **self._instance)

    def load_start(self) -> bytes:
        """Return the event of a load that begins."""
        return _event("model_load.start", **self._instance)

    def load_progress(self, progress: float) -> bytes:
        """Return the event of a load that is `progress` done, 0 to 1."""
        return _event("model_load.progress", **self._instance, progress=progress)

    def load_end(self, load_s: float) -> bytes:
        """Note what a load took and return its last event."""
        self.load_s = load_s
        return _event("model_load.end", **self._instance, load_time_seconds=load_s)

    def prompt_start(self) -> bytes:
        """Return the event of a prompt that begins to be read."""
        return _event("prompt_processing.start") + _event(
            "prompt_processing.progress", progress=0.0
        )

    def prompt_end(self) -> bytes:
        """Return the events of a prompt that has been read."""
        return _event("prompt_processing.progress", progress=1.0) + _event("prompt_processing.end")

    def add(self, delta: OutputDelta) -> bytes:
        """Return the events of one delta; may be b""."""
        self.usage = delta.usage or self.usage
        piece = self.segments.continued(delta)
        if piece:
            return _event(f"{self.segments.all[-1].kind}.delta", content=piece)
        return _changes(self.segments.add(delta))

    def finish(self) -> bytes:
        """Return the events that close the answer's parts."""
        return _changes(self.segments.finish())

    def end(self, response_id: str | None) -> bytes:
        """Return the last event."""
        return _event("chat.end", result=self.answer(response_id).model_dump(exclude_none=True))

    def fail(self, error: BaseException) -> bytes:
        """Return the last events of an answer that failed; what there is of it is in the last one."""
        return _event("error", error=describe_native(error)) + self.end(None)

    def answer(self, response_id: str | None) -> NativeChatAnswer:
        """Return the answer as it stands."""
        usage = self.usage
        rate = (usage.num_output_tokens - 1) / usage.decode_s if usage.decode_s > 0 else 0.0
        return NativeChatAnswer(
            **self._instance,
            output=[_item(segment) for segment in self.segments.all],
            stats=NativeChatStats(
                input_tokens=usage.num_prompt_tokens,
                total_output_tokens=usage.num_output_tokens,
                reasoning_output_tokens=usage.num_reasoning_tokens,
                tokens_per_second=rate,
                time_to_first_token_seconds=usage.queue_s + usage.prefill_s,
                model_load_time_seconds=self.load_s,
            ),
            response_id=response_id,
        )


def _changes(changes: Iterable[Change]) -> bytes:
    return b"".join(_change(change) for change in changes)


def _change(change: Change) -> bytes:
    segment = change.segment
    if segment.kind is Kind.TOOL_CALL:
        # No tool runs here, so a call the model makes up is one that fails, and is told when it is whole.
        return _event("tool_call.failure", **_failure(segment)) if change.edge is Edge.END else b""
    fields = {"content": change.piece} if change.edge is Edge.DELTA else {}
    return _event(f"{segment.kind}.{change.edge}", **fields)


def _item(segment: Segment) -> dict[str, Any]:
    if segment.kind is Kind.TOOL_CALL:
        return {"type": "invalid_tool_call", **_failure(segment)}
    return {"type": segment.kind.value, "content": segment.text}


def _failure(segment: Segment) -> dict[str, Any]:
    reason = f"there is no tool {segment.name!r}"
    return {"reason": reason, "metadata": {"type": "invalid_name", "tool_name": segment.name}}


def _event(name: str, /, **fields: Any) -> bytes:
    return named_event(name, {"type": name, **fields})
