"""Chats with a model of a server."""

import json
from contextlib import closing

import httpx2
import pytest

from slipstream.base.errors import ServerError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import Reasoning, Usage
from slipstream.cli.remote_model import RemoteModel, loaded_models
from slipstream.cli.server_client import ServerClient

MESSAGES = [{"role": "user", "content": "Hi"}]


def server(answer):
    return ServerClient("http://box:1", None, httpx2.MockTransport(answer))


def events(*chunks):
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return httpx2.Response(200, text="".join([": keep-alive\n\n", *lines, "data: [DONE]\n\n"]))


def piece(text):
    return {"choices": [{"delta": {"content": text}}]}


def test_an_answer_comes_as_deltas_with_its_usage():
    asked = []

    def answer(request):
        asked.append(json.loads(request.content))
        last = {
            "choices": [],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            "stats": {"time_to_first_token": 0.5, "generation_time": 0.25},
        }
        return events(
            {"choices": [{"delta": {"role": "assistant"}}]}, piece("Hel"), piece("lo"), last
        )

    with closing(RemoteModel(server(answer), "some/model")) as model:
        sampling = SamplingParams(temperature=0.0, max_tokens=5)
        deltas = list(model.chat(MESSAGES, sampling=sampling, stream=True))
    assert asked[0] == {
        "model": "some/model", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0.0, "max_tokens": 5,
    }  # fmt: skip
    assert [delta.text for delta in deltas] == ["Hel", "lo", ""]
    assert deltas[-1].usage == Usage(
        num_prompt_tokens=9, num_cached_tokens=4, num_output_tokens=2, prefill_s=0.5, decode_s=0.25
    )


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("off", {"enabled": False}), ("on", {"enabled": True}), ("low", {"effort": "low"})],
)
def test_reasoning_is_asked_for_and_comes_apart(effort, sent):
    asked = []

    def answer(request):
        asked.append(json.loads(request.content))
        return events({"choices": [{"delta": {"reasoning_content": "Hm."}}]}, piece("Yes."))

    model = RemoteModel(server(answer), "m")
    reasoning = Reasoning(effort=effort)
    deltas = list(model.chat(MESSAGES, sampling=SamplingParams(), stream=True, reasoning=reasoning))
    assert asked[0]["reasoning"] == sent
    assert [(delta.reasoning, delta.text) for delta in deltas] == [("Hm.", ""), ("", "Yes.")]


def test_an_error_on_the_way_is_raised_after_what_came_before():
    chunks = (piece("Hel"), {"error": {"message": "the model was unloaded"}})
    model = RemoteModel(server(lambda _request: events(*chunks)), "m")
    stream = model.chat(MESSAGES, sampling=SamplingParams(), stream=True)
    assert next(stream).text == "Hel"
    with pytest.raises(ServerError, match="unloaded"):
        next(stream)


def test_the_loaded_models_that_write_text_are_found():
    listed = [
        {"type": "embedding", "loaded_instances": [{"id": "vectors"}]},
        {"type": "llm", "loaded_instances": []},
        {"type": "llm", "loaded_instances": [{"id": "mine"}]},
    ]
    found = loaded_models(server(lambda _: httpx2.Response(200, json={"models": listed})))
    assert found == ["mine"]
    assert loaded_models(server(lambda _: httpx2.Response(200, json={"models": []}))) == []
