"""client.responses of the official openai client against a real server with the demo model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.processes import start_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
BRIEF = {"temperature": 0, "max_output_tokens": 12}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as value:
        yield value


def test_an_answer_is_made_read_again_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model="", input="What is the capital of France?", **BRIEF)
    assert made.output_text
    assert made.usage.output_tokens <= 12
    assert client.responses.retrieve(made.id).output_text == made.output_text
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_follow_up_knows_what_was_said(client: openai.OpenAI) -> None:
    first = client.responses.create(model="", input="My name is Ada. Say hello.", **BRIEF)
    second = client.responses.create(model="", input="Who?", previous_response_id=first.id, **BRIEF)
    assert second.usage.input_tokens > first.usage.input_tokens + 5
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens - 1


def test_two_follow_ups_of_one_answer_are_equal(client: openai.OpenAI) -> None:
    first = client.responses.create(model="", input="Count to three.", **BRIEF)
    again = [
        client.responses.create(model="", input="Go on.", previous_response_id=first.id, **BRIEF)
        for _ in range(2)
    ]
    assert again[0].usage.input_tokens == again[1].usage.input_tokens


def test_the_streaming_helper_builds_the_same_answer(client: openai.OpenAI) -> None:
    pieces = []
    with client.responses.stream(model="", input="Say hello.", temperature=0) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
        final = stream.get_final_response()
    assert final.output_text == "".join(pieces)
    assert final.status == "completed"
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_errors_are_the_ones_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="", input="x", previous_response_id="resp_no")
    assert caught.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="no-such-model", input="x")


def test_answers_outlive_the_server(demo_model: Path, tmp_path: Path) -> None:
    env = {"SLIPSTREAM_HOME": str(tmp_path)}
    options = (str(demo_model), "--context-length", "1024", "--threads", "2")
    ids = []
    for _ in range(2):
        server = start_server(*options, env=env)
        try:
            with openai.OpenAI(
                base_url=f"{server.url}/v1", api_key="none", max_retries=0
            ) as client:
                previous = ids[-1] if ids else None
                made = client.responses.create(
                    model="", input="Hello.", previous_response_id=previous, **BRIEF
                )
                ids.append(made.id)
                server.signal(9)  # at once after the answer
        finally:
            server.close()
    assert len(set(ids)) == 2
