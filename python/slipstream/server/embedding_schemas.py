"""The bodies of /v1/embeddings and /v1/rerank."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.server.openai_answers import Answer
from slipstream.server.schema_base import MAX_INPUTS, Inputs, Schema, Ttl


class EmbeddingsRequest(Schema):
    """Body of POST /v1/embeddings.

    Attributes:
        input: Text, token ids, or a list of either.
        model: Key of an embedding model; none or "" takes the one that is loaded.
        encoding_format: `float` for lists of numbers, `base64` for little-endian float32.
        dimensions: Keep so many numbers of each vector, which is normalized again.
        ttl: Seconds the model may be idle before it is unloaded, if this request loads it.
        user: Accepted, without effect.
    """

    input: Inputs
    model: Annotated[str, Field(max_length=1024)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    ttl: Ttl | None = None
    user: Any = None


class EmbeddingEntry(Answer):
    """One vector, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    """Answer of POST /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[EmbeddingEntry]
    model: str
    usage: EmbeddingUsage


class Document(Schema):
    """A document to rank."""

    text: str


class RerankRequest(Schema):
    """Body of POST /v1/rerank.

    Attributes:
        query: What is looked for.
        documents: Texts, or objects with a `text`.
        model: Key of a ranking or embedding model; none or "" takes the one that is loaded.
        top_n: Give the best so many only.
        return_documents: Give the texts back, too.
    """

    query: str
    documents: Annotated[
        list[str | Document], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)
    ]
    model: Annotated[str, Field(max_length=1024)] | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None


class RankedDocument(Answer):
    """A document's place in the request and how well it answers the query."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankAnswer(Answer):
    """Answer of POST /v1/rerank; the best document comes first."""

    object: Literal["list"] = "list"
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage
