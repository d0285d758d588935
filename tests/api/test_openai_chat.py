"""POST /v1/chat/completions over a scripted generation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from slipstream.base.errors import EngineDiedError
from slipstream.base.types import FinishReason, OutputDelta
from tests.support.fake_generation import MODEL, FakeGeneration

if TYPE_CHECKING:
    from starlette.testclient import TestClient

URL = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def post_stream(client: TestClient, url: str, body: dict) -> str:
    response = client.post(url, json={**body, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    assert "no-cache" in response.headers["cache-control"]
    return response.text


def chunks_of(transcript: str) -> list[dict]:
    events = [line.removeprefix("data: ") for line in transcript.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def test_answer_is_a_valid_chat_completion(client: TestClient) -> None:
    response = client.post(URL, json=HELLO)
    assert response.status_code == 200
    answer = ChatCompletion.model_validate(response.json(), strict=True)
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.system_fingerprint.startswith("slipstream-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "Hello wörld!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None


def test_usage_counts_prompt_cached_and_output_tokens(client: TestClient) -> None:
    usage = client.post(URL, json=HELLO).json()["usage"]
    assert usage == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_usage_counts_the_prompt_once_for_n_choices(client: TestClient) -> None:
    answer = client.post(URL, json={**HELLO, "n": 3}).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 12


def test_stream_matches_its_golden_transcript(client: TestClient, check_golden) -> None:
    check_golden("chat", post_stream(client, URL, HELLO))


def test_stream_with_usage_matches_its_golden_transcript(client: TestClient, check_golden) -> None:
    body = {**HELLO, "stream_options": {"include_usage": True}}
    check_golden("chat_usage", post_stream(client, URL, body))


def test_stream_with_logprobs_matches_its_golden_transcript(
    client: TestClient, check_golden
) -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 2}
    check_golden("chat_logprobs", post_stream(client, URL, body))


def test_stream_of_two_choices_matches_its_golden_transcript(
    client: TestClient, check_golden
) -> None:
    check_golden("chat_n2", post_stream(client, URL, {**HELLO, "n": 2}))


def test_stream_chunks_are_valid_and_join_to_the_answer(client: TestClient) -> None:
    body = {**HELLO, "logprobs": True, "stream_options": {"include_usage": True}}
    chunks = [
        ChatCompletionChunk.model_validate(chunk, strict=True)
        for chunk in chunks_of(post_stream(client, URL, body))
    ]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Hello wörld!"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 4
    assert len({chunk.id for chunk in chunks}) == 1


def test_error_inside_a_stream_is_an_event_before_done(
    client: TestClient, generation: FakeGeneration, check_golden
) -> None:
    generation.script = lambda spec: [
        OutputDelta(spec.request_id, text="Hel"),
        EngineDiedError("the engine process of tiny was killed by signal 9"),
    ]
    check_golden("chat_engine_died", post_stream(client, URL, HELLO))
    assert generation.num_closed == 1


def test_logprobs_have_tokens_bytes_and_alternatives(client: TestClient) -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": 2}
    answer = ChatCompletion.model_validate(client.post(URL, json=body).json(), strict=True)
    tokens = answer.choices[0].logprobs.content
    assert [token.token for token in tokens] == ["Hello", " wörld", "!"]
    assert bytes(tokens[1].bytes).decode() == " wörld"
    assert [top.logprob for top in tokens[0].top_logprobs] == [-0.5, -1.5]


def test_fields_reach_the_sampling_params(client: TestClient, generation: FakeGeneration) -> None:
    fields = {
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "typical_p": 0.5,
        "presence_penalty": 0.6,
        "frequency_penalty": 0.7,
        "repeat_penalty": 1.8,
        "seed": 9,
        "max_tokens": 10,
        "ignore_eos": True,
        "mirostat": 2,
        "mirostat_tau": 1.1,
        "mirostat_eta": 0.12,
        "xtc_probability": 0.13,
        "xtc_threshold": 0.14,
        "dry_multiplier": 1.5,
        "dry_base": 1.6,
        "dry_allowed_length": 17,
        "dry_penalty_last_n": 18,
        "top_n_sigma": 1.9,
        "repeat_last_n": 20,
    }
    extra = {"stop": "END", "logit_bias": {"5": -100}, "dry_sequence_breakers": ["x"]}
    assert client.post(URL, json={**HELLO, **fields, **extra}).status_code == 200
    sampling = generation.specs[0].sampling
    assert {name: getattr(sampling, name) for name in fields} == fields
    assert sampling.stop == ("END",)
    assert sampling.logit_bias == {5: -100.0}
    assert sampling.dry_sequence_breakers == ("x",)
    assert sampling.logprobs is None


def test_null_fields_take_their_defaults(client: TestClient, generation: FakeGeneration) -> None:
    nulls = dict.fromkeys(
        ["temperature", "max_tokens", "stop", "seed", "n", "logit_bias", "stream"]
    )
    assert client.post(URL, json={**HELLO, **nulls}).status_code == 200
    plain = generation.specs[0].sampling
    assert plain == type(plain)()


def test_minus_one_means_unset_where_clients_send_it(
    client: TestClient, generation: FakeGeneration
) -> None:
    body = {**HELLO, "max_tokens": -1, "seed": -1, "top_k": -1}
    assert client.post(URL, json=body).status_code == 200
    sampling = generation.specs[0].sampling
    assert (sampling.max_tokens, sampling.seed, sampling.top_k) == (None, None, 0)


def test_max_completion_tokens_wins_over_max_tokens(
    client: TestClient, generation: FakeGeneration
) -> None:
    client.post(URL, json={**HELLO, "max_tokens": 5, "max_completion_tokens": 6})
    assert generation.specs[0].sampling.max_tokens == 6


def test_choices_of_one_request_have_seeds_that_count_up(
    client: TestClient, generation: FakeGeneration
) -> None:
    client.post(URL, json={**HELLO, "n": 2, "seed": 41})
    assert [spec.sampling.seed for spec in generation.specs] == [41, 42]
    assert len({spec.request_id for spec in generation.specs}) == 2


def test_text_parts_and_the_developer_role_become_plain_messages(
    client: TestClient, generation: FakeGeneration
) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "eve"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]
    assert client.post(URL, json={"model": MODEL, "messages": messages}).status_code == 200
    assert generation.specs[0].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb", "name": "eve"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]


def test_template_options_reach_the_spec(client: TestClient, generation: FakeGeneration) -> None:
    client.post(URL, json={**HELLO, "chat_template_kwargs": {"shout": True}})
    assert generation.specs[0].template_options == {"shout": True}


def test_model_may_be_left_out(client: TestClient) -> None:
    response = client.post(URL, json={"messages": HELLO["messages"]})
    assert response.json()["model"] == MODEL


def test_length_is_the_finish_reason_of_a_cut_answer(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = lambda spec: [
        OutputDelta(spec.request_id, text="x", finish_reason=FinishReason.LENGTH)
    ]
    assert client.post(URL, json=HELLO).json()["choices"][0]["finish_reason"] == "length"


def test_text_that_could_break_a_stream_arrives_as_it_was(
    client: TestClient, generation: FakeGeneration
) -> None:
    nasty = 'a\n\ndata: [DONE]\r\u2028\u2029"\\\x00\x7f🙂'
    generation.script = lambda spec: [
        OutputDelta(spec.request_id, text=nasty, finish_reason=FinishReason.STOP)
    ]
    transcript = post_stream(client, URL, HELLO)
    assert transcript.isascii()
    assert chunks_of(transcript)[1]["choices"][0]["delta"]["content"] == nasty


@pytest.mark.parametrize("stream", [False, True])
def test_generation_is_closed_after_every_answer(
    client: TestClient, generation: FakeGeneration, stream: bool
) -> None:
    client.post(URL, json={**HELLO, "stream": stream})
    assert generation.num_closed == 1
