"""POST /tokenize and /detokenize: text to token ids and back, without the engine's queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from slipstream.base.queries import Detokenize, Text, Tokenize, Tokens
from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.text_schemas import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    TokenPiece,
)

if TYPE_CHECKING:
    from starlette.requests import Request


async def tokenize(request: Request) -> Response:
    """Turn text into token ids."""
    context = context_of(request)
    body = parse_body(await request.body(), TokenizeRequest)
    query = Tokenize(
        parts=[body.content] if isinstance(body.content, str) else list(body.content),
        add_special=body.add_special,
        parse_special=body.parse_special,
        with_pieces=body.with_pieces,
    )
    ask = context.generation.ask(body.model, query)
    _model, answer = await context.in_flight.run(ask, request.receive)
    assert isinstance(answer, Tokens)
    tokens: list[int] | list[TokenPiece] = answer.token_ids
    if body.with_pieces:
        tokens = [
            TokenPiece(id=token_id, piece=_piece(piece))
            for token_id, piece in zip(answer.token_ids, answer.pieces, strict=True)
        ]
    return _json(TokenizeAnswer(tokens=tokens))


async def detokenize(request: Request) -> Response:
    """Turn token ids into text."""
    context = context_of(request)
    body = parse_body(await request.body(), DetokenizeRequest)
    ask = context.generation.ask(body.model, Detokenize(token_ids=body.tokens))
    _model, answer = await context.in_flight.run(ask, request.receive)
    assert isinstance(answer, Text)
    return _json(DetokenizeAnswer(content=answer.text))


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


def _json(answer: TokenizeAnswer | DetokenizeAnswer) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
