"""From a checked OpenAI request to the GenerationSpecs that answer it. Refuses what cannot be served yet."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec
from slipstream.runtime.generation import fan_out
from slipstream.server.images import content_of, image_part
from slipstream.server.openai_tools import chat_reasoning, chat_tool_choice, chat_tools
from slipstream.server.output_formats import output_format
from slipstream.server.schema_base import listed

if TYPE_CHECKING:
    from slipstream.server.openai_schemas import (
        ChatMessage,
        ChatRequest,
        CompletionRequest,
        ContentPart,
        SamplingFields,
    )
    from slipstream.server.output_schemas import CompletionFields

# Fields that have the same name and meaning in SamplingParams; null takes its default.
_SAME_NAME = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "presence_penalty",
    "frequency_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "ignore_eos",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "xtc_probability",
    "xtc_threshold",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
)
_OVERFLOW_POLICIES = {
    "stopAtLimit": "error",
    "truncateMiddle": "truncate_middle",
    "rollingWindow": "rolling_window",
}
_UNSET = -1  # what several clients send for "no limit", "any seed", "all tokens"


def chat_specs(
    request: ChatRequest, request_id: str, overflow: str = "error"
) -> list[GenerationSpec]:
    """Return one spec for each of the request's `n` choices.

    Args:
        request: Checked.
        request_id: Of the answer.
        overflow: The policy for a full context, where the request names none.

    Raises:
        InvalidRequestError: a field is out of range, or asks for what is not supported.
    """
    _refuse_chat_extras(request)
    if request.top_logprobs is not None and not request.logprobs:
        message = "top_logprobs needs logprobs to be true"
        raise InvalidRequestError(message, param="top_logprobs")
    max_tokens = request.max_tokens
    if request.max_completion_tokens is not None:
        max_tokens = request.max_completion_tokens
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    messages = [_message(item, index) for index, item in enumerate(request.messages)]
    reasoning, options = chat_reasoning(request)
    spec = GenerationSpec(
        request_id=request_id,
        messages=messages,
        sampling=sampling_params(request, max_tokens, logprobs),
        tools=chat_tools(request),
        tool_choice=chat_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        reasoning=reasoning,
        parse_output=True,
        template_options=options,
        output_format=output_format(request),
        context_overflow=_context_overflow(request) or overflow,
    )
    return fan_out(spec, request.n or 1)


def completion_specs(
    request: CompletionRequest, request_id: str, overflow: str = "error"
) -> list[GenerationSpec]:
    """Return `n` specs for each prompt; a spec's place in the list is the index of its choice. Arguments as chat_specs.

    Raises:
        InvalidRequestError: a field is out of range, or asks for what is not supported.
    """
    num_choices = request.n or 1
    _refuse_completion_extras(request, num_choices)
    sampling = sampling_params(request, request.max_tokens, request.logprobs)
    form, overflow = output_format(request), _context_overflow(request) or overflow
    specs: list[GenerationSpec] = []
    for place, prompt in enumerate(listed(request.prompt)):
        spec = GenerationSpec(
            request_id=f"{request_id}-{place}",
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_token_ids=None if isinstance(prompt, str) else prompt,
            sampling=sampling,
            echo_prompt=bool(request.echo),
            output_format=form,
            context_overflow=overflow,
        )
        specs += fan_out(spec, num_choices)
    return specs


def _context_overflow(request: CompletionFields) -> str | None:
    theirs = _OVERFLOW_POLICIES.get(request.contextOverflowPolicy or "")
    if theirs and request.context_overflow not in (None, theirs):
        message = (
            "context_overflow and contextOverflowPolicy say different things; give one of them"
        )
        raise InvalidRequestError(message, param="contextOverflowPolicy")
    return request.context_overflow or theirs


def new_id(prefix: str, joint: str = "-") -> str:
    """Return a fresh id such as `chatcmpl-3f…`."""
    return f"{prefix}{joint}{secrets.token_hex(12)}"


def sampling_params(
    request: SamplingFields, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Return the sampling a request asks for.

    Args:
        request: Its fields.
        max_tokens: By whatever name the route has for it; None or -1 until the context is full.
        logprobs: See SamplingParams.

    Raises:
        InvalidRequestError: a field is out of range.
    """
    values: dict[str, Any] = {
        name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None
    }
    if request.top_k is not None:
        values["top_k"] = 0 if request.top_k == _UNSET else request.top_k
    if max_tokens is not None and max_tokens != _UNSET:
        values["max_tokens"] = max_tokens
    if request.seed is not None and request.seed != _UNSET:
        values["seed"] = request.seed
    if request.stop is not None:
        values["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.stop_token_ids is not None:
        values["stop_token_ids"] = tuple(request.stop_token_ids)
    if request.dry_sequence_breakers is not None:
        values["dry_sequence_breakers"] = tuple(request.dry_sequence_breakers)
    if request.logit_bias:
        values["logit_bias"] = _logit_bias(request.logit_bias)
    return SamplingParams(logprobs=logprobs, **values)


def _logit_bias(entries: dict[str, float]) -> dict[int, float]:
    for key in entries:
        if not (key.isascii() and key.isdigit() and len(key) < 10):  # fits 32 bits
            message = f"logit_bias has the key {key[:32]!r}; keys must be token ids, as in {{'1234': -100}}"
            raise InvalidRequestError(message, param="logit_bias")
    return {int(key): bias for key, bias in entries.items()}


def _message(message: ChatMessage, index: int) -> dict[str, Any]:
    """Return the message as GenerationSpec has it, only the fields that are there."""
    content: str | list[Any] | None = message.content
    if isinstance(content, list):
        path = f"messages[{index}].content"
        parts = [_part(part, f"{path}[{place}]") for place, part in enumerate(content)]
        content = content_of(parts, path)
    if content is None and not message.tool_calls:
        text = f"messages[{index}].content is null; only an assistant message with tool_calls may leave it out"
        raise InvalidRequestError(text, param=f"messages[{index}].content")
    rendered: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": content or "",
    }
    for name in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            rendered[name] = value
    return rendered


def _part(part: ContentPart, path: str) -> str | dict[str, Any]:
    if part.type == "image_url":
        url = part.image_url.url if part.image_url else None
        return image_part(url, f"{path}.image_url.url")
    if part.type != "text":
        kinds = {
            "input_audio": "audio",
            "file": "files",
            "video_url": "video",
        }
        kind = kinds.get(part.type, f"parts of type {part.type[:32]!r}")
        message = f"{path}: this server takes no {kind}, only text and images"
        raise InvalidRequestError(message, param=path)
    if part.text is None:
        message = f"{path}.text is required in a text part"
        raise InvalidRequestError(message, param=f"{path}.text")
    return part.text


def refuse(param: str, what: str) -> None:
    """Raise the error about a field that asks for what is not supported.

    Args:
        param: The field.
        what: Words for it and a verb, as in `tools are`.

    Raises:
        InvalidRequestError: always.
    """
    message = f"{what} not supported yet; leave {param} out"
    raise InvalidRequestError(message, param=param)


def _refuse_chat_extras(request: ChatRequest) -> None:
    if request.modalities is not None and request.modalities != ["text"]:
        refuse("modalities", "modalities other than text are")


def _refuse_completion_extras(request: CompletionRequest, num_choices: int) -> None:
    if request.suffix:
        refuse("suffix", "a suffix (fill in the middle) is")
    if request.best_of is not None and request.best_of != num_choices:
        refuse("best_of", "best_of other than n is")
    if request.echo and request.logprobs is not None:
        refuse("echo", "echo together with logprobs (log-probabilities of the prompt) is")
