"""/api/v0/…: OpenAI's answers with stats, model_info and runtime; models with their state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slipstream.base.types import FinishReason, OutputDelta, Usage
from tests.api.test_native_models import KEY, client, load, manager  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from starlette.testclient import TestClient

USAGE = Usage(
    num_prompt_tokens=7, num_output_tokens=5, queue_s=0.25, prefill_s=0.5, decode_s=2.0,
    num_drafted_tokens=6, num_accepted_tokens=3, num_rejected_tokens=1, num_ignored_tokens=2,
)  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def ending(reason, stop_string=None):
    def script(spec):
        return [
            OutputDelta(spec.request_id, text="Hello"),
            OutputDelta(
                spec.request_id, finish_reason=reason, stop_string=stop_string, usage=USAGE
            ),
        ]

    return script


def test_models_have_a_state_that_follows_loads(client: TestClient) -> None:  # noqa: F811
    listed = {one["id"]: one for one in client.get("/api/v0/models").json()["data"]}
    assert listed["acme/embed"]["type"] == "embeddings"
    chat = listed[KEY]
    expected = {
        "id": KEY, "object": "model", "type": "llm", "publisher": "acme", "arch": "llama",
        "compatibility_type": "gguf", "quantization": "Q4_K_M", "state": "not-loaded",
        "max_context_length": chat["max_context_length"], "capabilities": [],
    }  # fmt: skip
    assert chat == expected
    load(client, context_length=2048)
    chat = client.get(f"/api/v0/models/{KEY}").json()
    assert (chat["state"], chat["loaded_context_length"]) == ("loaded", 2048)
    assert client.get("/api/v0/models/none").status_code == 404


@pytest.mark.parametrize(
    ("reason", "stop_string", "word"),
    [
        (FinishReason.STOP, None, "eosFound"),
        (FinishReason.STOP, "x", "stopStringFound"),
        (FinishReason.LENGTH, None, "maxPredictedTokensReached"),
    ],
)
def test_an_answer_has_its_figures(
    client: TestClient,  # noqa: F811
    reason,
    stop_string,
    word,
) -> None:
    load(client, context_length=2048, draft_model="acme/chat-7b@q8_0")
    generation = client.app.state.context.generation.inner
    generation.models.key = KEY
    generation.script = ending(reason, stop_string)
    for path, body in (("chat/completions", CHAT), ("completions", {"prompt": "Hi"})):
        answer = client.post(f"/api/v0/{path}", json=body)
        assert answer.status_code == 200, answer.text
        answer = answer.json()
        assert answer["stats"] == {
            "tokens_per_second": 2.0, "time_to_first_token": 0.75, "generation_time": 2.0, "stop_reason": word,
            "draft_model": "Chat-7B-Q8_0", "total_draft_tokens_count": 6, "accepted_draft_tokens_count": 3,
            "rejected_draft_tokens_count": 1, "ignored_draft_tokens_count": 2,
        }  # fmt: skip
        model_info = {"arch": "llama", "quant": "Q4_K_M", "format": "gguf", "context_length": 2048}
        assert answer["model_info"] == model_info
        assert answer["runtime"]["supported_formats"] == ["gguf"]
        text = client.post(f"/api/v0/{path}", json={**body, "stream": True}).text
        chunks = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert chunks[-1] == "[DONE]"
        assert json.loads(chunks[-2])["stats"] == answer["stats"]


@pytest.mark.parametrize("name", ["..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a%00b", "x" * 3000])
@pytest.mark.parametrize("route", ["/api/v0/models/", "/v1/models/"])
def test_a_hostile_name_is_a_model_there_is_not(client: TestClient, route: str, name: str) -> None:  # noqa: F811
    answer = client.get(route + name)
    assert answer.status_code == 404, answer.text
    assert answer.json()["error"]["code"] == "model_not_found"


def test_openais_own_routes_tell_of_a_draft_model_only(client: TestClient) -> None:  # noqa: F811
    assert client.post("/v1/chat/completions", json=CHAT).json()["stats"] == {}
    load(client, context_length=2048, draft_model="acme/chat-7b@q8_0")
    generation = client.app.state.context.generation.inner
    generation.models.key = KEY
    generation.script = ending(FinishReason.STOP, None)
    stats = {
        "draft_model": "Chat-7B-Q8_0", "total_draft_tokens_count": 6, "accepted_draft_tokens_count": 3,
        "rejected_draft_tokens_count": 1, "ignored_draft_tokens_count": 2,
    }  # fmt: skip
    for path, body in (("chat/completions", CHAT), ("completions", {"prompt": "Hi"})):
        answer = client.post(f"/v1/{path}", json=body).json()
        assert answer["stats"] == stats
        assert not {"model_info", "runtime"} & answer.keys()
        plain = client.post(f"/v1/{path}", json={**body, "stream": True}).text
        assert '"stats"' not in plain, "no chunk without a choice that nobody asked for"
        options = {"stream": True, "stream_options": {"include_usage": True}}
        text = client.post(f"/v1/{path}", json=body | options).text
        assert json.loads(text.split("\n\n")[-3].removeprefix("data: "))["stats"] == stats


def test_embeddings_are_those_of_the_other_route(client: TestClient) -> None:  # noqa: F811
    answers = [
        client.post(f"{root}/embeddings", json={"input": "a"}).json() for root in ("/api/v0", "/v1")
    ]
    assert answers[0] == answers[1]
    assert answers[0]["data"][0]["embedding"]


def test_a_request_may_say_how_long_its_model_stays_and_who_drafts(client: TestClient) -> None:  # noqa: F811
    generation = client.app.state.context.generation.inner
    client.post("/api/v0/chat/completions", json={**CHAT, "ttl": 30, "draft_model": "small"})
    options = generation.models.options[-1]
    assert (options.ttl_s, options.config) == (30, {"draft_model": "small"})
    for ttl in (0, -1, "x"):
        answer = client.post("/api/v0/chat/completions", json={**CHAT, "ttl": ttl})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "ttl")
