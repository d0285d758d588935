"""POST /v1/responses, and GET and DELETE of stored answers, over a scripted generation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from slipstream.base.errors import EngineDiedError, StoreError
from slipstream.base.types import FinishReason, OutputDelta, Reasoning, ToolCallDelta, Usage
from slipstream.runtime.chat_store import ChatStore
from tests.support.fake_generation import MODEL, FakeGeneration

if TYPE_CHECKING:
    from starlette.testclient import TestClient

URL = "/v1/responses"
HELLO = {"model": MODEL, "input": "Hi"}
TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def think_and_call(spec):
    """Reasoning, text and two calls, in pieces."""
    usage = Usage(
        num_prompt_tokens=9, num_cached_tokens=5, num_output_tokens=20, num_reasoning_tokens=6
    )
    made = [
        OutputDelta(spec.request_id, reasoning="Let me "),
        OutputDelta(spec.request_id, reasoning="see.", text="I "),
        OutputDelta(spec.request_id, text="look."),
        OutputDelta(spec.request_id, tool_calls=[ToolCallDelta(0, "call_a", "weather", "")]),
        OutputDelta(spec.request_id, tool_calls=[ToolCallDelta(0, arguments='{"city":')]),
        OutputDelta(
            spec.request_id,
            tool_calls=[
                ToolCallDelta(0, arguments='"Bonn"}'),
                ToolCallDelta(1, "call_b", "weather", "{}"),
            ],
        ),
        OutputDelta(spec.request_id, finish_reason=FinishReason.TOOL_CALLS, usage=usage),
    ]
    return made


def cut_short(spec):
    usage = Usage(num_prompt_tokens=3, num_output_tokens=2)
    return [
        OutputDelta(spec.request_id, text="Hel"),
        OutputDelta(spec.request_id, finish_reason=FinishReason.LENGTH, usage=usage),
    ]


def die(spec):
    return [OutputDelta(spec.request_id, text="Hel"), EngineDiedError("the engine died")]


def stream(client: TestClient, body: dict) -> tuple[str, list[dict]]:
    response = client.post(URL, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    events = []
    for block in response.text.split("\n\n"):
        if block:
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return response.text, events


def check_stream(events: list[dict]) -> None:
    """What strict clients need of every stream."""
    adapter = TypeAdapter(ResponseStreamEvent)
    for event in events:
        adapter.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    for event in events:
        if "output_index" in event and final["status"] != "failed":
            item = final["output"][event["output_index"]]
            assert item["id"] == event.get("item_id", event.get("item", {}).get("id"))


def test_an_answer_is_a_valid_response(client: TestClient) -> None:
    made = client.post(URL, json=HELLO).json()
    answer = Response.model_validate(made)
    assert len(answer.id) == len("resp_") + 48
    assert answer.status == "completed"
    assert answer.output_text == "Hello wörld!"
    assert answer.output[0].type == "message"
    assert answer.usage.input_tokens == 7
    assert answer.usage.input_tokens_details.cached_tokens == 4
    assert answer.usage.total_tokens == 11
    assert answer.completed_at >= answer.created_at
    assert answer.error is None


def test_a_stream_matches_its_golden_transcript(client: TestClient, check_golden) -> None:
    text, events = stream(client, HELLO)
    check_stream(events)
    check_golden("responses", text)


def test_reasoning_text_and_calls_are_items_in_their_order(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = think_and_call
    text, events = stream(client, {**HELLO, "tools": [TOOL], "reasoning": {"effort": "low"}})
    check_stream(events)
    check_golden("responses_items", text)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]  # fmt: skip
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert output[2] | {"id": ""} == {
        "id": "", "type": "function_call", "call_id": "call_a", "name": "weather",
        "arguments": '{"city":"Bonn"}', "status": "completed",
    }  # fmt: skip
    assert events[-1]["response"]["usage"]["output_tokens_details"] == {"reasoning_tokens": 6}


def test_an_answer_without_streaming_is_what_the_stream_ends_with(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = think_and_call
    whole = client.post(URL, json=HELLO).json()
    _text, events = stream(client, HELLO)
    told = events[-1]["response"]
    assert {**whole, "output": 0} | {"id": 0, "created_at": 0, "completed_at": 0} == {
        **told, "output": 0
    } | {"id": 0, "created_at": 0, "completed_at": 0}  # fmt: skip
    assert [i["type"] for i in whole["output"]] == [i["type"] for i in told["output"]]


def test_an_answer_that_was_cut_is_incomplete(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = cut_short
    text, events = stream(client, {**HELLO, "max_output_tokens": 2})
    check_stream(events)
    check_golden("responses_incomplete", text)
    final = events[-1]["response"]
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["output"][0]["status"] == "incomplete"
    assert generation.specs[0].sampling.max_tokens == 2


def test_a_failure_on_the_way_is_the_last_event(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = die
    text, events = stream(client, HELLO)
    check_stream(events)
    check_golden("responses_failed", text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {
        "code": "server_error", "message": "the engine died", "type": "engine_died", "param": None,
    }  # fmt: skip
    made = client.post(URL, json=HELLO)
    assert made.status_code == 503


def test_log_probabilities_are_told_where_asked_for(client: TestClient) -> None:
    body = {**HELLO, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    _text, events = stream(client, body)
    check_stream(events)
    part = events[-1]["response"]["output"][0]["content"][0]
    assert [entry["token"] for entry in part["logprobs"]] == ["Hello", " wörld", "!"]
    assert len(part["logprobs"][0]["top_logprobs"]) == 2


def test_a_follow_up_sees_the_thread(client: TestClient, generation: FakeGeneration) -> None:
    first = client.post(URL, json={**HELLO, "instructions": "Be brief."}).json()
    second = client.post(URL, json={"input": "And?", "previous_response_id": first["id"]}).json()
    assert generation.specs[1].messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello wörld!"},
        {"role": "user", "content": "And?"},
    ]
    assert second["previous_response_id"] == first["id"]


def test_threads_branch(client: TestClient, generation: FakeGeneration) -> None:
    first = client.post(URL, json=HELLO).json()
    for text in ("left", "right"):
        client.post(URL, json={"input": text, "previous_response_id": first["id"]})
    assert generation.specs[1].messages[:2] == generation.specs[2].messages[:2]
    assert [spec.messages[2]["content"] for spec in generation.specs[1:]] == ["left", "right"]


def test_a_call_and_its_output_go_back_to_the_model(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = think_and_call
    first = client.post(URL, json={**HELLO, "tools": [TOOL]}).json()
    outputs = [
        {"type": "function_call_output", "call_id": name, "output": "sunny"}
        for name in ("call_a", "call_b")
    ]
    body = {"input": outputs, "previous_response_id": first["id"], "tools": [TOOL]}
    assert client.post(URL, json=body).status_code == 200
    seen = generation.specs[1].messages
    assert seen[1]["reasoning_content"] == "Let me see."
    assert [call["id"] for call in seen[1]["tool_calls"]] == ["call_a", "call_b"]
    assert seen[2] == {"role": "tool", "tool_call_id": "call_a", "content": "sunny"}


def test_items_of_an_earlier_answer_can_be_sent_instead(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = think_and_call
    first = client.post(URL, json={**HELLO, "store": False}).json()
    again = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        *first["output"],
        {"type": "function_call_output", "call_id": "call_a", "output": "sunny"},
    ]
    assert client.post(URL, json={"input": again}).status_code == 200
    seen = generation.specs[1].messages
    assert [message["role"] for message in seen] == ["user", "assistant", "tool"]
    assert (seen[1]["content"], seen[1]["reasoning_content"]) == ("I look.", "Let me see.")
    assert len(seen[1]["tool_calls"]) == 2


def test_fields_become_the_spec(client: TestClient, generation: FakeGeneration) -> None:
    body = {
        **HELLO, "instructions": "Be brief.", "temperature": 0, "tools": [TOOL], "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "name": "weather"}, "reasoning": {"effort": "none"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        "truncation": "auto",
    }  # fmt: skip
    answer = client.post(URL, json=body).json()
    (spec,) = generation.specs
    assert spec.messages[0] == {"role": "system", "content": "Be brief."}
    assert spec.tools[0]["function"]["name"] == "weather"
    assert (spec.tool_choice, spec.parallel_tool_calls) == ("name:weather", False)
    assert (spec.reasoning.effort, spec.parse_output) == ("off", True)
    assert (spec.output_format.kind, spec.output_format.value) == ("json_schema", '{"type": "object"}')  # fmt: skip
    assert spec.context_overflow == "rolling_window"
    assert answer["text"]["format"]["schema"] == {"type": "object"}
    assert answer["tool_choice"] == {"type": "function", "name": "weather"}
    Response.model_validate(answer)


def test_an_empty_text_object_means_any_text(
    client: TestClient, generation: FakeGeneration
) -> None:
    assert client.post(URL, json={**HELLO, "text": {}}).status_code == 200
    assert generation.specs[0].output_format is None


def test_a_stored_answer_is_given_again_and_deleted(client: TestClient) -> None:
    made = client.post(URL, json=HELLO).json()
    assert client.get(f"{URL}/{made['id']}").json() == made
    gone = client.delete(f"{URL}/{made['id']}").json()
    assert gone == {"id": made["id"], "object": "response.deleted", "deleted": True}
    answer = client.get(f"{URL}/{made['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
    assert client.delete(f"{URL}/{made['id']}").status_code == 404


def test_a_streamed_answer_is_stored_before_its_last_event(client: TestClient) -> None:
    _text, events = stream(client, HELLO)
    final = events[-1]["response"]
    assert client.get(f"{URL}/{final['id']}").json() == final


def test_with_store_false_nothing_is_kept(client: TestClient, slipstream_home) -> None:
    made = client.post(URL, json={**HELLO, "store": False}).json()
    assert client.get(f"{URL}/{made['id']}").status_code == 404
    body = {"input": "And?", "previous_response_id": made["id"]}
    answer = client.post(URL, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "previous_response_not_found"
    assert answer.json()["error"]["param"] == "previous_response_id"


def test_an_answer_that_failed_is_not_kept(client: TestClient, generation: FakeGeneration) -> None:
    generation.script = die
    _text, events = stream(client, HELLO)
    assert client.get(f"{URL}/{events[-1]['response']['id']}").status_code == 404


def test_an_answer_that_cannot_be_kept_is_a_failure(client: TestClient, monkeypatch) -> None:
    def full(_store, _turn):
        raise StoreError("the disk is full")

    monkeypatch.setattr(ChatStore, "save", full)
    _text, events = stream(client, HELLO)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["type"] == "store_failed"
    assert client.post(URL, json=HELLO).status_code == 500
    assert client.post(URL, json={**HELLO, "store": False}).status_code == 200


IMAGE = {"type": "input_image", "image_url": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].image_url"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "no"}, "tools": [TOOL]}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"reasoning": {"effort": "a lot"}}, "reasoning.effort"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused(client: TestClient, fields: dict, param: str) -> None:
    answer = client.post(URL, json={**HELLO, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_input_is_required(client: TestClient) -> None:
    error = client.post(URL, json={"model": MODEL}).json()["error"]
    assert (error["param"], error["code"]) == ("input", "missing_required_parameter")


def test_an_unknown_model_is_a_404_before_the_stream(client: TestClient) -> None:
    answer = client.post(URL, json={"model": "no", "input": "x", "stream": True})
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"effort": "none"}, Reasoning(effort="off")),
        ({"effort": "minimal"}, Reasoning(effort="low")),
        ({"effort": "xhigh", "max_tokens": 7}, Reasoning(effort="high", budget=7)),
        ({"max_tokens": 0}, Reasoning(budget=0)),
        ({}, Reasoning()),
    ],
)
def test_how_much_to_think_is_one_setting(
    client: TestClient, generation: FakeGeneration, given: dict, expected: Reasoning
) -> None:
    assert client.post(URL, json={**HELLO, "reasoning": given}).status_code == 200
    assert generation.specs[-1].reasoning == expected
