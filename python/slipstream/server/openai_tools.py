"""What the fields of /v1/chat/completions about tools and reasoning mean. Knows their shapes and no engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.types import Reasoning

if TYPE_CHECKING:
    from slipstream.server.openai_schemas import ChatRequest

# Every word clients have for how much a model thinks, by ours.
EFFORTS = {
    "none": "off",
    "off": "off",
    "on": "on",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def chat_tools(request: ChatRequest) -> list[dict[str, Any]] | None:
    """Return the tools of a request, by whichever of the two fields; None if there are none.

    Raises:
        InvalidRequestError: a tool of another kind than function, or both fields.
    """
    if request.tools and request.functions:
        message = "tools and functions, its older form, exclude each other; give tools"
        raise InvalidRequestError(message, param="functions")
    if request.functions:
        return [{"type": "function", "function": function} for function in request.functions]
    for index, tool in enumerate(request.tools or ()):
        kind = tool.get("type", "function")
        if kind != "function":
            message = f"tools[{index}].type is {str(kind)[:32]!r}; only function tools can be used"
            raise InvalidRequestError(message, param=f"tools[{index}].type")
    return list(request.tools or ()) or None


def chat_tool_choice(request: ChatRequest) -> str:
    """Return the tool choice of a request in our words.

    Raises:
        InvalidRequestError: none of the forms there are.
    """
    choice, name = request.tool_choice, "tool_choice"
    if choice is None and request.function_call is not None:
        choice, name = request.function_call, "function_call"
        if isinstance(choice, dict):
            choice = {"type": "function", "function": choice}
    if choice is None:
        return "auto"
    if choice in ("auto", "none", "required"):
        return str(choice)
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        wanted = function.get("name") if isinstance(function, dict) else choice.get("name")
        if isinstance(wanted, str) and wanted:
            return f"name:{wanted}"
    if isinstance(choice, dict) and choice.get("type") in ("auto", "none", "required"):
        return str(choice["type"])
    message = (
        f"{name} is {str(choice)[:80]}; it must be auto, none, required or "
        '{"type": "function", "function": {"name": …}}'
    )
    raise InvalidRequestError(message, param=name)


def chat_reasoning(request: ChatRequest) -> tuple[Reasoning, dict[str, Any]]:
    """Return how much the model thinks, by any of its spellings, and the template variables that are left.

    The first that says something counts: reasoning_effort, reasoning, thinking, enable_thinking, chat_template_kwargs.

    Raises:
        InvalidRequestError: an effort there is not.
    """
    options = dict(request.chat_template_kwargs or {})
    reasoning, thinking = request.reasoning, request.thinking
    found: list[tuple[str, Any]] = [("reasoning_effort", request.reasoning_effort)]
    if isinstance(reasoning, str):
        found.append(("reasoning", reasoning))
    elif reasoning is not None:
        is_on = {True: "on", False: "off", None: None}[reasoning.enabled]
        found.append(("reasoning.effort", reasoning.effort or is_on))
    if thinking is not None:
        found.append(("thinking", {"enabled": "on", "disabled": "off"}.get(thinking.type)))
    found.append(("enable_thinking", request.enable_thinking))
    for name in ("enable_thinking", "thinking", "reasoning_effort"):
        if isinstance(options.get(name), bool if name != "reasoning_effort" else str):
            found.append((f"chat_template_kwargs.{name}", options.pop(name)))
    budgets = (
        request.thinking_budget,
        request.reasoning_budget,
        thinking.budget_tokens if thinking is not None else None,
        reasoning.max_tokens if reasoning is not None and not isinstance(reasoning, str) else None,
    )
    budget = next((value for value in budgets if value is not None and value >= 0), None)
    for name, value in found:
        if value is not None:
            return Reasoning(effort=_effort(value, name), budget=budget), options
    return Reasoning(budget=budget), options


def _effort(value: str | bool, name: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value not in EFFORTS:
        message = f"{name} is {value[:32]!r}; it must be {', '.join(EFFORTS)}"
        raise InvalidRequestError(message, param=name)
    return EFFORTS[value]
