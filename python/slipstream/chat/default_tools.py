"""Tools for models whose template knows none: told in the system prompt, called between two marks.

The marks are LM Studio's. Earlier calls are shown to the model in the same form, and their results as words of the
user, since such a template has no other place for them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

Message = dict[str, Any]
CALL_START = "[TOOL_REQUEST]"
CALL_END = "[END_TOOL_REQUEST]"
_RESULT_START = "[TOOL_RESULT]"
_RESULT_END = "[END_TOOL_RESULT]"
_INTRODUCTION = f"""You can use tools. These are all there are, one JSON object to a line:
%s
To use one, write its name and its arguments between two marks, exactly so:
{CALL_START}{{"name": "the_tool", "arguments": {{"some_argument": "its value"}}}}{CALL_END}
Then stop: the result comes in the next message. Use a tool only where it helps; else just answer.%s"""
_MANY = " You can use several at once, each between marks of its own."
_MUST = " This time you must use one."


def with_default_tools(
    messages: Sequence[Message],
    definitions: Sequence[dict[str, Any]],
    *,
    is_required: bool,
    has_many: bool,
    has_system: bool = True,
) -> list[Message]:
    """Return a conversation that tells of the tools, in messages of text only.

    Args:
        messages: From `tools.clean_messages`.
        definitions: Of the tools.
        is_required: One must be called.
        has_many: One answer may hold several calls.
        has_system: Whether there is a place for a system message; else the first message of the user tells.
    """
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in definitions)
    ending = (_MANY if has_many else "") + (_MUST if is_required else "")
    told = [_as_text(message) for message in messages]
    return _introduce(_join_results(told), _INTRODUCTION % (listed, ending), has_system)


def _introduce(messages: list[Message], introduction: str, has_system: bool) -> list[Message]:
    roles = ("system", "developer") if has_system else ("user",)
    first = messages[0] if messages else None
    if first is not None and first.get("role") in roles:
        content = first.get("content") or ""
        joined: Any = (
            f"{content}\n\n{introduction}" if has_system else f"{introduction}\n\n{content}"
        )
        if isinstance(content, list):
            part = {"type": "text", "text": introduction}
            joined = [*content, part] if has_system else [part, *content]
        return [{**first, "content": joined}, *messages[1:]]
    role = "system" if has_system else "user"
    return [{"role": role, "content": introduction}, *messages]


def _as_text(message: Message) -> Message:
    """Return a message without fields of tools, their meaning in its text."""
    if message.get("role") == "tool":
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        return {"role": "user", "content": f"{_RESULT_START}{text}{_RESULT_END}", "is_result": True}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    texts = (
        [message["content"]]
        if isinstance(message.get("content"), str) and message["content"]
        else []
    )
    for call in calls:
        function = call["function"]
        arguments = json.loads(function["arguments"])
        call_text = json.dumps(
            {"name": function["name"], "arguments": arguments}, ensure_ascii=False
        )
        texts.append(f"{CALL_START}{call_text}{CALL_END}")
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(texts)}


def _join_results(messages: list[Message]) -> list[Message]:
    """Make one message of results in a row and of what the user says after them: many templates want turns."""
    joined: list[Message] = []
    after_result = False
    for message in messages:
        is_result = message.pop("is_result", False)
        follows = (
            after_result
            and message.get("role") == "user"
            and isinstance(message.get("content"), str)
        )
        if follows:
            joined[-1]["content"] += "\n" + message["content"]
        else:
            joined.append(message)
        after_result = is_result or follows
    return joined
