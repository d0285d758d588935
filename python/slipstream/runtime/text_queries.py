"""Answers questions about text with a model's tokenizer and prompt format. Knows no engine and no threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError
from slipstream.base.queries import Count, CountPrompt, Detokenize, Text, Tokenize, Tokens
from slipstream.engine.request import check_token_ids

if TYPE_CHECKING:
    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.runtime.prompts import PromptBuilder, Tokenizer


class TextQueries:
    """Answers for one model. Safe from any thread.

    Args:
        tokenizer: Of the model.
        builder: Makes its prompts; None for a model that takes none.
        num_vocab: Token ids are 0 … num_vocab - 1.
    """

    def __init__(self, tokenizer: Tokenizer, builder: PromptBuilder | None, num_vocab: int) -> None:
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
            check_token_ids("tokens", query.token_ids, self._num_vocab)
            text = self._tokenizer.detokenize(query.token_ids).decode("utf-8", "replace")
            return Text(text=text)
        if not isinstance(query, CountPrompt):
            message = (
                "this model makes text, no vectors; load an embedding or ranking model for that"
            )
            raise InvalidRequestError(message, param="model")
        if self._builder is None:
            message = "this model gives vectors and takes no conversations"
            raise InvalidRequestError(message, param="model")
        return Count(num_tokens=len(self._builder.build(query.spec).token_ids))

    def _tokenize(self, query: Tokenize) -> Tokens:
        tokenizer = self._tokenizer
        given = [part for part in query.parts if isinstance(part, int)]
        check_token_ids("content", given, self._num_vocab)
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
