"""An engine that is killed in the middle of a stream: each official client raises, or tells, its own kind of error."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
STORY: list[Any] = [{"role": "user", "content": "Tell me a very long story."}]
ENDLESS = {"ignore_eos": True}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as value:
        # Loads the model again where the test before has killed its engine.
        value.chat.completions.create(model="", messages=STORY, max_tokens=1)
        yield value


def kill(server: ServerProcess) -> None:
    os.kill(server.engine_pid(), signal.SIGKILL)


def test_a_chat_raises_an_api_error(client: openai.OpenAI, server: ServerProcess) -> None:
    stream = client.chat.completions.create(
        model="", messages=STORY, stream=True, extra_body=ENDLESS
    )
    with stream:
        next(iter(stream))
        kill(server)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "engine_died"


def test_a_completion_raises_an_api_error(client: openai.OpenAI, server: ServerProcess) -> None:
    stream = client.completions.create(model="", prompt="Once", stream=True, extra_body=ENDLESS)
    with stream:
        next(iter(stream))
        kill(server)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "engine_died"


def test_a_response_fails_with_what_there_is_of_it(
    client: openai.OpenAI, server: ServerProcess
) -> None:
    stream = client.responses.create(model="", input="Go on.", stream=True, extra_body=ENDLESS)
    events = []
    is_killed = False
    with stream:
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta" and not is_killed:
                is_killed = True
                kill(server)
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error.code == "server_error"
    assert last.response.output[0].content[0].text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_a_message_raises_an_overloaded_error(server: ServerProcess) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as claude:
        claude.messages.create(model="", messages=STORY, max_tokens=1)
        with claude.messages.stream(model="", messages=STORY, max_tokens=1500) as stream:
            next(event for event in stream if event.type == "text")
            kill(server)
            with pytest.raises(anthropic.APIStatusError, match="engine process"):
                stream.until_done()


def test_lm_studios_chat_ends_with_an_error_and_the_whole(server: ServerProcess) -> None:
    model = server.get_json("/v1/models")["data"][0]["id"]
    body = {"model": model, "input": "Tell me a very long story.", "stream": True}
    events: list[str] = []
    with httpx2.stream("POST", f"{server.url}/api/v1/chat", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                events.append(line.removeprefix("event: "))
                if events[-1] == "message.delta" and "killed" not in events:
                    kill(server)
                    events.append("killed")
    assert events[-2:] == ["error", "chat.end"]
