"""A request inside the engine: its tokens, how far they are computed and its text. Knows no other request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from slipstream.base.errors import ContextLengthError, InvalidRequestError, SlipstreamError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import (
    FinishReason,
    OutputDelta,
    RequestFailed,
    Speculation,
    TokenLogprob,
    Usage,
)
from slipstream.engine.output_text import OutputText
from slipstream.engine.spec_decode import SpeculationCounters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slipstream.base.output_rules import CallGrammar
    from slipstream.engine.grammar import Matcher
    from slipstream.engine.pictures import PromptPicture
    from slipstream.engine.runner import RunnerInfo
    from slipstream.engine.thinking import ThinkingTracker

NO_SEQUENCE = -1


class RequestStatus(IntEnum):
    """Where a request is."""

    WAITING = 0  # no sequence yet
    RUNNING = 1
    PREEMPTED = 2  # waits again; keeps its seq_id and its sampler, has no KV cells
    FINISHED = 3


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and what has become of it.

    There is no prefill phase and no decode phase: `num_computed_tokens` chases the end of `token_ids`, and when a
    step reaches the end a token is sampled there and the end moves on by one::

        token_ids  | prompt_token_ids                          | output_token_ids           |
                   0                             num_prompt_tokens             len(token_ids)
        KV cache   | cached at start | computed in steps ......................... | to do  |
                   0   num_cached_tokens                         num_computed_tokens

    Only the scheduler writes below the first eight.

    Attributes:
        request_id: Unique among unfinished requests.
        prompt_token_ids: The prompt, not changed.
        sampling: See SamplingParams.
        arrival_s: When it was submitted, by `time.monotonic`.
        speculation_options: Whether and how its next tokens are drafted.
        matcher: What its output must look like; None for anything.
        context_overflow: What happens when the context is full: by error it ends with LENGTH, otherwise see `roll`.
        pictures: In the prompt, by start; encoded. Text follows the last one.
        calls: What keeps calls of tools to their form; None for no such thing.
        thinking: Follows its reasoning; None for a model that does not reason, or where nobody asks.
        preserved: Control tokens whose text belongs to the output, and that text.
        token_ids: Prompt and output.
        status: See RequestStatus.
        seq_id: Of its sequence, NO_SEQUENCE while it never had one.
        num_prompt_tokens: Length of the prompt.
        num_computed_tokens: Tokens in the KV cache.
        num_cached_tokens: Prompt tokens that were there when it was admitted first.
        max_num_tokens: Length of `token_ids` at which it is full; set by `limit_to`, as the next one.
        max_output_tokens: Number of output tokens that ends it with LENGTH.
        num_dropped_tokens: Of prompt and output, no longer in `token_ids`.
        text: The text of its output.
        stop_token_ids: As a set.
        speculation: What became of its drafts.
        first_step_s: When it was admitted first.
        first_token_s: When its first output token came.
        last_token_s: When its latest output token came.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    arrival_s: float = field(default_factory=time.monotonic)
    speculation_options: Speculation = field(default_factory=Speculation)
    matcher: Matcher | None = None
    context_overflow: str = "error"
    pictures: tuple[PromptPicture, ...] = ()
    calls: CallGrammar | None = None
    thinking: ThinkingTracker | None = None
    preserved: Mapping[int, bytes] = field(default_factory=dict)
    token_ids: list[int] = field(init=False)
    status: RequestStatus = field(init=False, default=RequestStatus.WAITING)
    seq_id: int = field(init=False, default=NO_SEQUENCE)
    num_prompt_tokens: int = field(init=False)
    num_computed_tokens: int = field(init=False, default=0)
    num_cached_tokens: int = field(init=False, default=0)
    max_num_tokens: int = field(init=False, default=0)
    max_output_tokens: int = field(init=False, default=0)
    num_dropped_tokens: int = field(init=False, default=0)
    text: OutputText = field(init=False)
    stop_token_ids: frozenset[int] = field(init=False)
    speculation: SpeculationCounters = field(init=False, default_factory=SpeculationCounters)
    first_step_s: float = field(init=False, default=0.0)
    first_token_s: float = field(init=False, default=0.0)
    last_token_s: float = field(init=False, default=0.0)
    _num_context_tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.text = OutputText(self.sampling.stop)
        self.stop_token_ids = frozenset(self.sampling.stop_token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        """The tokens generated so far, the one that ended the output included. While none are dropped."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        """How many they are, the dropped ones included."""
        return len(self.token_ids) + self.num_dropped_tokens - self.num_prompt_tokens

    @property
    def max_drafts(self) -> int:
        """How many drafts could all count: no end by length and no end of thinking comes between them."""
        most = self.max_num_tokens - len(self.token_ids) - 1
        left = self.thinking.num_left if self.thinking is not None else None
        return max(0, most if left is None else min(most, left - 1))

    @property
    def must_roll(self) -> bool:
        """Whether it goes on but has no room to."""
        return self.context_overflow != "error" and len(self.token_ids) >= self.max_num_tokens

    def limit_to(self, num_tokens: int) -> None:
        """Fix how long it may get in a context of so many tokens; without `max_tokens`, one that rolls ends, too."""
        self._num_context_tokens = num_tokens
        most = self.sampling.max_tokens
        if most is None:
            rolls = self.context_overflow != "error"
            most = num_tokens if rolls else num_tokens - self.num_prompt_tokens
        self.max_output_tokens = most
        self.max_num_tokens = min(num_tokens, self.num_prompt_tokens + most)

    def roll(self) -> int:
        """Drop half of what is not the head; the rest is to be computed again, as cells know their positions.

        Returns:
            The tokens of the head: half the context at most of the prompt by truncate_middle, 4 by rolling_window
            (attention sinks, arXiv 2309.17453).
        """
        token_ids = self.token_ids
        middle = self.context_overflow == "truncate_middle"
        num_head = min(self.num_prompt_tokens if middle else 4, len(token_ids) // 2)
        num_dropped = (len(token_ids) - num_head + 1) // 2
        # A new list: cached prefixes may still refer to the old one.
        self.token_ids = token_ids[:num_head] + token_ids[num_head + num_dropped :]
        self.num_dropped_tokens += num_dropped
        num_left = self.max_output_tokens - self.num_output_tokens
        self.max_num_tokens = min(self._num_context_tokens, len(self.token_ids) + num_left)
        return min(num_head, len(self.token_ids) - 1)

    def append_output(
        self,
        token_id: int,
        piece: bytes,
        is_eog: bool,
        logprob: TokenLogprob | None,
        now_s: float,
        *,
        is_complete: bool = False,
    ) -> OutputDelta:
        """Take a sampled token and decide whether it is the last one.

        Args:
            token_id: The token.
            piece: Its bytes.
            is_eog: Whether the vocabulary says that it ends a generation.
            logprob: Handed on.
            now_s: When it came.
            is_complete: Nothing can follow it by the request's `matcher`.

        Returns:
            What the reader gets to see; with `finish_reason` but without `usage` if the token was the last.
        """
        self.token_ids.append(token_id)
        delta = OutputDelta(self.request_id, "", [token_id])
        self.last_token_s = now_s
        if not self.first_token_s:
            self.first_token_s = now_s
            delta.usage = self.usage(now_s)
        text = self.text
        if logprob is not None:
            delta.logprobs = [logprob]
        if (
            is_eog and (self.matcher or not self.sampling.ignore_eos)
        ) or token_id in self.stop_token_ids:
            delta.text = text.finish()
            delta.finish_reason = FinishReason.STOP
            return delta
        if self.preserved:
            piece = self.preserved.get(token_id, piece)
        if self.thinking is not None:
            self.thinking.push(piece)
        delta.text = text.push(piece)
        if text.stop_string is not None:
            delta.finish_reason = FinishReason.STOP
            delta.stop_string = text.stop_string
        elif is_complete:
            delta.text += text.finish()
            delta.finish_reason = FinishReason.STOP
        elif self.num_output_tokens >= self.max_output_tokens or (
            self.context_overflow == "error" and len(self.token_ids) >= self.max_num_tokens
        ):
            delta.text += text.finish()
            delta.finish_reason = FinishReason.LENGTH
        return delta

    def end_thinking(self) -> OutputDelta | None:
        """Append the tokens that end the reasoning, where its budget is spent.

        Returns:
            What the reader gets to see; None if it is not, in the midst of a character, or where there is no room, as
            the output is about to end then.
        """
        if self.thinking is None or not self.thinking.must_end or not self.text.is_whole:
            return None
        tokens = self.thinking.end_tokens
        if (
            self.num_output_tokens + len(tokens) >= self.max_output_tokens
            or len(self.token_ids) + len(tokens) >= self.max_num_tokens
        ):
            return None
        delta = OutputDelta(self.request_id)
        for token_id, piece in tokens:
            self.token_ids.append(token_id)
            delta.token_ids.append(token_id)
            self.thinking.push(piece)
            delta.text += self.text.push(piece)
        return delta

    def usage(self, now_s: float) -> Usage:
        """Count tokens and times up to now; a stage not reached took no time."""
        first_step_s = self.first_step_s or now_s
        first_token_s = self.first_token_s or now_s
        return Usage(
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_output_tokens=self.num_output_tokens,
            queue_s=max(0.0, first_step_s - self.arrival_s),
            prefill_s=first_token_s - first_step_s,
            decode_s=self.last_token_s - first_token_s if self.first_token_s else 0.0,
            num_drafted_tokens=self.speculation.num_drafted,
            num_accepted_tokens=self.speculation.num_accepted,
            num_rejected_tokens=self.speculation.num_rejected,
            num_ignored_tokens=self.speculation.num_ignored,
            num_reasoning_tokens=self.thinking.num_tokens if self.thinking else 0,
            draft_positions=self.speculation.positions,
        )


def max_sequence_tokens(info: RunnerInfo) -> int:
    """Return the most tokens one request can have, prompt and output together."""
    return min(info.max_sequence_length, info.num_kv_cells)


def check_request(request: Request, info: RunnerInfo) -> None:
    """Refuse a request the runner could never serve, and fix the length it may grow to. Any thread.

    Raises:
        InvalidRequestError: no prompt, or what is no token id of this vocabulary in it or in `stop_token_ids`.
        ContextLengthError: no room for the prompt and one more token.
    """
    prompt = request.prompt_token_ids
    if not prompt:
        message = "the prompt is empty; it must have at least one token"
        raise InvalidRequestError(message, param="prompt")
    check_fits(prompt, info)
    # Where there are pictures, negative ids stand for them; see engine.pictures.
    text = [token for token in prompt if token >= 0] if request.pictures else prompt
    check_token_ids("prompt", text, info.num_vocab)
    check_token_ids("stop_token_ids", request.sampling.stop_token_ids, info.num_vocab)
    request.limit_to(max_sequence_tokens(info))


def check_fits(prompt: Sequence[int], info: RunnerInfo) -> None:
    """Raise ContextLengthError if there is no room for a prompt and one more token."""
    limit = max_sequence_tokens(info)
    if len(prompt) >= limit:
        message = (
            f"the prompt has {len(prompt)} tokens, but the context holds {limit} and needs room for one more; "
            f"shorten the prompt to {limit - 1} tokens or load the model with a longer context"
        )
        raise ContextLengthError(message, param="prompt")


def check_token_ids(param: str, token_ids: Sequence[int], num_vocab: int) -> None:
    """Raise InvalidRequestError about `param` if it holds what is no token id of this vocabulary."""
    if not token_ids:
        return
    if set(map(type, token_ids)) != {int}:
        strange = next(token for token in token_ids if type(token) is not int)
        message = f"{param} holds {strange!r}; token ids must be integers"
        raise InvalidRequestError(message, param=param)
    if min(token_ids) < 0 or max(token_ids) >= num_vocab:
        strange = next(token for token in token_ids if not 0 <= token < num_vocab)
        message = f"{param} holds token id {strange}; this model's are 0 to {num_vocab - 1}"
        raise InvalidRequestError(message, param=param)


def failure(request_id: str, error: Exception) -> RequestFailed:
    """Return the event that reports `error`; what is not of our error tree is reported as its root."""
    if isinstance(error, SlipstreamError):
        return RequestFailed(request_id, type(error).__name__, error.message, error.param)
    return RequestFailed(request_id, SlipstreamError.__name__, f"{type(error).__name__}: {error}")
