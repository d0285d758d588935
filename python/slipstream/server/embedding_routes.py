"""POST /v1/embeddings and /v1/rerank: vectors of texts, and texts in the order of their relevance."""

from __future__ import annotations

import base64
import sys
from array import array
from typing import TYPE_CHECKING

from starlette.responses import Response

from slipstream.base.errors import InvalidRequestError
from slipstream.base.queries import Embed, Rerank, Scores, Vectors
from slipstream.runtime.load_options import LoadOptions
from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.embedding_schemas import (
    EmbeddingEntry,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    EmbeddingUsage,
    RankedDocument,
    RerankAnswer,
    RerankRequest,
)
from slipstream.server.openai_answers import without_nulls
from slipstream.server.schema_base import listed

if TYPE_CHECKING:
    from starlette.requests import Request

_FLOAT_BYTES = 4


async def embeddings(request: Request) -> Response:
    """Give a vector for each text."""
    context = context_of(request)
    body = parse_body(await request.body(), EmbeddingsRequest)
    query = Embed(inputs=listed(body.input), num_dims=body.dimensions)
    ask = context.generation.ask(body.model, query, LoadOptions(ttl_s=body.ttl))
    model, vectors = await context.in_flight.run(ask, request.receive)
    assert isinstance(vectors, Vectors)
    if body.dimensions is not None and body.dimensions > vectors.num_dims:
        message = f"dimensions is {body.dimensions}; vectors of {model} have {vectors.num_dims}"
        raise InvalidRequestError(message, param="dimensions")
    size = vectors.num_dims * _FLOAT_BYTES
    rows = [vectors.data[start : start + size] for start in range(0, len(vectors.data), size)]
    encode = _base64 if body.encoding_format == "base64" else _floats
    answer = EmbeddingsAnswer(
        data=[EmbeddingEntry(index=i, embedding=encode(row)) for i, row in enumerate(rows)],
        model=model,
        usage=_usage(vectors.num_tokens),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


async def rerank(request: Request) -> Response:
    """Sort documents by how well they answer a query."""
    context = context_of(request)
    body = parse_body(await request.body(), RerankRequest)
    texts = [item if isinstance(item, str) else item.text for item in body.documents]
    ask = context.generation.ask(body.model, Rerank(query=body.query, documents=texts))
    model, scores = await context.in_flight.run(ask, request.receive)
    assert isinstance(scores, Scores)
    ranked = sorted(enumerate(scores.scores), key=lambda entry: -entry[1])[: body.top_n]
    answer = RerankAnswer(
        model=model,
        results=[
            RankedDocument(
                index=index,
                relevance_score=score,
                document={"text": texts[index]} if body.return_documents else None,
            )
            for index, score in ranked
        ],
        usage=_usage(scores.num_tokens),
    )
    return without_nulls(answer)


def _usage(num_tokens: int) -> EmbeddingUsage:
    return EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)


def _base64(row: bytes) -> str:
    return base64.b64encode(row).decode("ascii")


def _floats(row: bytes) -> list[float]:
    numbers = array("f", row)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
