"""The bodies the OpenAI routes answer with, and how the runtime's values become their parts."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from starlette.responses import Response

from slipstream.base.errors import ClosedError
from slipstream.base.types import FinishReason, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import TokenLogprob
    from slipstream.runtime.results import GenerationResult

_LOWEST_LOGPROB = -9999.0

FinishWord = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """What all answer models share."""

    model_config = ConfigDict(frozen=True)


def without_nulls(answer: Answer) -> Response:
    """Return an answer as JSON, without the fields that are null."""
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


class PromptTokensDetails(Answer):
    """Of the prompt's tokens, those that were already in the KV cache."""

    cached_tokens: int


class CompletionTokensDetails(Answer):
    """Of the output's tokens, those spent on reasoning."""

    reasoning_tokens: int


class UsageAnswer(Answer):
    """Token counts of a request: its prompts once each, all its choices' output."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(Answer):
    """A token that could have been taken. `bytes` is exact; `token` replaces what is no whole character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """The token that was taken, and the most likely ones."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log-probabilities of a chat choice."""

    content: list[ChatTokenLogprob]
    refusal: None = None


class CompletionLogprobs(Answer):
    """Log-probabilities of a completion choice: parallel lists, one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CalledFunction(Answer):
    """The function of a tool call; `arguments` is JSON text."""

    name: str
    arguments: str


class MessageToolCall(Answer):
    """A tool the model wants to be called."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Answer):
    """The message a chat choice answers with.

    `content` is null where there are only tool calls. `reasoning_content` and `reasoning` hold the same text, by the
    two names clients know; they and `tool_calls` are there only if there is something in them.
    """

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[MessageToolCall] | None = None

    @model_serializer(mode="wrap")
    def _leave_out_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        for name in ("reasoning_content", "reasoning", "tool_calls"):
            if not fields.get(name):
                fields.pop(name, None)
        return fields


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishWord


class CompletionChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishWord


class ChatCompletion(Answer):
    """Answer of POST /v1/chat/completions without `stream`; `stats` is LM Studio's, about a draft model."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    stats: dict[str, Any] = Field(default_factory=dict)


class Completion(Answer):
    """Answer of POST /v1/completions without `stream`; `stats` as in ChatCompletion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageAnswer
    stats: dict[str, Any] = Field(default_factory=dict)


class ModelEntry(Answer):
    """A model this server can answer with."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Answer):
    """Answer of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ErrorFields(Answer):
    """What went wrong; `param` names the field at fault, `code` is a word a program can compare."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Body of every answer with a status of 400 or above."""

    error: ErrorFields


def finish_word(reason: FinishReason | None) -> FinishWord:
    """Return OpenAI's word for why a choice ended.

    Raises:
        ClosedError: it was aborted by us, as at shutdown; that is an error to a client that still listens.
    """
    if reason is FinishReason.STOP:
        return "stop"
    if reason is FinishReason.LENGTH:
        return "length"
    if reason is FinishReason.TOOL_CALLS:
        return "tool_calls"
    message = "the request was aborted before its end"
    raise ClosedError(message)


def assistant_message(result: GenerationResult) -> AssistantMessage:
    """Return the message of a result."""
    calls = [
        MessageToolCall(
            id=call.call_id, function=CalledFunction(name=call.name, arguments=call.arguments)
        )
        for call in result.tool_calls
    ]
    return AssistantMessage(
        content=None if calls and not result.text else result.text,
        reasoning_content=result.reasoning or None,
        reasoning=result.reasoning or None,
        tool_calls=calls or None,
    )


def add_usage(usages: Sequence[Usage | None], num_choices: int) -> UsageAnswer:
    """Return the counts of a request.

    Args:
        usages: One for each choice, in order.
        num_choices: Choices for each prompt; a prompt counts once, as its first choice saw it.
    """
    present = [usage or Usage() for usage in usages]
    prompts = present[::num_choices]
    num_prompt_tokens = sum(usage.num_prompt_tokens for usage in prompts)
    num_output_tokens = sum(usage.num_output_tokens for usage in present)
    cached = PromptTokensDetails(cached_tokens=sum(usage.num_cached_tokens for usage in prompts))
    return UsageAnswer(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_output_tokens,
        total_tokens=num_prompt_tokens + num_output_tokens,
        prompt_tokens_details=cached,
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=sum(usage.num_reasoning_tokens for usage in present)
        ),
    )


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return the chat form of `tokens`."""
    return ChatLogprobs(
        content=[
            ChatTokenLogprob(
                token=token.piece.decode("utf-8", errors="replace"),
                logprob=_finite(token.logprob),
                bytes=list(token.piece),
                top_logprobs=[
                    TopLogprob(
                        token=piece.decode("utf-8", errors="replace"),
                        logprob=_finite(logprob),
                        bytes=list(piece),
                    )
                    for _token_id, piece, logprob in token.top
                ],
            )
            for token in tokens
        ]
    )


def completion_logprobs(
    tokens: Sequence[TokenLogprob], offset: int = 0
) -> tuple[CompletionLogprobs, int]:
    """Return the completions form of `tokens`, and the offset at which the next ones start.

    Args:
        tokens: In order.
        offset: Characters of the output before them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(decoder.decode(token.piece))
    logprobs = CompletionLogprobs(
        tokens=[_token_name(token.piece) for token in tokens],
        token_logprobs=[_finite(token.logprob) for token in tokens],
        top_logprobs=[
            {_token_name(piece): _finite(logprob) for _id, piece, logprob in token.top}
            for token in tokens
        ],
        text_offset=offsets,
    )
    return logprobs, offset


def _token_name(piece: bytes) -> str:
    """Return the piece's text; a part of a character is spelled out, so that two of them keep two names."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    """JSON has no infinities; -9999 is what OpenAI's API sends for a token out of reach."""
    return max(logprob, _LOWEST_LOGPROB)
