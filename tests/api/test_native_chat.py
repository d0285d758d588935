"""POST /api/v1/chat over a scripted generation."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from slipstream.base.errors import EngineDiedError, ModelLoadError, StoreError
from slipstream.base.types import FinishReason, OutputDelta, ToolCallDelta, Usage
from slipstream.runtime.chat_store import ChatStore
from slipstream.runtime.settings import ServerSettings
from tests.support.fake_generation import MODEL, FakeGeneration, FakeManager

if TYPE_CHECKING:
    from starlette.testclient import TestClient

URL = "/api/v1/chat"
HELLO = {"model": MODEL, "input": "Hi"}


def think(spec):
    usage = Usage(
        num_prompt_tokens=9, num_output_tokens=5, num_reasoning_tokens=3, queue_s=0.25, prefill_s=0.5, decode_s=2.0
    )  # fmt: skip
    return [
        OutputDelta(spec.request_id, reasoning="Let me "),
        OutputDelta(spec.request_id, reasoning="see."),
        OutputDelta(spec.request_id, text="Hello."),
        OutputDelta(spec.request_id, finish_reason=FinishReason.STOP, usage=usage),
    ]


def make_up_a_call(spec):
    return [
        OutputDelta(spec.request_id, tool_calls=[ToolCallDelta(0, "c", "fly", "{}")]),
        OutputDelta(spec.request_id, finish_reason=FinishReason.TOOL_CALLS, usage=Usage()),
    ]


def die(spec):
    return [OutputDelta(spec.request_id, text="Hel"), EngineDiedError("the engine died")]


def stream(client: TestClient, body: dict) -> tuple[str, list[dict]]:
    response = client.post(URL, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    events = []
    for block in response.text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    assert events[0]["type"] == "chat.start"
    assert events[-1]["type"] == "chat.end"
    return response.text, events


def test_an_answer_has_output_stats_and_an_id(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = think
    answer = client.post(URL, json=HELLO).json()
    assert answer.pop("response_id").startswith("resp_")
    assert answer == {
        "model_instance_id": MODEL,
        "output": [
            {"type": "reasoning", "content": "Let me see."},
            {"type": "message", "content": "Hello."},
        ],
        "stats": {
            "input_tokens": 9,
            "total_output_tokens": 5,
            "reasoning_output_tokens": 3,
            "tokens_per_second": 2.0,
            "time_to_first_token_seconds": 0.75,
        },
    }


def test_a_stream_matches_its_golden_transcript(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = think
    text, events = stream(client, HELLO)
    check_golden("native_chat", text)
    assert [event["type"] for event in events] == [
        "chat.start", "prompt_processing.start", "prompt_processing.progress", "prompt_processing.progress",
        "prompt_processing.end", "reasoning.start", "reasoning.delta", "reasoning.delta", "reasoning.end",
        "message.start", "message.delta", "message.end", "chat.end",
    ]  # fmt: skip


def test_a_stream_ends_with_the_answer_that_would_have_been_whole(client: TestClient) -> None:
    whole = client.post(URL, json=HELLO).json()
    _text, events = stream(client, HELLO)
    assert events[-1]["result"] | {"response_id": 0} == whole | {"response_id": 0}


def test_a_load_is_told_with_its_progress(
    client: TestClient, manager: FakeManager, check_golden
) -> None:
    manager.unload()

    async def load() -> None:
        for progress in (0.25, 0.75):
            manager.statuses[0] = msgspec.structs.replace(manager.statuses[0], progress=progress)
            told = asyncio.Event()
            asyncio.get_running_loop().call_later(0.15, told.set)
            await told.wait()

    manager.load = load
    _text, events = stream(client, HELLO)
    loading = [event for event in events if event["type"].startswith("model_load")]
    assert [event["type"] for event in loading][:2] == ["model_load.start", "model_load.progress"]
    progress = [event["progress"] for event in loading if "progress" in event]
    assert progress == sorted(progress)
    assert set(progress) <= {0.25, 0.75, 1.0}
    assert progress[-1] == 1.0
    assert loading[-1]["type"] == "model_load.end"
    assert loading[-1]["load_time_seconds"] >= 0.3
    assert (
        events[-1]["result"]["stats"]["model_load_time_seconds"] == loading[-1]["load_time_seconds"]
    )
    assert all(event["model_instance_id"] == MODEL for event in loading)


def test_a_load_that_fails_is_an_error_event_and_an_end(
    client: TestClient, manager: FakeManager
) -> None:
    manager.unload()

    async def load() -> None:
        raise ModelLoadError("no such file")

    manager.load = load
    _text, events = stream(client, HELLO)
    assert [event["type"] for event in events] == ["chat.start", "model_load.start", "error", "chat.end"]  # fmt: skip
    assert events[2]["error"]["type"] == "internal_error"
    assert events[2]["error"]["message"] == "no such file"
    assert client.post(URL, json=HELLO).status_code == 500


def test_an_error_on_the_way_keeps_what_came_before_it(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = die
    text, events = stream(client, HELLO)
    check_golden("native_chat_error", text)
    assert events[-2]["error"] == {
        "type": "internal_error", "message": "the engine died", "code": "engine_died"
    }  # fmt: skip
    assert events[-1]["result"]["output"] == [{"type": "message", "content": "Hel"}]
    assert "response_id" not in events[-1]["result"]


def test_a_call_of_a_tool_there_is_not_is_told_as_invalid(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = make_up_a_call
    _text, events = stream(client, HELLO)
    failure = next(event for event in events if event["type"] == "tool_call.failure")
    assert failure["metadata"] == {"type": "invalid_name", "tool_name": "fly"}
    assert events[-1]["result"]["output"][0]["type"] == "invalid_tool_call"


@pytest.mark.parametrize("settings", [ServerSettings(keep_alive_s=0.01)])
def test_comments_are_sent_while_a_prompt_is_read(
    client: TestClient, generation: FakeGeneration
) -> None:
    async def wait() -> None:
        read = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, read.set)
        await read.wait()

    generation.before = wait
    text, _events = stream(client, HELLO)
    assert ": keep-alive" in text


def test_items_of_both_types_are_one_message_of_the_user(
    client: TestClient, generation: FakeGeneration
) -> None:
    for kind in ("message", "text"):
        items = [{"type": kind, "content": "One."}, {"type": kind, "content": "Two."}]
        assert client.post(URL, json={"model": MODEL, "input": items}).status_code == 200
    assert generation.specs[0].messages == generation.specs[1].messages
    assert generation.specs[0].messages == [{"role": "user", "content": "One.\nTwo."}]


def test_fields_become_the_spec(client: TestClient, generation: FakeGeneration) -> None:
    body = {
        **HELLO, "system_prompt": "Be brief.", "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1,
        "repeat_penalty": 1.5, "max_output_tokens": 9, "reasoning": "high", "context_length": 512, "integrations": [],
    }  # fmt: skip
    assert client.post(URL, json=body).status_code == 200
    (spec,) = generation.specs
    assert spec.messages[0] == {"role": "system", "content": "Be brief."}
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 3)
    assert (sampling.min_p, sampling.repeat_penalty, sampling.max_tokens) == (0.1, 1.5, 9)
    assert (spec.reasoning.effort, spec.parse_output) == ("high", True)


def test_a_follow_up_keeps_the_system_prompt_until_it_is_replaced(
    client: TestClient, generation: FakeGeneration
) -> None:
    first = client.post(URL, json={**HELLO, "system_prompt": "Be brief."}).json()["response_id"]
    second = client.post(URL, json={**HELLO, "previous_response_id": first}).json()["response_id"]
    body = {**HELLO, "previous_response_id": second, "system_prompt": "Be long."}
    client.post(URL, json=body)
    systems = [
        [m["content"] for m in spec.messages if m["role"] == "system"] for spec in generation.specs
    ]
    assert systems == [["Be brief."], ["Be brief."], ["Be long."]]
    roles = [message["role"] for message in generation.specs[2].messages]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def test_any_answer_can_be_continued(client: TestClient, generation: FakeGeneration) -> None:
    first = client.post(URL, json=HELLO).json()["response_id"]
    for text in ("left", "right"):
        body = {"model": MODEL, "input": text, "previous_response_id": first}
        assert client.post(URL, json=body).status_code == 200
    assert generation.specs[1].messages[:2] == generation.specs[2].messages[:2]


def test_both_stateful_routes_continue_each_other(
    client: TestClient, generation: FakeGeneration
) -> None:
    first = client.post(URL, json={**HELLO, "system_prompt": "Be brief."}).json()["response_id"]
    made = client.post("/v1/responses", json={"input": "And?", "previous_response_id": first})
    body = {**HELLO, "previous_response_id": made.json()["id"]}
    assert client.post(URL, json=body).status_code == 200
    assert generation.specs[1].messages[0] == {"role": "system", "content": "Be brief."}
    assert len(generation.specs[2].messages) == 5


def test_with_store_false_there_is_no_id(client: TestClient) -> None:
    assert "response_id" not in client.post(URL, json={**HELLO, "store": False}).json()
    _text, events = stream(client, {**HELLO, "store": False})
    assert "response_id" not in events[-1]["result"]


def test_a_streamed_answer_is_stored_before_its_last_event(client: TestClient) -> None:
    _text, events = stream(client, HELLO)
    previous = events[-1]["result"]["response_id"]
    body = {**HELLO, "previous_response_id": previous}
    assert client.post(URL, json=body).status_code == 200


def test_an_answer_that_cannot_be_kept_is_a_failure(client: TestClient, monkeypatch) -> None:
    def full(_store, _turn):
        raise StoreError("the disk is full")

    monkeypatch.setattr(ChatStore, "save", full)
    _text, events = stream(client, HELLO)
    assert events[-2]["error"]["code"] == "store_failed"
    assert events[-1]["result"]["output"][0]["content"] == "Hello wörld!"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"input": "x"}, 400, {"type": "invalid_request", "code": "missing_required_parameter", "param": "model"}),
        ({"model": MODEL}, 400, {"type": "invalid_request", "code": "missing_required_parameter", "param": "input"}),
        ({**HELLO, "seed": 1}, 400, {
            "type": "invalid_request", "code": "unrecognized_keys", "param": "seed",
            "message": "Unrecognized key(s) in object: 'seed'",
        }),
        ({**HELLO, "temperature": -1}, 400, {"type": "invalid_request", "param": "temperature"}),
        ({**HELLO, "reasoning": "much"}, 400, {"type": "invalid_request", "param": "reasoning"}),
        ({**HELLO, "input": []}, 400, {"type": "invalid_request", "param": "input"}),
        ({**HELLO, "input": [{"type": "sound"}]}, 400, {"type": "invalid_request", "param": "input[0]"}),
        ({**HELLO, "input": [{"type": "image", "data_url": "data:"}]}, 400, {"param": "input[0].data_url"}),
        ({**HELLO, "context_length": 4096}, 400, {"type": "invalid_request", "param": "context_length"}),
        ({**HELLO, "previous_response_id": "x"}, 400, {"param": "previous_response_id"}),
        ({**HELLO, "previous_response_id": "resp_x"}, 400, {
            "code": "previous_response_not_found", "param": "previous_response_id",
        }),
        ({**HELLO, "model": "no"}, 404, {"type": "model_not_found"}),
        ({**HELLO, "integrations": ["mcp/x"]}, 501, {"type": "not_implemented", "param": "integrations"}),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_told_in_the_routes_own_words(
    client: TestClient, body: dict, status: int, error: dict
) -> None:
    answer = client.post(URL, json=body)
    assert answer.status_code == status, answer.text
    told = answer.json()["error"]
    assert told | error == told


def test_no_json_and_no_such_route_have_the_same_form(client: TestClient) -> None:
    answer = client.post(URL, content=b"{")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request")
    answer = client.get("/api/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request")
    assert answer.json()["error"]["code"] == "unknown_url"
    assert client.get(URL).status_code == 405
