"""The official openai client against a real server with a real embedding model."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.processes import ServerProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
TEXTS = ["Paris is the capital of France.", "Bananas are yellow."]


@pytest.fixture(scope="module")
def server(minilm_model: Path) -> Iterator[ServerProcess]:
    process = start_server(str(minilm_model), "--threads", "2")
    yield process
    process.close()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as value:
        yield value


def test_the_clients_own_form_decodes_to_the_same_floats(client: openai.OpenAI) -> None:
    model = client.models.list().data[0].id
    packed = client.embeddings.create(model=model, input=TEXTS)  # base64, unless asked otherwise
    plain = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    assert [len(entry.embedding) for entry in packed.data] == [384, 384]
    assert packed.data == plain.data
    assert packed.usage.prompt_tokens == plain.usage.total_tokens > 10


def test_token_ids_give_the_vector_of_their_text(
    client: openai.OpenAI, server: ServerProcess
) -> None:
    tokens = post(server, "/tokenize", {"content": TEXTS[0], "add_special": True})["tokens"]
    given = client.embeddings.create(model="", input=[tokens])
    text = client.embeddings.create(model="", input=TEXTS[0], dimensions=384)
    assert given.data[0].embedding == pytest.approx(text.data[0].embedding, abs=1e-5)


def test_what_is_no_text_for_it_is_the_clients_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="takes 512"):
        client.embeddings.create(model="", input="word " * 600)
    with pytest.raises(openai.BadRequestError, match="/v1/embeddings"):
        client.completions.create(model="", prompt="Once")


def test_the_relevant_document_comes_first(server: ServerProcess) -> None:
    body = {"query": "Where is the Eiffel tower?", "documents": [TEXTS[1], "No.", TEXTS[0]]}
    assert post(server, "/v1/rerank", body)["results"][0]["index"] == 2


def post(server: ServerProcess, path: str, body: dict) -> dict:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
