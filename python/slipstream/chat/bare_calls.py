"""Calls that a model writes as plain JSON, without its format's marks, as Qwen2.5-Coder does. Knows no formats."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_FENCES = ("```json", "```tool_call", "```")
_HEAD = '{"name":"'
_BETWEEN = re.compile(r"(?:\s|,|```(?:json|tool_call)?)*")
_DECODER = json.JSONDecoder()


def may_be_calls(content: str) -> bool:
    """Whether content that begins so may turn out to be calls and nothing else."""
    rest = content.lstrip()
    if any(fence.startswith(rest) for fence in _FENCES):
        return True
    fence = next((fence for fence in _FENCES if rest.startswith(fence)), "")
    head = re.sub(r"\s", "", rest[len(fence) : len(fence) + 64])
    return head.startswith(_HEAD) or _HEAD.startswith(head)


def bare_calls(content: str, names: Collection[str]) -> list[tuple[str, str, str]]:
    """Return ("", name, arguments) of each call in content that is nothing but calls of these tools, else [].

    Linear in the content's length.
    """
    calls = []
    place = _end_of_gap(content, 0)
    while place < len(content):
        try:
            call, place = _DECODER.raw_decode(content, place)
        except (ValueError, RecursionError):
            return []
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(name, str) or name not in names:
            return []
        arguments = call.get("arguments", call.get("parameters"))
        if not isinstance(arguments, dict):
            return []
        calls.append(("", name, json.dumps(arguments, ensure_ascii=False)))
        place = _end_of_gap(content, place)
    return calls


def _end_of_gap(content: str, place: int) -> int:
    gap = _BETWEEN.match(content, place)
    return gap.end() if gap else place
