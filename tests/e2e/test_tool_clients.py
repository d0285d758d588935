"""Tools through the official openai and anthropic clients, against a real server with the demo model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
NAME = "get weather"  # the model sees get_weather
FUNCTION = {"name": NAME, "description": "Weather of a city", "parameters": SCHEMA}
CHAT: dict[str, Any] = {
    "model": "",
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": NAME}},
    "parallel_tool_calls": False,
    "temperature": 0,
    "max_tokens": 100,
}
RESPONSES: dict[str, Any] = {
    "model": "",
    "tools": [{"type": "function", **FUNCTION, "strict": True}],
    "tool_choice": {"type": "function", "name": NAME},
    "parallel_tool_calls": False,
    "temperature": 0,
    "max_output_tokens": 100,
}
MESSAGES: dict[str, Any] = {
    "model": "",
    "tools": [{"name": NAME, "description": "Weather of a city", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": NAME, "disable_parallel_tool_use": True},
    "max_tokens": 100,
    "extra_body": {"temperature": 0},
}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as value:
        yield value


@pytest.fixture
def claude(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as value:
        yield value


def is_city(arguments: Any) -> bool:
    return arguments.keys() == {"city"} and arguments["city"] in ("Rome", "Oslo")


def test_a_chat_calls_and_takes_the_result(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(messages=ASK, **CHAT).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name == NAME
    assert is_city(json.loads(call.function.arguments))
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."}
    messages = [*ASK, choice.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(messages=messages, **CHAT | {"tool_choice": "none"})
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_a_streamed_chat_adds_up_to_a_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(messages=ASK, **CHAT) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    (call,) = message.tool_calls
    assert call.function.name == NAME
    assert is_city(json.loads(call.function.arguments))


def test_a_response_calls_and_takes_the_result(client: openai.OpenAI) -> None:
    made = client.responses.create(input=ASK, **RESPONSES)
    (call,) = [item for item in made.output if item.type == "function_call"]
    assert call.name == NAME
    assert is_city(json.loads(call.arguments))
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    options = RESPONSES | {"tool_choice": "none"}
    answer = client.responses.create(input=[result], previous_response_id=made.id, **options)
    assert answer.output_text


def test_a_streamed_response_tells_of_arguments(client: openai.OpenAI) -> None:
    with client.responses.stream(input=ASK, **RESPONSES) as stream:
        events = list(stream)
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done.arguments
    assert is_city(json.loads(done.arguments))


def test_a_message_uses_a_tool_and_takes_the_result(claude: anthropic.Anthropic) -> None:
    made = claude.messages.create(messages=ASK, **MESSAGES)
    assert made.stop_reason == "tool_use"
    (block,) = [block for block in made.content if block.type == "tool_use"]
    assert block.name == NAME
    assert is_city(block.input)
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "Sunny."}
    content = [block.model_dump(include={"type", "id", "name", "input"})]
    messages = [
        *ASK,
        {"role": "assistant", "content": content},
        {"role": "user", "content": [result]},
    ]
    answer = claude.messages.create(
        messages=messages, **MESSAGES | {"tool_choice": {"type": "none"}}
    )
    assert answer.content[0].type == "text"


def test_a_streamed_message_tells_of_its_input(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(messages=ASK, **MESSAGES) as stream:
        kinds = [event.type for event in stream]
        (block,) = stream.get_final_message().content
    assert "input_json" in kinds
    assert is_city(block.input)


def test_how_much_to_think_can_be_said_to_any_model(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "", "messages": ASK, "max_tokens": 5}
    answer = client.chat.completions.create(reasoning_effort="low", **options)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
