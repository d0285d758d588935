"""Questions about text, answered by a model's vocabulary."""

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.queries import Count, CountPrompt, Detokenize, Text, Tokenize, Tokens
from slipstream.base.types import GenerationSpec
from slipstream.runtime.prompts import ChosenFormat, PromptBuilder
from slipstream.runtime.text_queries import TextQueries
from tests.support.fake_runner import text_tokens
from tests.support.fake_text_model import FakeFormat, FakeTextModel


@pytest.fixture
def queries():
    model = FakeTextModel()
    builder = PromptBuilder(model, ChosenFormat(FakeFormat(), "model"), 1000)
    return TextQueries(model, builder, model.info.num_vocab)


def test_texts_and_token_ids_are_tokenized_in_order(queries):
    ids = text_tokens("^ab")
    assert queries.answer(Tokenize(parts=["ab"], add_special=True)) == Tokens(token_ids=ids)
    answer = queries.answer(Tokenize(parts=["a", 5, "b"], add_special=True, with_pieces=True))
    assert answer.token_ids == [*text_tokens("^a"), 5, *text_tokens("b")]
    assert answer.pieces[0] == b"^"
    assert len(answer.pieces) == 4


def test_token_ids_become_text(queries):
    assert queries.answer(Detokenize(token_ids=text_tokens("ab"))) == Text(text="ab")


def test_the_tokens_of_a_prompt_are_counted(queries):
    spec = GenerationSpec(request_id="r", prompt="abc")
    assert queries.answer(CountPrompt(spec=spec)) == Count(num_tokens=4)


@pytest.mark.parametrize("query", [Detokenize(token_ids=[10**6]), Tokenize(parts=[10**6])])
def test_a_token_there_is_not_is_refused(queries, query):
    with pytest.raises(InvalidRequestError, match="1000000"):
        queries.answer(query)
