"""Questions about text and vectors that a loaded model answers outside its queue; they cross processes as they are."""

from __future__ import annotations

import msgspec

from slipstream.base.types import GenerationSpec


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize"):
    """Asks for the token ids of a text; answered by Tokens.

    Attributes:
        parts: Texts, and token ids that are taken as they are.
        add_special: Add BOS and EOS where the model wants them.
        parse_special: Read the names of special tokens as those tokens.
        with_pieces: Ask for the bytes of each token, too.
    """

    parts: list[str | int]
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class Detokenize(msgspec.Struct, frozen=True, kw_only=True, tag="detokenize"):
    """Asks for the text of token ids; answered by Text."""

    token_ids: list[int]


class CountPrompt(msgspec.Struct, frozen=True, kw_only=True, tag="count_prompt"):
    """Asks how many tokens the prompt of a request has; answered by Count."""

    spec: GenerationSpec


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Asks for the vectors of texts; answered by Vectors.

    Attributes:
        inputs: Texts, or their token ids.
        num_dims: Keep so many numbers of each vector; None for all.
    """

    inputs: list[str | list[int]]
    num_dims: int | None = None


class Rerank(msgspec.Struct, frozen=True, kw_only=True, tag="rerank"):
    """Asks how well documents answer a query; answered by Scores."""

    query: str
    documents: list[str]


class Tokens(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    """Token ids, and the bytes of each where asked for."""

    token_ids: list[int]
    pieces: list[bytes] = []


class Text(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """A text; what is no UTF-8 is replaced."""

    text: str


class Count(msgspec.Struct, frozen=True, kw_only=True, tag="count"):
    """A number of tokens."""

    num_tokens: int


class Vectors(msgspec.Struct, frozen=True, kw_only=True, tag="vectors"):
    """Vectors of length 1.

    Attributes:
        data: Little-endian float32, one vector after the other.
        num_dims: Numbers in each.
        num_tokens: Of all texts.
    """

    data: bytes
    num_dims: int
    num_tokens: int


class Scores(msgspec.Struct, frozen=True, kw_only=True, tag="scores"):
    """One score for each document, the higher the better; of an embedding model the cosine with the query.

    Attributes:
        scores: In the order of the documents.
        num_tokens: Of all texts.
    """

    scores: list[float]
    num_tokens: int


class QueryFailed(msgspec.Struct, frozen=True, tag="query_failed"):
    """Why there is no answer.

    Attributes:
        error: Class name in `base.errors`.
        message: For the user.
        param: The request field at fault.
    """

    error: str
    message: str
    param: str | None = None


Query = Tokenize | Detokenize | CountPrompt | Embed | Rerank
QueryAnswer = Tokens | Text | Count | Vectors | Scores
