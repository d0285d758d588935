"""The body /v1/responses answers with, and its items."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from slipstream.base.types import FinishReason, Usage
from slipstream.server.errors import describe
from slipstream.server.openai_answers import Answer, chat_logprobs
from slipstream.server.segments import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import GenerationSpec, TokenLogprob
    from slipstream.server.responses_schemas import ResponsesRequest
    from slipstream.server.segments import Segment

_ITEM_PREFIX = {Kind.REASONING: "rs", Kind.MESSAGE: "msg", Kind.TOOL_CALL: "fc"}

_FAILURES = {"invalid_request_error": "invalid_prompt", "rate_limit_error": "rate_limit_exceeded"}

Item = dict[str, Any]


class InputTokensDetails(Answer):
    """Of the prompt's tokens, those found in the KV cache, and those kept there for later."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Answer):
    """Of the output's tokens, those spent on reasoning."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """Token counts of an answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(Answer):
    """Why an answer failed: `code` is one of those OpenAI's clients know, `type` is the finer word of this server."""

    code: str
    message: str
    type: str
    param: str | None = None


class IncompleteDetails(Answer):
    """Why an answer is not complete."""

    reason: Literal["max_output_tokens"]


class ResponseAnswer(Answer):
    """Answer of POST /v1/responses without `stream`, and of GET /v1/responses/{response_id}.

    `output` holds items of the types reasoning, message and function_call, in the order they were made.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]] = Field(default_factory=list)
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, str | None]
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None
    background: bool = False


class DeletedResponse(Answer):
    """Answer of DELETE /v1/responses/{response_id}."""

    id: str
    object: Literal["response.deleted"] = "response.deleted"
    deleted: bool = True


def begun(
    request: ResponsesRequest, spec: GenerationSpec, model: str, created_s: int
) -> ResponseAnswer:
    """Return the body of an answer that has no output yet."""
    format_given = request.text.format if request.text else None
    choice = request.tool_choice
    return ResponseAnswer(
        id=spec.request_id,
        created_at=created_s,
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=model,
        parallel_tool_calls=spec.parallel_tool_calls,
        previous_response_id=request.previous_response_id,
        reasoning={
            "effort": request.reasoning.effort if request.reasoning else None,
            "summary": None,
        },
        store=request.store is not False,
        temperature=spec.sampling.temperature,
        text={
            "format": format_given.model_dump(by_alias=True, exclude_none=True)
            if format_given
            else {"type": "text"}
        },
        tool_choice=choice.model_dump()
        if choice is not None and not isinstance(choice, str)
        else choice or "auto",
        tools=[_tool(tool["function"]) for tool in spec.tools or ()],
        top_logprobs=request.top_logprobs or 0,
        top_p=spec.sampling.top_p,
        truncation="disabled" if spec.context_overflow == "error" else "auto",
        user=request.user,
    )


def ended(
    body: ResponseAnswer, items: list[Item], reason: FinishReason | None, usage: Usage | None
) -> ResponseAnswer:
    """Return the body of an answer that has come to its end."""
    is_cut = reason is FinishReason.LENGTH
    counted = usage or Usage()
    return body.model_copy(
        update={
            "status": "incomplete" if is_cut else "completed",
            "completed_at": None if is_cut else int(time.time()),
            "incomplete_details": IncompleteDetails(reason="max_output_tokens") if is_cut else None,
            "output": items,
            "usage": ResponseUsage(
                input_tokens=counted.num_prompt_tokens,
                input_tokens_details=InputTokensDetails(cached_tokens=counted.num_cached_tokens),
                output_tokens=counted.num_output_tokens,
                output_tokens_details=OutputTokensDetails(
                    reasoning_tokens=counted.num_reasoning_tokens
                ),
                total_tokens=counted.num_prompt_tokens + counted.num_output_tokens,
            ),
        }
    )


def failed(body: ResponseAnswer, items: list[Item], error: BaseException) -> ResponseAnswer:
    """Return the body of an answer that failed on its way."""
    detail = describe(error)
    failure = ResponseFailure(
        code=_FAILURES.get(detail.type, "server_error"),
        message=detail.message,
        type=detail.code or detail.type,
        param=detail.param,
    )
    return body.model_copy(update={"status": "failed", "error": failure, "output": items})


def item_id(response_id: str, segment: Segment) -> str:
    """Return the id of an item: unique, and the same in every event about it."""
    return (
        f"{_ITEM_PREFIX[segment.kind]}_{response_id.removeprefix('resp_')[:40]}{segment.index:04x}"
    )


def item_of(response_id: str, segment: Segment, status: str) -> Item:
    """Return a segment as an item; one in progress has no content yet."""
    made: Item = {"id": item_id(response_id, segment)}
    is_begun = status == "in_progress"
    if segment.kind is Kind.TOOL_CALL:
        arguments = "" if is_begun else segment.text
        made |= {
            "type": "function_call",
            "call_id": segment.call_id,
            "name": segment.name,
            "arguments": arguments,
        }
    elif segment.kind is Kind.MESSAGE:
        made |= {"type": "message", "role": "assistant"}
    else:
        made |= {"type": "reasoning", "summary": []}
    if segment.kind is not Kind.TOOL_CALL:
        made["content"] = [] if is_begun else [part_of(segment, segment.text, segment.logprobs)]
    made["status"] = status
    return made


def part_of(segment: Segment, text: str, logprobs: Sequence[TokenLogprob]) -> Item:
    """Return the one part of a message's or a reasoning's content."""
    if segment.kind is Kind.REASONING:
        return {"type": "reasoning_text", "text": text}
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": token_logprobs(logprobs),
    }


def token_logprobs(tokens: Sequence[TokenLogprob] | None) -> list[Item]:
    """Return log-probabilities in the form of this API."""
    return [token.model_dump() for token in chat_logprobs(tokens or ()).content]


def _tool(function: dict[str, Any]) -> Item:
    return {
        "type": "function",
        "name": function["name"],
        "description": function.get("description"),
        "parameters": function["parameters"],
        "strict": True,
    }
