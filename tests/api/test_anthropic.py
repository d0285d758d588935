"""POST /v1/messages and count_tokens over a scripted generation."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsBase
from pydantic import TypeAdapter

from slipstream.base.errors import ContextLengthError, EngineDiedError
from slipstream.base.types import (
    FinishReason,
    OutputDelta,
    OutputFormat,
    Reasoning,
    ToolCallDelta,
    Usage,
)
from slipstream.server.anthropic_schemas import CountTokensRequest, MessagesRequest
from tests.support.fake_generation import MODEL, FakeGeneration

if TYPE_CHECKING:
    from starlette.testclient import TestClient

URL = "/v1/messages"
HELLO = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
EVENT = TypeAdapter(RawMessageStreamEvent)
TOOL = {"name": "fly", "description": "Flies.", "input_schema": {"type": "object"}}


def think_and_call(spec):
    begin = Usage(num_prompt_tokens=9, num_cached_tokens=4)
    usage = Usage(num_prompt_tokens=9, num_cached_tokens=4, num_output_tokens=6)
    call = ToolCallDelta(0, "call_1", "fly", '{"to":')
    return [
        OutputDelta(spec.request_id, reasoning="Let me see.", usage=begin),
        OutputDelta(spec.request_id, text="I fly."),
        OutputDelta(spec.request_id, tool_calls=[call]),
        OutputDelta(spec.request_id, tool_calls=[ToolCallDelta(0, arguments=' "Rome"}')]),
        OutputDelta(spec.request_id, finish_reason=FinishReason.TOOL_CALLS, usage=usage),
    ]


def events_of(response) -> list[dict]:
    assert response.status_code == 200, response.text
    events = []
    for block in response.text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events


def test_answer_is_a_valid_message(client: TestClient) -> None:
    answer = Message.model_validate(client.post(URL, json=HELLO).json())
    assert answer.id.startswith("msg_")
    assert answer.model == MODEL
    assert [block.text for block in answer.content] == ["Hello wörld!"]
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (3, 4)
    assert answer.usage.output_tokens == 4


def test_thinking_and_tool_calls_are_blocks(client: TestClient, generation: FakeGeneration) -> None:
    generation.script = think_and_call
    answer = Message.model_validate(client.post(URL, json={**HELLO, "tools": [TOOL]}).json())
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    assert answer.content[2].input == {"to": "Rome"}
    assert (answer.content[2].id, answer.content[2].name) == ("call_1", "fly")
    assert answer.stop_reason == "tool_use"


def test_stream_matches_its_golden_transcript_and_is_valid(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = think_and_call
    response = client.post(URL, json={**HELLO, "stream": True})
    for event in events_of(response):
        EVENT.validate_python(event)
    check_golden("messages", response.text)


@pytest.mark.parametrize(
    ("reason", "stop_string", "expected"),
    [
        (FinishReason.LENGTH, None, "max_tokens"),
        (FinishReason.STOP, "END", "stop_sequence"),
        (FinishReason.STOP, None, "end_turn"),
    ],
)
def test_stop_reason_tells_why_it_ended(
    client: TestClient, generation: FakeGeneration, reason, stop_string, expected
) -> None:
    end = {"finish_reason": reason, "stop_string": stop_string, "usage": Usage()}
    generation.script = lambda spec: [OutputDelta(spec.request_id, text="a", **end)]
    answer = client.post(URL, json={**HELLO, "stop_sequences": ["END"]}).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == (expected, stop_string)
    assert generation.specs[0].sampling.stop == ("END",)


def test_a_conversation_reaches_the_model_in_openais_form(
    client: TestClient, generation: FakeGeneration
) -> None:
    body = {
        **HELLO,
        "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Go"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "text", "text": "I fly."},
                    {"type": "tool_use", "id": "c", "name": "fly", "input": {"to": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": "no", "is_error": True},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    }  # fmt: skip
    assert client.post(URL, json=body).status_code == 200
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "fly", "arguments": '{"to": "Rome"}'},
    }
    assert generation.specs[0].messages == [
        {"role": "system", "content": "Be"},
        {"role": "user", "content": "Go"},
        {
            "role": "assistant",
            "content": "I fly.",
            "reasoning_content": "Hm.",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "c", "content": "Error: no"},
        {"role": "user", "content": "And?"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected", "is_parallel"),
    [
        (None, "auto", True),
        ({"type": "any"}, "required", True),
        ({"type": "none"}, "none", True),
        ({"type": "tool", "name": "fly", "disable_parallel_tool_use": True}, "name:fly", False),
    ],
)
def test_tools_become_functions(
    client: TestClient, generation: FakeGeneration, choice, expected, is_parallel
) -> None:
    client.post(URL, json={**HELLO, "tools": [TOOL], "tool_choice": choice})
    spec = generation.specs[0]
    function = {"name": "fly", "description": "Flies.", "parameters": {"type": "object"}}
    assert spec.tools == [{"type": "function", "function": function}]
    assert (spec.tool_choice, spec.parallel_tool_calls) == (expected, is_parallel)
    assert spec.parse_output


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reasoning()),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="off")),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, Reasoning(effort="on", budget=7)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, Reasoning(effort="high")),
    ],
)  # fmt: skip
def test_thinking_becomes_the_one_setting(
    client: TestClient, generation: FakeGeneration, fields, expected
) -> None:
    client.post(URL, json={**HELLO, **fields})
    assert generation.specs[0].reasoning == expected


def test_an_output_format_becomes_the_one_setting(
    client: TestClient, generation: FakeGeneration
) -> None:
    config = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    client.post(URL, json={**HELLO, "output_config": config})
    expected = OutputFormat(kind="json_schema", value='{"type": "object"}')
    assert generation.specs[0].output_format == expected


IMAGE = {"type": "image", "source": {"type": "file", "file_id": "f"}}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, r"messages\[0\].content\[0\].source must have the type"),
        ({"messages": [{"role": "assistant", "content": "I"}]}, "prefilled"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text is required"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "id is required"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]}, "user's"),
        ({"tools": [{"type": "web_search_20250305", "name": "web"}]}, "web_search"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"temperature": -1}, "temperature"),
    ],
)  # fmt: skip
def test_bad_requests_get_anthropics_error(client: TestClient, fields, words) -> None:
    response = client.post(URL, json={**HELLO, **fields})
    assert response.status_code == 400
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert re.search(words, body["error"]["message"])


def test_other_errors_have_anthropics_words(client: TestClient, generation: FakeGeneration) -> None:
    response = client.post(URL, json={**HELLO, "model": "no"})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
    assert client.post(f"{URL}/x", json={}).json()["error"]["type"] == "not_found_error"
    generation.script = lambda _spec: [ContextLengthError("too long")]
    assert client.post(URL, json=HELLO).json()["error"]["type"] == "invalid_request_error"
    generation.script = lambda _spec: [EngineDiedError("gone")]
    assert client.post(URL, json=HELLO).json()["error"]["type"] == "overloaded_error"


def test_an_error_within_a_stream_is_an_event(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = lambda spec: [OutputDelta(spec.request_id, text="a"), EngineDiedError("x")]
    events = events_of(client.post(URL, json={**HELLO, "stream": True}))
    assert [event["type"] for event in events[:2]] == ["message_start", "content_block_start"]
    assert events[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}


def test_arguments_that_were_cut_off_are_left_out(
    client: TestClient, generation: FakeGeneration
) -> None:
    call = ToolCallDelta(0, "c", "fly", '{"to": "Ro')
    end = {"finish_reason": FinishReason.LENGTH, "usage": Usage()}
    generation.script = lambda spec: [OutputDelta(spec.request_id, tool_calls=[call], **end)]
    answer = client.post(URL, json=HELLO).json()
    assert (answer["content"][0]["input"], answer["stop_reason"]) == ({}, "max_tokens")


def test_tokens_are_counted_without_generating(
    client: TestClient, generation: FakeGeneration
) -> None:
    body = {"model": MODEL, "system": "s", "messages": HELLO["messages"]}
    assert client.post(f"{URL}/count_tokens", json=body).json() == {"input_tokens": 2}
    assert generation.specs == []


STABLE = (MessageCreateParamsBase.__annotations__, MessageCountTokensParams.__annotations__)


def test_a_field_anthropics_api_does_not_know_is_refused_without_a_beta(
    client: TestClient, generation: FakeGeneration
) -> None:
    for path in (URL, f"{URL}/count_tokens"):
        body = HELLO | {"max_token": 5}
        if path != URL:
            body.pop("max_tokens")
        answer = client.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "'max_token'" in answer.json()["error"]["message"]
        headers = {"anthropic-beta": "new-thing-2030-01-01"}
        assert client.post(path, json=body, headers=headers).status_code == 200


def test_every_field_of_the_official_client_is_known() -> None:
    for model, fields in zip((MessagesRequest, CountTokensRequest), STABLE, strict=True):
        assert [name for name in fields if name not in model.model_fields] == []


def test_a_prompt_that_is_too_long_is_told_in_the_words_clients_look_for(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = lambda _spec: [ContextLengthError("9 tokens do not fit")]
    answer = client.post(URL, json=HELLO)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("prompt is too long: ")
