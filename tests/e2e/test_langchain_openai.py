"""langchain-openai against a real server with the demo model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("langchain_openai", reason="make test-clients has an environment with it")

import langchain_openai
from pydantic import BaseModel

from tests.support.processes import ServerProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
ASK = "What is the capital of France?"


class City(BaseModel):
    """Where something is."""

    name: str
    is_capital: bool


@pytest.fixture
def chat(server: ServerProcess) -> Any:
    return langchain_openai.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="", temperature=0, max_tokens=24
    )


def test_an_answer_has_text_and_usage(chat: Any) -> None:
    answer = chat.invoke([("system", "Be brief."), ("user", ASK)])
    assert answer.content
    usage = answer.usage_metadata
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]


def test_a_stream_adds_up_and_ends_with_usage(chat: Any) -> None:
    chunks = list(chat.stream(ASK, stream_usage=True))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > 3
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0
    assert whole.response_metadata["finish_reason"] in ("stop", "length")


def test_a_batch_and_async_calls_are_answered(chat: Any) -> None:
    assert all(answer.content for answer in chat.batch([ASK, "Name a colour.", "Count to three."]))
    assert asyncio.run(chat.ainvoke(ASK)).content


def test_structured_output_comes_back_as_the_class(chat: Any) -> None:
    bound = chat.with_structured_output(City, method="json_schema")
    assert isinstance(bound.invoke(ASK), City)


def test_the_responses_api_is_spoken_too(server: ServerProcess) -> None:
    chat = langchain_openai.ChatOpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        model="",
        temperature=0,
        max_tokens=16,
        use_responses_api=True,
    )
    assert chat.invoke(ASK).text
    assert "".join(chunk.text for chunk in chat.stream(ASK))


@pytest.fixture(scope="module")
def embedding_server(minilm_model: Path) -> Iterator[ServerProcess]:
    process = start_server(str(minilm_model), "--threads", "2")
    yield process
    process.close()


def test_embeddings_of_texts(embedding_server: ServerProcess) -> None:
    embeddings = langchain_openai.OpenAIEmbeddings(
        base_url=f"{embedding_server.url}/v1",
        api_key="none",
        model=embedding_server.get_json("/v1/models")["data"][0]["id"],
        check_embedding_ctx_length=False,  # its own tokenizer would have to be downloaded
    )
    rows = embeddings.embed_documents(["Paris is in France.", "Bananas are yellow."])
    query = embeddings.embed_query("Where is Paris?")
    scores = [sum(a * b for a, b in zip(row, query, strict=True)) for row in rows]
    assert scores[0] > scores[1]
