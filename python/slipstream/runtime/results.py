"""Whole answers put together from deltas; for every caller that does not stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import SlipstreamError, by_name
from slipstream.base.types import FinishReason, TokenLogprob, Usage

if TYPE_CHECKING:
    from slipstream.base.types import OutputDelta, RequestFailed


class GenerationResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished answer.

    Attributes:
        request_id: Of the GenerationSpec.
        text: The output, after the prompt's text where `echo_prompt` asked for it.
        token_ids: Generated tokens.
        logprobs: One per token id where asked for.
        finish_reason: Why it ended; never None.
        stop_string: The stop string that ended it, where one did.
        usage: Token counts and times.
    """

    request_id: str
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: FinishReason
    stop_string: str | None
    usage: Usage


class ResultCollector:
    """Adds up the deltas of one request. One thread."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] | None = None

    def add(self, delta: OutputDelta) -> GenerationResult | None:
        """Take the next delta.

        Returns:
            The whole answer if this was the last delta, else None.
        """
        if delta.text:
            self._texts.append(delta.text)
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
        )


def error_of(event: RequestFailed) -> SlipstreamError:
    """Return the error an event tells of, as an exception of the class it names."""
    return by_name(event.error)(event.message, param=event.param)
