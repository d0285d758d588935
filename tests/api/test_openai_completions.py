"""POST /v1/completions over a scripted generation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from openai.types import Completion

from slipstream.base.types import FinishReason, OutputDelta, TokenLogprob
from tests.support.fake_generation import MODEL, FakeGeneration

if TYPE_CHECKING:
    from starlette.testclient import TestClient

URL = "/v1/completions"
BODY = {"model": MODEL, "prompt": "Once"}


def test_answer_is_a_valid_completion(client: TestClient) -> None:
    answer = Completion.model_validate(client.post(URL, json=BODY).json(), strict=True)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "Hello wörld!"
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("one", [("one", None)]),
        (["one", "two"], [("one", None), ("two", None)]),
        ([1, 2, 3], [(None, [1, 2, 3])]),
        ([[1, 2], [3]], [(None, [1, 2]), (None, [3])]),
    ],
)
def test_prompt_takes_text_and_token_ids_alone_and_in_lists(
    client: TestClient, generation: FakeGeneration, prompt: object, expected: list
) -> None:
    assert client.post(URL, json={**BODY, "prompt": prompt}).status_code == 200
    assert [(spec.prompt, spec.prompt_token_ids) for spec in generation.specs] == expected


def test_choices_of_several_prompts_are_in_order(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = lambda spec: [
        OutputDelta(spec.request_id, text=spec.prompt, finish_reason=FinishReason.STOP)
    ]
    answer = client.post(URL, json={**BODY, "prompt": ["a", "b"], "n": 2}).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a", "a", "b", "b"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]


def test_usage_adds_up_over_prompts_and_choices(client: TestClient) -> None:
    usage = client.post(URL, json={**BODY, "prompt": ["a", "b"], "n": 2}).json()["usage"]
    assert usage["prompt_tokens"] == 14
    assert usage["completion_tokens"] == 16
    assert usage["prompt_tokens_details"] == {"cached_tokens": 8}


def test_stream_matches_its_golden_transcript(client: TestClient, check_golden) -> None:
    body = {**BODY, "stream": True, "echo": True, "stream_options": {"include_usage": True}}
    check_golden("completion", client.post(URL, json=body).text)


def test_stream_with_logprobs_matches_its_golden_transcript(
    client: TestClient, check_golden
) -> None:
    body = {**BODY, "stream": True, "logprobs": 2}
    transcript = client.post(URL, json=body).text
    check_golden("completion_logprobs", transcript)
    chunk = json.loads(transcript.split("\n\n")[0].removeprefix("data: "))
    chunk["choices"][0]["finish_reason"] = "stop"  # the client's type forgets the null of a stream
    Completion.model_validate(chunk, strict=True)


def test_logprobs_are_parallel_lists_with_offsets(client: TestClient) -> None:
    answer = client.post(URL, json={**BODY, "logprobs": 1}).json()
    logprobs = Completion.model_validate(answer, strict=True).choices[0].logprobs
    assert logprobs.tokens == ["Hello", " wörld", "!"]
    assert logprobs.text_offset == [0, 5, 11]
    assert logprobs.top_logprobs == [{"Hello": -0.5}, {" wörld": -0.5}, {"!": -0.5}]


def test_parts_of_a_character_keep_their_bytes_and_infinities_are_cut(
    client: TestClient, generation: FakeGeneration
) -> None:
    halves = [b"\xc3", b"\xb6"]
    tokens = [TokenLogprob(i, half, float("-inf")) for i, half in enumerate(halves)]
    generation.script = lambda spec: [
        OutputDelta(spec.request_id, text="ö", logprobs=tokens, finish_reason=FinishReason.STOP)
    ]
    logprobs = client.post(URL, json={**BODY, "logprobs": 0}).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3", "bytes:\\xb6"]
    assert logprobs["text_offset"] == [0, 0]
    assert logprobs["token_logprobs"] == [-9999.0, -9999.0]
