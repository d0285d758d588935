"""From a checked /v1/responses request to the messages and the GenerationSpec that answer it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.types import GenerationSpec, OutputFormat, Reasoning
from slipstream.server.images import content_of, image_part, only_text
from slipstream.server.openai_requests import refuse, sampling_params
from slipstream.server.responses_schemas import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    ToolChoice,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.runtime.chat_store import History
    from slipstream.server.responses_schemas import (
        FunctionTool,
        InputItem,
        InputPart,
        ReasoningInput,
        ResponsesRequest,
        TextFormat,
    )

LOGPROBS = "message.output_text.logprobs"
_TEXT_TYPES = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_TRUNCATIONS = {"auto": "rolling_window", "disabled": "error"}
_EFFORTS = {"none": "off", "minimal": "low", "xhigh": "high"}

Message = dict[str, Any]


def input_messages(given: str | Sequence[InputItem]) -> list[Message]:
    """Return the items of a request as messages of a chat.

    What belongs to one answer becomes one message: its reasoning, its text and its calls.

    Raises:
        InvalidRequestError: a part of the content is neither text nor an image.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    for index, item in enumerate(given):
        path = f"input[{index}]"
        if isinstance(item, InputMessage):
            _add_message(messages, item, path)
        elif isinstance(item, FunctionCallOutput):
            text = _text(item.output, f"{path}.output")
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
        elif isinstance(item, FunctionCall):
            _add_call(messages, item)
        else:
            _add_reasoning(messages, item, path)
    return messages


def responses_spec(
    request: ResponsesRequest,
    request_id: str,
    history: History,
    new: list[Message],
    overflow: str = "error",
) -> GenerationSpec:
    """Return the spec of a request.

    Args:
        request: Checked.
        request_id: Of the answer.
        history: Of the answer it continues, or an empty one.
        new: From `input_messages`.
        overflow: The policy for a full context, where the request names none.

    Raises:
        InvalidRequestError: a field is out of range, or asks for what is not supported.
    """
    _refuse_extras(request)
    _check_outputs([*history.messages, *new])
    system = request.instructions if request.instructions is not None else history.system_prompt
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    wants_logprobs = LOGPROBS in (request.include or ())
    if request.top_logprobs is not None and not wants_logprobs:
        message = f"top_logprobs needs {LOGPROBS!r} in include"
        raise InvalidRequestError(message, param="top_logprobs")
    return GenerationSpec(
        request_id=request_id,
        messages=[*opening, *history.messages, *new],
        sampling=sampling_params(
            request,
            request.max_output_tokens,
            (request.top_logprobs or 0) if wants_logprobs else None,
        ),
        tools=[_tool(tool, index) for index, tool in enumerate(request.tools or ())] or None,
        tool_choice=_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls is not False,
        reasoning=_reasoning(request),
        output_format=_output_format(request.text.format if request.text else None),
        parse_output=True,
        context_overflow=_TRUNCATIONS.get(request.truncation or "", overflow),
    )


def _add_message(messages: list[Message], item: InputMessage, path: str) -> None:
    content = _content(item.content, f"{path}.content")
    if item.role == "assistant" and messages and _is_bare_reasoning(messages[-1]):
        messages[-1]["content"] = content
        return
    role = "system" if item.role == "developer" else item.role
    messages.append({"role": role, "content": content})


def _add_call(messages: list[Message], item: FunctionCall) -> None:
    if not (messages and messages[-1]["role"] == "assistant"):
        messages.append({"role": "assistant", "content": ""})
    function = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": function}
    messages[-1].setdefault("tool_calls", []).append(call)


def _add_reasoning(messages: list[Message], item: ReasoningInput, path: str) -> None:
    text = _text(item.content or item.summary or [], f"{path}.content")
    messages.append({"role": "assistant", "content": "", "reasoning_content": text})


def _is_bare_reasoning(message: Message) -> bool:
    return (
        "reasoning_content" in message and not message["content"] and not message.get("tool_calls")
    )


def _text(content: str | Sequence[InputPart], path: str) -> str:
    return only_text(_content(content, path), path)


def _content(content: str | Sequence[InputPart], path: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[str | dict[str, Any]] = []
    for index, part in enumerate(content):
        if part.type == "refusal":
            parts.append(part.refusal or "")
        elif part.type == "input_image":
            parts.append(image_part(part.image_url, f"{path}[{index}].image_url"))
        elif part.type not in _TEXT_TYPES:
            message = f"{path}[{index}]: parts of type {part.type[:32]!r} cannot be read; send text or images"
            raise InvalidRequestError(message, param=f"{path}[{index}]")
        elif part.text is None:
            message = f"{path}[{index}].text is required in a text part"
            raise InvalidRequestError(message, param=f"{path}[{index}].text")
        else:
            parts.append(part.text)
    return content_of(parts, path)


def _check_outputs(messages: Sequence[Message]) -> None:
    """Refuse the output of a call nobody made: the model would not know what it means."""
    known: set[str] = set()
    for message in messages:
        known.update(call["id"] for call in message.get("tool_calls") or ())
        call_id = message.get("tool_call_id")
        if call_id is not None and call_id not in known:
            text = f"there is no function_call with the call_id {call_id[:64]!r} before its output"
            raise InvalidRequestError(text, param="input")


def _tool(tool: FunctionTool, index: int) -> dict[str, Any]:
    path = f"tools[{index}]"
    if tool.type != "function":
        refuse(f"{path}.type", f"a tool of type {tool.type[:32]!r} is")
    if not tool.name:
        message = f"{path}.name is required"
        raise InvalidRequestError(message, param=f"{path}.name")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _tool_choice(request: ResponsesRequest) -> str:
    choice = request.tool_choice
    names = [tool.name for tool in request.tools or ()]
    if isinstance(choice, ToolChoice):
        if choice.name not in names:
            message = f"tool_choice names {choice.name[:64]!r}, which is not among the tools"
            raise InvalidRequestError(message, param="tool_choice")
        return f"name:{choice.name}"
    if choice == "required" and not names:
        message = "tool_choice is required, but there are no tools"
        raise InvalidRequestError(message, param="tool_choice")
    return choice or "auto"


def _reasoning(request: ResponsesRequest) -> Reasoning:
    given = request.reasoning
    if given is None:
        return Reasoning()
    effort = given.effort or ""
    return Reasoning(effort=_EFFORTS.get(effort, effort), budget=given.max_tokens)


def _output_format(given: TextFormat | None) -> OutputFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return OutputFormat(kind="json_object", name="text.format")
    if given.schema_ is None:
        message = "text.format.schema is required with json_schema"
        raise InvalidRequestError(message, param="text.format.schema")
    return OutputFormat(
        kind="json_schema", value=json.dumps(given.schema_), name="text.format.schema"
    )


def _refuse_extras(request: ResponsesRequest) -> None:
    if request.background:
        refuse("background", "background answers are")
    if request.conversation is not None:
        refuse("conversation", "conversations are")
    if request.prompt is not None:
        refuse("prompt", "prompt templates are")
    if request.n not in (None, 1):
        refuse("n", "more than one answer is")
