"""The bodies of /tokenize and /detokenize, in llama-server's shapes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slipstream.server.openai_answers import Answer
from slipstream.server.schema_base import Schema, TokenId


class TokenizeRequest(Schema):
    """Body of POST /tokenize.

    Attributes:
        content: A text, or a list of texts and of token ids that are taken as they are.
        model: Key of a model; none or "" takes the one that is loaded.
        add_special: Add BOS and EOS where the model wants them.
        parse_special: Read the names of special tokens as those tokens.
        with_pieces: Tell the text of each token, too.
    """

    content: str | Annotated[list[str | TokenId], Field(fail_fast=True)]
    model: Annotated[str, Field(max_length=1024)] | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class TokenPiece(Answer):
    """A token and its text, or its bytes where they are no whole characters."""

    id: int
    piece: str | list[int]


class TokenizeAnswer(Answer):
    """Answer of POST /tokenize."""

    tokens: list[int] | list[TokenPiece]


class DetokenizeRequest(Schema):
    """Body of POST /detokenize.

    Attributes:
        tokens: Token ids.
        model: As for /tokenize.
    """

    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
    model: Annotated[str, Field(max_length=1024)] | None = None


class DetokenizeAnswer(Answer):
    """Answer of POST /detokenize."""

    content: str
