"""Calls as plain JSON are told from other content."""

from __future__ import annotations

import pytest

from slipstream.chat.bare_calls import bare_calls, may_be_calls

CALL = '{"name": "add", "arguments": {"a": 1}}'
ADD = ("", "add", '{"a": 1}')


@pytest.mark.parametrize(
    ("content", "calls"),
    [
        (CALL, [ADD]),
        (f"```json\n{CALL}\n```", [ADD]),
        (f"```json\n{CALL}\n{CALL}\n```\n", [ADD, ADD]),
        ('{"name": "add", "parameters": {"a": 1}}', [ADD]),
        ('{\n  "name": "add",\n  "arguments": {}\n}', [("", "add", "{}")]),
        (f"{CALL} is the call.", []),
        ('{"name": "Ada", "arguments": {}}', []),
        ('{"name": "add", "age": 1}', []),
        ('{"name": ["add"], "arguments": {}}', []),
        ('{"name": "add", "argum', []),
        ("[" * 100_000, []),
        ("", []),
    ],
)
def test_only_calls_and_nothing_else_are_calls(content: str, calls: list[object]) -> None:
    assert bare_calls(content, {"add"}) == calls


@pytest.mark.parametrize("content", [CALL, f"```json\n{CALL}", f"```\n{CALL}"])
def test_every_beginning_of_a_call_may_be_one(content: str) -> None:
    assert all(may_be_calls(content[:end]) for end in range(len(content)))


@pytest.mark.parametrize("content", ["Hello", '{"age"', "```python\n", "[1]", "{1, 2}"])
def test_other_content_is_not_held(content: str) -> None:
    assert not may_be_calls(content)
