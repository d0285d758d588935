"""Tools as templates take them: names, definitions, conversations, and the default way to tell of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.types import GenerationSpec
from slipstream.chat.default_tools import with_default_tools
from slipstream.chat.tools import clean_messages, clean_names, loosen, tool_set


def tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def spec(**fields: Any) -> GenerationSpec:
    return GenerationSpec(request_id="r", messages=[], **fields)


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_names_become_ones_a_grammar_can_hold_and_stay_apart() -> None:
    assert clean_names(["a.b", "a b", "ok-1", "…"]) == {
        "a.b": "a_b",
        "a b": "a_b_2",
        "ok-1": "ok-1",
        "…": "tool",
    }
    with pytest.raises(InvalidRequestError, match="two tools"):
        clean_names(["a", "a"])


def test_a_tool_without_parameters_takes_none() -> None:
    tools = tool_set(spec(tools=[tool("a"), tool("b", parameters={}), tool("c", parameters=None)]))
    assert tools is not None
    assert [t["function"]["parameters"] for t in tools.definitions] == [
        {"type": "object", "properties": {}}
    ] * 3


def test_the_choice_says_which_can_be_called() -> None:
    tools = [tool("x y"), tool("z")]
    assert tool_set(spec(tools=tools, tool_choice="none")) is None
    assert tool_set(spec()) is None
    named = tool_set(spec(tools=tools, tool_choice="name:x y"))
    assert named is not None
    assert named.choice == "required"
    assert [t["function"]["name"] for t in named.callable] == ["x_y"]
    assert len(named.definitions) == 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool("a")], "tool_choice": "name:b"}, "tool_choice"),
        ({"tools": [tool("a")], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": ["a"]}, "tools[0].function.name"),
    ],
)
def test_choices_and_tools_there_are_not_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tool_set(spec(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ({"a": 1}, '{"a": 1}'),
        ('{"a": 1', '{"arguments": "{\\"a\\": 1"}'),
        ("", "{}"),
        (None, "{}"),
    ],
)
def test_earlier_calls_have_clean_names_and_arguments(given: Any, clean: str) -> None:
    messages = [{"role": "assistant", "tool_calls": [call("x y", given)]}]
    function = clean_messages(messages, {"x_y": "x y"})[0]["tool_calls"][0]["function"]
    assert function == {"name": "x_y", "arguments": clean}


def test_loose_parameters_keep_names_types_and_what_references_mean() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": "(?=x)", "minLength": 2},
            "b": {"$ref": "#/$defs/B"},
            "c": {"$ref": "#/$defs/gone"},
        },
        "required": ["a"],
        "$defs": {"B": {"type": "array", "items": {"type": "integer", "not": {}}}},
    }
    (loose,) = loosen([tool("t", parameters=parameters)])
    assert loose["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"type": "array", "items": {"type": "integer"}},
            "c": {},
        },
        "required": ["a"],
    }


def test_a_conversation_tells_of_tools_in_words() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call("w", '{"c": "Rom"}')]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "user", "content": "And?"},
    ]
    told = with_default_tools(messages, [tool("w")], is_required=False, has_many=True)
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert told[0]["content"].startswith("Be brief.\n\n")
    assert json.dumps({"name": "w"}) in told[0]["content"]
    assert (
        told[2]["content"]
        == '[TOOL_REQUEST]{"name": "w", "arguments": {"c": "Rom"}}[END_TOOL_REQUEST]'
    )
    assert told[3]["content"] == "[TOOL_RESULT]sunny[END_TOOL_RESULT]\nAnd?"


def test_without_a_place_for_a_system_message_the_user_tells() -> None:
    hello = [{"role": "user", "content": "Hello"}]
    told = with_default_tools(
        hello, [tool("w")], is_required=True, has_many=False, has_system=False
    )
    assert [message["role"] for message in told] == ["user"]
    assert told[0]["content"].endswith("\n\nHello")
    assert "must" in told[0]["content"]
