"""POST /v1/embeddings and /v1/rerank over scripted vectors."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING

import pytest
from openai.types import CreateEmbeddingResponse

from slipstream.base.queries import Embed, Rerank
from tests.support.fake_generation import MODEL

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from tests.support.fake_generation import FakeGeneration

EMBED = "/v1/embeddings"
RERANK = "/v1/rerank"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_input_takes_text_and_token_ids_alone_and_in_lists(
    client: TestClient, generation: FakeGeneration, given, expected
) -> None:
    body = client.post(EMBED, json={"model": MODEL, "input": given}).json()
    answer = CreateEmbeddingResponse.model_validate(body, strict=True)
    assert [entry.index for entry in answer.data] == list(range(len(expected)))
    assert answer.data[0].embedding == pytest.approx([0.6, 0.8])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3 * len(expected)
    assert generation.queries == [Embed(inputs=expected)]


def test_base64_holds_the_same_floats(client: TestClient) -> None:
    body = {"model": MODEL, "input": "a", "encoding_format": "base64"}
    text = client.post(EMBED, json=body).json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(text)) == pytest.approx((0.6, 0.8))


def test_dimensions_cut_the_vectors(client: TestClient, generation: FakeGeneration) -> None:
    body = {"model": MODEL, "input": "a", "dimensions": 1}
    assert len(client.post(EMBED, json=body).json()["data"][0]["embedding"]) == 1
    assert generation.queries == [Embed(inputs=["a"], num_dims=1)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
    ],
)
def test_bad_bodies_name_the_field(client: TestClient, fields, param) -> None:
    response = client.post(EMBED, json={"model": MODEL, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_documents_are_sorted_by_their_score(
    client: TestClient, generation: FakeGeneration
) -> None:
    documents = ["a", {"text": "ccc"}, "bb"]
    body = {"model": MODEL, "query": "q", "documents": documents, "top_n": 2}
    answer = client.post(RERANK, json=body).json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": 3.0},
        {"index": 2, "relevance_score": 2.0},
    ]
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert generation.queries == [Rerank(query="q", documents=["a", "ccc", "bb"])]
    texts = client.post(RERANK, json={**body, "return_documents": True}).json()["results"]
    assert texts[0]["document"] == {"text": "ccc"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": [{}]}, "documents[0].text"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_bad_rankings_name_the_field(client: TestClient, fields, param) -> None:
    body = {"query": "q", "documents": ["a"], **fields}
    response = client.post(RERANK, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
