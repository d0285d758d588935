"""Embedding and ranking models in the engine process' own host: real llama.cpp on tiny and on real weights."""

from __future__ import annotations

import queue
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slipstream.base.load_config import LoadConfig
from slipstream.base.queries import (
    CountPrompt,
    Embed,
    Query,
    QueryFailed,
    Rerank,
    Tokenize,
)
from slipstream.base.types import GenerationSpec, RequestFailed
from slipstream.runtime.embedding_host import EmbeddingHost
from slipstream.runtime.host import EngineHost
from slipstream.runtime.worker import load_host
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import SMALL_N_EMBD, tiny_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONFIG = LoadConfig(threads=1, parallel=2, context_length=64)
TEXTS = ["hello", "a b c d e f g", "x"]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Hosts a tiny model with further metadata; closes it in the end."""
    hosts = []

    def make(kind: str, *more: tuple, tensors: tuple = ()) -> Any:
        metadata, weights = tiny_parts(kind)
        names = {key for key, _, _ in more}
        kept = [entry for entry in metadata if entry[0] not in names]
        path = tmp_path / f"{kind}{len(hosts)}.gguf"
        path.write_bytes(gguf_bytes([*kept, *more], [*weights, *tensors]))
        hosts.append(load_host(str(path), CONFIG, lambda _fraction: True))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def ask_all(host: EmbeddingHost, *questions: Query) -> list[Any]:
    """The answers, in the order of the questions, which are asked at once."""
    replies: list[queue.Queue] = [queue.Queue() for _ in questions]
    for question, reply in zip(questions, replies, strict=True):
        host.ask(question, reply.put)
    return [reply.get(timeout=30) for reply in replies]


def vectors(host: EmbeddingHost, texts: list, num_dims: int | None = None) -> np.ndarray:
    (answer,) = ask_all(host, Embed(inputs=texts, num_dims=num_dims))
    return np.frombuffer(answer.data, dtype="<f4").reshape(len(texts), answer.num_dims)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_do_not_depend_on_what_shares_their_batch(load, kind: str) -> None:
    host = load(kind, (f"{kind}.pooling_type", "u32", 3 if kind == "llama" else 1))
    assert isinstance(host, EmbeddingHost)
    together = vectors(host, TEXTS)
    alone = np.concatenate([vectors(host, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_an_encoder_without_a_pooling_takes_the_mean(load) -> None:
    mean = vectors(load("bert"), TEXTS)
    host = load("bert", ("bert.pooling_type", "u32", 0))
    np.testing.assert_allclose(vectors(host, TEXTS), mean, atol=1e-6)
    cls = vectors(load("bert", ("bert.pooling_type", "u32", 2)), TEXTS)
    assert not np.allclose(cls, mean, atol=1e-3)


def test_more_texts_than_a_batch_holds_come_in_order(load) -> None:
    host = load("bert")
    texts = [letter * 30 for letter in "abcdefgh"]
    many = vectors(host, texts)
    np.testing.assert_allclose(many[5], vectors(host, [texts[5]])[0], atol=1e-3)  # half floats
    assert host.stats().num_steps_total > 4


def test_questions_share_their_calls(load) -> None:
    host = load("bert")
    answers = ask_all(host, *(Embed(inputs=[text]) for text in "abcdefgh"))
    assert len({answer.data for answer in answers}) == 8
    assert host.stats().computed_tokens_total == 8 * 3


def test_token_ids_are_taken_as_they_are_and_dimensions_cut(load) -> None:
    host = load("bert")
    (tokens,) = ask_all(host, Tokenize(parts=["hello"], add_special=True))
    whole = vectors(host, ["hello"])
    np.testing.assert_array_equal(vectors(host, [tokens.token_ids]), whole)
    short = vectors(host, ["hello"], 5)
    np.testing.assert_allclose(short[0], whole[0, :5] / np.linalg.norm(whole[0, :5]), rtol=1e-5)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Embed(inputs=["ok", "x" * 65]), r"input\[1\] has 67 tokens, and this model takes 64"),
        (Embed(inputs=[[10**6]]), "token id 1000000"),
        (Rerank(query="a", documents=["x " * 65]), "tokens"),
        (CountPrompt(spec=GenerationSpec(request_id="r", prompt="a")), "no conversations"),
    ],
)
def test_what_cannot_be_done_is_refused(load, question: Query, words: str) -> None:
    host = load("bert")
    (answer,) = ask_all(host, question)
    assert isinstance(answer, QueryFailed)
    assert re.search(words, answer.message)
    assert vectors(host, ["ok"]).shape == (1, SMALL_N_EMBD)


def test_text_is_refused_by_an_embedding_model_and_vectors_by_a_text_model(load) -> None:
    events: list = []
    load("bert").submit(GenerationSpec(request_id="r", prompt="a"), events.extend)
    assert [type(event) for event in events] == [RequestFailed]
    host = load("llama")
    assert isinstance(host, EngineHost)
    (answer,) = ask_all(host, Embed(inputs=["a"]))
    assert "embedding" in answer.message


def test_a_ranking_model_scores_pairs(load) -> None:
    random = np.random.default_rng(5)
    head = (
        ("cls.weight", random.normal(0, 0.3, (SMALL_N_EMBD, SMALL_N_EMBD)).astype(np.float32)),
        ("cls.bias", np.zeros(SMALL_N_EMBD, dtype=np.float32)),
        ("cls.output.weight", random.normal(0, 0.3, (1, SMALL_N_EMBD)).astype(np.float32)),
        ("cls.output.bias", np.zeros(1, dtype=np.float32)),
    )
    host = load("bert", ("bert.pooling_type", "u32", 4), tensors=head)
    ranked, alone, refused = ask_all(
        host,
        Rerank(query="a", documents=["bb", "cc"]),
        Rerank(query="a", documents=["cc"]),
        Embed(inputs=["a"]),
    )
    assert ranked.scores[1] == pytest.approx(alone.scores[0], abs=1e-5)
    assert ranked.scores[0] != ranked.scores[1]
    assert "/v1/rerank" in refused.message


def test_minilm_gives_the_published_similarities(minilm_model: Path) -> None:
    host = load_host(str(minilm_model), LoadConfig(threads=2), lambda _fraction: True)
    # The example and its figures: https://sbert.net/docs/quickstart.html
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    found = vectors(host, texts)
    host.close()
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-3)
