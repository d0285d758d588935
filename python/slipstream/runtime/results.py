"""Whole answers put together from deltas; for every caller that does not stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import SlipstreamError, by_name
from slipstream.base.types import FinishReason, TokenLogprob, ToolCall, Usage

if TYPE_CHECKING:
    from slipstream.base.types import OutputDelta, RequestFailed, ToolCallDelta


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished answer.

    Attributes:
        request_id: Of the GenerationSpec.
        text: The output, or with `parse_output` its content, after the prompt's text where `echo_prompt` asked for it.
        token_ids: Generated tokens.
        logprobs: One per token id where asked for.
        finish_reason: Why it ended; never None.
        stop_string: The stop string that ended it, where one did.
        usage: Token counts and times.
        reasoning: What the model thought, with `parse_output`.
        tool_calls: The tools it calls, with `parse_output`.
    """

    request_id: str
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: FinishReason
    stop_string: str | None
    usage: Usage
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class ResultCollector:
    """Adds up the deltas of one request. One thread."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, list[ToolCallDelta]] = {}
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] | None = None

    def add(self, delta: OutputDelta) -> GenerationResult | None:
        """Take the next delta.

        Returns:
            The whole answer if this was the last delta, else None.
        """
        if delta.text:
            self._texts.append(delta.text)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
        for call in delta.tool_calls:
            self._calls.setdefault(call.index, []).append(call)
        self._token_ids += delta.token_ids
        if delta.logprobs is not None:
            self._logprobs = (self._logprobs or []) + delta.logprobs
        if delta.finish_reason is None:
            return None
        return GenerationResult(
            request_id=delta.request_id,
            text="".join(self._texts),
            token_ids=self._token_ids,
            logprobs=self._logprobs,
            finish_reason=delta.finish_reason,
            stop_string=delta.stop_string,
            usage=delta.usage or Usage(),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(_whole(pieces) for _index, pieces in sorted(self._calls.items())),
        )


def _whole(pieces: list[ToolCallDelta]) -> ToolCall:
    arguments = "".join(piece.arguments for piece in pieces)
    return ToolCall(pieces[0].call_id, pieces[0].name, arguments)


def error_of(event: RequestFailed) -> SlipstreamError:
    """Return the error an event tells of, as an exception of the class it names."""
    return by_name(event.error)(event.message, param=event.param)
