"""Answers questions about text with a model's tokenizer and prompt format. Knows no engine and no threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError
from slipstream.base.queries import Count, Detokenize, Text, Tokenize, Tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.runtime.prompts import PromptBuilder, Tokenizer


class TextQueries:
    """Answers for one model. Safe from any thread.

    Args:
        tokenizer: Of the model.
        builder: Makes its prompts.
        num_vocab: Token ids are 0 … num_vocab - 1.
    """

    def __init__(self, tokenizer: Tokenizer, builder: PromptBuilder, num_vocab: int) -> None:
        self._tokenizer = tokenizer
        self._builder = builder
        self._num_vocab = num_vocab

    def answer(self, query: Query) -> QueryAnswer:
        """Return the answer to a question. Linear in its length.

        Raises:
            InvalidRequestError: a token id there is not, or a prompt that cannot be made.
        """
        if isinstance(query, Tokenize):
            return self._tokenize(query)
        if isinstance(query, Detokenize):
            self._check(query.token_ids, "tokens")
            text = self._tokenizer.detokenize(query.token_ids).decode("utf-8", "replace")
            return Text(text=text)
        return Count(num_tokens=len(self._builder.build(query.spec).token_ids))

    def _tokenize(self, query: Tokenize) -> Tokens:
        tokenizer = self._tokenizer
        given = [part for part in query.parts if isinstance(part, int)]
        self._check(given, "content")
        token_ids: list[int] = []
        for index, part in enumerate(query.parts):
            if isinstance(part, int):
                token_ids.append(part)
                continue
            # BOS and EOS belong to the text as a whole, so to its first part at most.
            add_special = query.add_special and index == 0
            token_ids += tokenizer.tokenize(
                part, add_special=add_special, parse_special=query.parse_special
            )
        pieces = (
            [tokenizer.token_piece(t, special=True) for t in token_ids] if query.with_pieces else []
        )
        return Tokens(token_ids=token_ids, pieces=pieces)

    def _check(self, token_ids: Sequence[int], param: str) -> None:
        strange = next((t for t in token_ids if not 0 <= t < self._num_vocab), None)
        if strange is not None:
            message = (
                f"{param} holds token id {strange}; this model's are 0 to {self._num_vocab - 1}"
            )
            raise InvalidRequestError(message, param=param)
