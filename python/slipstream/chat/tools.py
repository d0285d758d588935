"""The tools of a request as templates and grammars take them: clean names, whole definitions. Knows no template."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slipstream.base.types import GenerationSpec

Message = dict[str, Any]
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
# What every grammar of a tool's parameters can express; the rest narrows strings and numbers down.
_LOOSE_KEYWORDS = (
    "type",
    "description",
    "enum",
    "const",
    "required",
    "properties",
    "items",
    "title",
)
_MAX_REF_DEPTH = 8


@dataclass(slots=True, frozen=True)
class ToolSet:
    """The tools a model may call.

    Attributes:
        definitions: OpenAI's, with clean names, descriptions and parameters.
        originals: Clean name to what the caller calls the tool.
        choice: auto or required.
        callable: Of the definitions, those that may be called: all, or the one the choice names.
    """

    definitions: list[dict[str, Any]]
    originals: dict[str, str]
    choice: str
    callable: list[dict[str, Any]]


def tool_set(spec: GenerationSpec) -> ToolSet | None:
    """Return the tools of a request, None if it has none or wants none called.

    Raises:
        InvalidRequestError: a tool has no name, two have the same, or the choice names none of them.
    """
    choice = spec.tool_choice
    if not spec.tools:
        if choice not in ("auto", "none"):
            message = f"tool_choice is {choice!r}, but there are no tools"
            raise InvalidRequestError(message, param="tool_choice")
        return None
    if choice == "none":
        return None
    clean = clean_names([_name_of(tool, index) for index, tool in enumerate(spec.tools)])
    definitions = [
        _definition(tool["function"], name)
        for tool, name in zip(spec.tools, clean.values(), strict=True)
    ]
    originals = {name: original for original, name in clean.items()}
    if choice in ("auto", "required"):
        return ToolSet(definitions, originals, choice, definitions)
    wanted = choice.removeprefix("name:")
    if not choice.startswith("name:") or wanted not in clean:
        message = f"tool_choice names {wanted[:64]!r}, which is not among the tools"
        raise InvalidRequestError(message, param="tool_choice")
    only = [tool for tool in definitions if tool["function"]["name"] == clean[wanted]]
    return ToolSet(definitions, originals, "required", only)


def clean_names(names: Sequence[str]) -> dict[str, str]:
    """Map names of tools to ones of letters, digits, "_" and "-" only, which models and grammars get right.

    Raises:
        InvalidRequestError: two are the same.
    """
    clean: dict[str, str] = {}
    for name in names:
        if name in clean:
            message = f"two tools are called {name[:64]!r}; give each a name of its own"
            raise InvalidRequestError(message, param="tools")
        base = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "tool"
        candidate, count = base, 1
        while candidate in clean.values():
            count += 1
            candidate = f"{base}_{count}"
        clean[name] = candidate
    return clean


def clean_messages(messages: Sequence[Message], originals: Mapping[str, str]) -> list[Message]:
    """Return a conversation as templates can rely on it.

    Calls have a type, the clean names of tools and an object as their arguments.

    Args:
        messages: In OpenAI's shape.
        originals: See ToolSet.
    """
    names = {original: name for name, original in originals.items()}
    # What is no message at all is the template's to refuse.
    return [_clean_message(m, names) if isinstance(m, dict) else m for m in messages]


def loosen(definitions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return definitions whose parameters keep only what every grammar can express: names, types and enums."""
    loose = []
    for tool in definitions:
        function = tool["function"]
        schema = _loose(function["parameters"], function["parameters"], 0)
        schema = (
            {"type": "object", **schema}
            if schema.get("type") in (None, "object")
            else _NO_PARAMETERS
        )
        loose.append({"type": "function", "function": {**function, "parameters": schema}})
    return loose


def _name_of(tool: Any, index: int) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        message = f"tools[{index}].function.name is required"
        raise InvalidRequestError(message, param=f"tools[{index}].function.name")
    return name


def _definition(function: Mapping[str, Any], name: str) -> dict[str, Any]:
    parameters = function.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        parameters = _NO_PARAMETERS
    elif "type" not in parameters:
        parameters = {"type": "object", **parameters}
    description = function.get("description")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description if isinstance(description, str) else "",
            "parameters": parameters,
        },
    }


def _clean_message(message: Message, names: Mapping[str, str]) -> Message:
    cleaned = dict(message)
    calls = cleaned.get("tool_calls")
    if isinstance(calls, list) and calls:
        cleaned["tool_calls"] = [_clean_call(call, names) for call in calls]
    elif "tool_calls" in cleaned:
        del cleaned["tool_calls"]
    if cleaned.get("role") == "tool" and cleaned.get("name") in names:
        cleaned["name"] = names[cleaned["name"]]
    return cleaned


def _clean_call(call: Any, names: Mapping[str, str]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return call
    arguments = function.get("arguments")
    is_text = isinstance(arguments, str)
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):  # of an answer that was cut off, or of another API
        parsed, is_text = ({"arguments": arguments} if arguments else {}), False
    text = arguments if is_text else json.dumps(parsed, ensure_ascii=False)
    name = names.get(function["name"], function["name"])
    return {**call, "type": "function", "function": {"name": name, "arguments": text}}


def _loose(schema: Any, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if not isinstance(schema, dict) or depth > _MAX_REF_DEPTH:
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _loose(_resolve(root, reference), root, depth + 1)
    loose = {key: schema[key] for key in _LOOSE_KEYWORDS if key in schema}
    if isinstance(loose.get("properties"), dict):
        loose["properties"] = {
            key: _loose(value, root, depth + 1) for key, value in loose["properties"].items()
        }
    if "items" in loose:
        loose["items"] = _loose(loose["items"], root, depth + 1)
    return loose


def _resolve(root: Any, reference: str) -> Any:
    found = root
    for key in reference.removeprefix("#").split("/")[1:]:
        found = (
            found.get(key.replace("~1", "/").replace("~0", "~"))
            if isinstance(found, dict)
            else None
        )
    return found
