"""The chunks of the OpenAI streams, as bytes. All but the text of a chunk is made once for each choice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slipstream.server.openai_answers import chat_logprobs, completion_logprobs, finish_word
from slipstream.server.sse import PLACE, data_event

if TYPE_CHECKING:
    from slipstream.base.types import OutputDelta, ToolCallDelta
    from slipstream.server.openai_answers import UsageAnswer


class StreamHead:
    """What all chunks of one answer share.

    Args:
        request_id: `chatcmpl-…` or `cmpl-…`.
        kind: The `object` of the chunks.
        created_s: Unix time.
        model: Key of the model that answers.
        fingerprint: `system_fingerprint`.
        include_usage: Whether a usage chunk will follow; then all others carry `"usage":null`.
    """

    def __init__(
        self,
        request_id: str,
        kind: str,
        created_s: int,
        model: str,
        *,
        fingerprint: str,
        include_usage: bool,
    ) -> None:
        self._fields = {
            "id": request_id,
            "object": kind,
            "created": created_s,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._include_usage = include_usage

    def template(self, choice: str) -> tuple[bytes, bytes]:
        """Return the bytes before and after the variable part of a chunk.

        Args:
            choice: JSON of the one entry of `choices`, with the mark for the variable part.
        """
        text = json.dumps(self._fields, separators=(",", ":"))[:-1] + f',"choices":[{choice}]'
        text += ',"usage":null}' if self._include_usage else "}"
        before, after = text.split(PLACE)
        return b"data: " + before.encode("ascii"), after.encode("ascii") + b"\n\n"

    def last(self, usage: UsageAnswer, extras: dict[str, Any]) -> bytes:
        """Return the last chunk, of a stream that was asked for its usage or has more to tell than OpenAI's."""
        document = {**self._fields, "choices": [], "usage": usage.model_dump(), **extras}
        return data_event(json.dumps(document, separators=(",", ":")).encode("ascii"))


class ChatChunks:
    """Makes the chunks of one chat choice."""

    def __init__(self, head: StreamHead, index: int) -> None:
        def piece(field: str) -> tuple[bytes, bytes]:
            delta = f'{{"{field}":{PLACE}}}'
            return head.template(
                f'{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":null}}'
            )

        self._role = head.template(
            f'{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,'
            f'"finish_reason":{PLACE}}}'
        )
        self._text = piece("content")
        self._logprobs = head.template(
            f'{{"index":{index},"delta":{{"content":{PLACE},"finish_reason":null}}'
        )
        self._end = head.template(
            f'{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":{PLACE}}}'
        )
        self._reasoning = piece("reasoning_content")
        self._calls = piece("tool_calls")
        self._begun = False

    def add(self, delta: OutputDelta) -> bytes:
        """Return the events of one delta: the role before the first, the finish reason after the last. May be b""."""
        events = b""
        if not self._begun:
            self._begun = True
            events = b"null".join(self._role)
        if delta.reasoning:
            # The same text by both names that clients have for it.
            text = json.dumps(delta.reasoning)
            events += _fill(self._reasoning, f'{text},"reasoning":{text}')
        if delta.logprobs:
            # As a stop string can hold text back, a delta may have log-probabilities and no text.
            logprobs = chat_logprobs(delta.logprobs).model_dump_json(ensure_ascii=True)
            events += _fill(self._logprobs, f'{json.dumps(delta.text)}}},"logprobs":{logprobs}')
        elif delta.text:
            # ASCII with escapes: some clients split lines at U+2028, which JSON allows unescaped
            events += _fill(self._text, json.dumps(delta.text))
        for call in delta.tool_calls:
            events += _fill(self._calls, json.dumps([_call_delta(call)]))
        if delta.finish_reason is not None:
            events += _fill(self._end, f'"{finish_word(delta.finish_reason)}"')
        return events


def _call_delta(call: ToolCallDelta) -> dict[str, Any]:
    """Return a piece of a tool call: with its id and name on the first one only."""
    if not call.call_id:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.call_id, "type": "function", "function": function}


class CompletionChunks:
    """Makes the chunks of one completion choice."""

    def __init__(self, head: StreamHead, index: int) -> None:
        self._text = head.template(
            f'{{"index":{index},"text":{PLACE},"logprobs":null,"finish_reason":null}}'
        )
        self._logprobs = head.template(f'{{"index":{index},"text":{PLACE},"finish_reason":null}}')
        self._end = head.template(
            f'{{"index":{index},"text":"","logprobs":null,"finish_reason":{PLACE}}}'
        )
        self._offset = 0

    def add(self, delta: OutputDelta) -> bytes:
        """Return the events of one delta, the finish reason after the last. May be b""."""
        events = b""
        if delta.logprobs:
            answer, self._offset = completion_logprobs(delta.logprobs, self._offset)
            events = _fill(
                self._logprobs,
                f'{json.dumps(delta.text)},"logprobs":{answer.model_dump_json(ensure_ascii=True)}',
            )
        elif delta.text:
            events = _fill(self._text, json.dumps(delta.text))
        if delta.finish_reason is not None:
            events += _fill(self._end, f'"{finish_word(delta.finish_reason)}"')
        return events


def _fill(template: tuple[bytes, bytes], variable: str) -> bytes:
    return template[0] + variable.encode("utf-8") + template[1]
