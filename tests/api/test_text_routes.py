"""POST /tokenize and /detokenize over a scripted generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipstream.base.queries import Tokenize

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from tests.support.fake_generation import FakeGeneration


def test_text_becomes_token_ids(client: TestClient, generation: FakeGeneration) -> None:
    answer = client.post("/tokenize", json={"content": "Hi", "add_special": True})
    assert answer.json() == {"tokens": [0]}
    assert generation.queries == [Tokenize(parts=["Hi"], add_special=True)]


def test_texts_and_token_ids_can_be_mixed(client: TestClient, generation: FakeGeneration) -> None:
    body = {"content": ["Hi", 5], "with_pieces": True, "parse_special": False}
    answer = client.post("/tokenize", json=body).json()
    assert answer["tokens"] == [{"id": 0, "piece": "Hi"}, {"id": 1, "piece": [0xC3]}]
    assert generation.queries == [Tokenize(parts=["Hi", 5], parse_special=False, with_pieces=True)]


def test_token_ids_become_text(client: TestClient) -> None:
    assert client.post("/detokenize", json={"tokens": [1, 2]}).json() == {"content": "xx"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": [1.5]}, "content[0]"),
        ("/tokenize", {"content": "a", "with_pieces": "yes"}, "with_pieces"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [2**40]}, "tokens[0]"),
    ],
)
def test_bad_bodies_name_the_field(client: TestClient, path, body, param) -> None:
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
