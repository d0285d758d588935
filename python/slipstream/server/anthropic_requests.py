"""From a checked /v1/messages request to the GenerationSpec that answers it. Refuses what cannot be served."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec, OutputFormat, Reasoning
from slipstream.server.images import content_of, image_part, only_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from slipstream.server.anthropic_schemas import (
        AnthropicMessage,
        AnthropicTool,
        AnthropicToolChoice,
        Block,
        CountTokensRequest,
        MessagesRequest,
    )

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = {"xhigh": "high", "max": "high"}
_NO_TEXT = ("thinking", "redacted_thinking", "tool_use", "tool_result")


def messages_spec(request: MessagesRequest, request_id: str) -> GenerationSpec:
    """Return the spec of a request.

    Raises:
        InvalidRequestError: a field is out of range, or asks for what is not supported.
    """
    if request.mcp_servers:
        message = "mcp_servers are not supported; leave them out"
        raise InvalidRequestError(message, param="mcp_servers")
    given = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k")}
    sampling = SamplingParams(
        max_tokens=request.max_tokens,
        stop=tuple(request.stop_sequences or ()),
        **{name: value for name, value in given.items() if value is not None},
    )
    return prompt_spec(request, request_id, sampling)


def prompt_spec(
    request: CountTokensRequest, request_id: str, sampling: SamplingParams | None = None
) -> GenerationSpec:
    """Return a spec with what makes the prompt of a request: enough to count its tokens.

    Raises:
        InvalidRequestError: a field asks for what is not supported.
    """
    messages = [message for turn in _turns(request) for message in turn]
    if messages[-1]["role"] == "assistant":
        message = "the last message is the assistant's; prefilled answers are not supported, end with the user's"
        raise InvalidRequestError(message, param=f"messages[{len(request.messages) - 1}]")
    choice = request.tool_choice
    config = request.output_config
    form = config.format if config is not None else None
    return GenerationSpec(
        request_id=request_id,
        messages=messages,
        sampling=sampling or SamplingParams(),
        tools=[_tool(tool, index) for index, tool in enumerate(request.tools or [])] or None,
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=not (choice is not None and choice.disable_parallel_tool_use),
        reasoning=_reasoning(request),
        output_format=(
            None
            if form is None
            else OutputFormat(kind="json_schema", value=json.dumps(form.json_schema))
        ),
        parse_output=True,
    )


def _turns(request: CountTokensRequest) -> Iterator[list[dict[str, Any]]]:
    system = request.system
    text = system if isinstance(system, str) or system is None else _text(system, "system")
    if text:
        yield [{"role": "system", "content": text}]
    for index, message in enumerate(request.messages):
        yield _messages(message, f"messages[{index}].content")


def _messages(message: AnthropicMessage, path: str) -> list[dict[str, Any]]:
    """Return a turn as OpenAI's API has it: results of tools are messages of their own, before the user's text."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    blocks = message.content
    results = [
        _tool_result(block, f"{path}[{index}]")
        for index, block in enumerate(blocks)
        if block.type == "tool_result"
    ]
    if results and message.role != "user":
        error = f"{path}: only a user's message can hold tool_result blocks"
        raise InvalidRequestError(error, param=path)
    made: dict[str, Any] = {"role": message.role, "content": _content(blocks, path)}
    thinking = "".join(block.thinking or "" for block in blocks if block.type == "thinking")
    calls = [
        _tool_call(block, f"{path}[{index}]")
        for index, block in enumerate(blocks)
        if block.type == "tool_use"
    ]
    if thinking:
        made["reasoning_content"] = thinking
    if calls:
        made["tool_calls"] = calls
    return results if results and not made["content"] else [*results, made]


def _text(blocks: Sequence[Block], path: str) -> str:
    return only_text(_content(blocks, path), path)


def _content(blocks: Sequence[Block], path: str) -> str | list[dict[str, Any]]:
    parts: list[str | dict[str, Any]] = []
    for index, block in enumerate(blocks):
        if block.type in _NO_TEXT:
            continue
        place = f"{path}[{index}]"
        if block.type == "document":
            parts.append(_document(block, place))
        elif block.type == "text":
            parts.append(_required(block.text, f"{place}.text", "a text block"))
        elif block.type == "image":
            parts.append(image_part(_image_url(block, place), f"{place}.source"))
        else:
            message = f"{place}: this server takes no blocks of type {block.type[:32]!r}, only text and images"
            raise InvalidRequestError(message, param=place)
    return content_of(parts, path)


def _image_url(block: Block, path: str) -> str:
    source = block.source or {}
    kind, media_type, data = (source.get(name) for name in ("type", "media_type", "data"))
    if kind == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    if not (kind == "base64" and isinstance(media_type, str) and isinstance(data, str)):
        message = f'{path}.source must have the type "base64", a media_type and data'
        raise InvalidRequestError(message, param=f"{path}.source")
    return f"data:{media_type};base64,{data}"


def _document(block: Block, path: str) -> str:
    source = block.source or {}
    data = source.get("data")
    if source.get("type") != "text" or not isinstance(data, str):
        message = f'{path}: only documents with a source of type "text" can be read'
        raise InvalidRequestError(message, param=path)
    return data


def _tool_result(block: Block, path: str) -> dict[str, Any]:
    call_id = _required(block.tool_use_id, f"{path}.tool_use_id", "a tool_result block")
    content = block.content or ""
    text = content if isinstance(content, str) else _text(content, f"{path}.content")
    if block.is_error:
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def _tool_call(block: Block, path: str) -> dict[str, Any]:
    call_id = _required(block.id, f"{path}.id", "a tool_use block")
    name = _required(block.name, f"{path}.name", "a tool_use block")
    function = {"name": name, "arguments": json.dumps(block.input or {}, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


def _required(value: str | None, path: str, where: str) -> str:
    if value is None:
        message = f"{path} is required in {where}"
        raise InvalidRequestError(message, param=path)
    return value


def _tool(tool: AnthropicTool, index: int) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        message = (
            f"tools[{index}]: {tool.type[:40]!r} runs on Anthropic's servers, not here; "
            "only tools of type custom can be used"
        )
        raise InvalidRequestError(message, param=f"tools[{index}].type")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.input_schema is not None:
        function["parameters"] = tool.input_schema
    return {"type": "function", "function": function}


def _tool_choice(choice: AnthropicToolChoice | None) -> str:
    if choice is None:
        return "auto"
    if choice.type != "tool":
        return _CHOICES[choice.type]
    return "name:" + _required(choice.name, "tool_choice.name", "a tool_choice of type tool")


def _reasoning(request: CountTokensRequest) -> Reasoning:
    """Thinking that is not mentioned is left to the model, as on the other routes."""
    thinking, config = request.thinking, request.output_config
    if thinking is not None and thinking.type == "disabled":
        return Reasoning(effort="off")
    effort = ""
    if config is not None and config.effort is not None:
        effort = _EFFORTS.get(config.effort, config.effort)
    elif thinking is not None and thinking.type == "enabled":
        effort = "on"
    return Reasoning(effort=effort, budget=thinking.budget_tokens if thinking else None)
