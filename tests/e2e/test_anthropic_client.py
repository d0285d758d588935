"""The official anthropic client against a real server with the demo model."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import anthropic
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK = [{"role": "user", "content": "What is the capital of France?"}]
# The client has no argument for the temperature any more; servers still take it.
GREEDY = {"model": "", "max_tokens": 12, "extra_body": {"temperature": 0}}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as value:
        yield value


def test_messages_answer_and_count_their_tokens(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(messages=ASK, system="Be brief.", **GREEDY)
    assert answer.content[0].text
    usage = answer.usage
    counted = client.messages.count_tokens(model="", messages=ASK, system="Be brief.")
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens
    assert 0 < usage.output_tokens <= 12


def test_a_stream_adds_up_to_the_plain_answer(client: anthropic.Anthropic) -> None:
    client.messages.create(messages=ASK, **GREEDY)  # from the same cells; see test_openai_client
    plain = client.messages.create(messages=ASK, **GREEDY)
    with client.messages.stream(messages=ASK, **GREEDY) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert streamed.content[0].text == plain.content[0].text
    assert streamed.stop_reason == plain.stop_reason
    assert streamed.usage == plain.usage
    assert events[0] == "message_start"
    assert events[-1] == "message_stop"


def test_the_start_of_a_stream_tells_the_input_tokens(client: anthropic.Anthropic) -> None:
    with client.messages.stream(messages=ASK, **GREEDY) as stream:
        start = next(iter(stream))
    usage = start.message.usage
    counted = client.messages.count_tokens(model="", messages=ASK)
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens


def test_a_stop_sequence_ends_the_answer(client: anthropic.Anthropic) -> None:
    plain = client.messages.create(messages=ASK, **GREEDY).content[0].text
    answer = client.messages.create(messages=ASK, stop_sequences=[plain[4:7]], **GREEDY)
    assert answer.stop_reason == "stop_sequence"
    assert answer.stop_sequence == plain[4:7]
    assert plain[4:7] not in answer.content[0].text


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**GREEDY, "model": "no-such"}, messages=ASK)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**{**GREEDY, "extra_body": {"temperature": -1}}, messages=ASK)
    long = [{"role": "user", "content": "word " * 5000}]
    with (
        pytest.raises(anthropic.BadRequestError, match="context"),
        client.messages.stream(messages=long, **GREEDY) as stream,
    ):
        stream.get_final_message()


def post(server: ServerProcess, path: str, body: dict) -> dict:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_text_goes_to_tokens_and_back(server: ServerProcess) -> None:
    text = "Grüße <|im_end|> 🚀"
    tokens = post(server, "/tokenize", {"content": text, "parse_special": False})["tokens"]
    assert post(server, "/detokenize", {"tokens": tokens}) == {"content": text}
    pieces = post(server, "/tokenize", {"content": [text, tokens[0]], "with_pieces": True})
    assert [piece["id"] for piece in pieces["tokens"]][-1] == tokens[0]
    assert "<|im_end|>" in [piece["piece"] for piece in pieces["tokens"]]
