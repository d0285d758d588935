"""A real model thinks as much as asked for, by a template whose prompt begins it. Needs SLIPSTREAM_DEV_MODELS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.types import OutputFormat, Reasoning
from tests.support.chat_templates import llama_cpp_template

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.dev_models, pytest.mark.slow]
ASK = [{"role": "user", "content": "Is 7 a prime number? Answer in one word."}]
LONG = [{"role": "user", "content": "Think of the numbers from one to forty, one after the other."}]
YES_OR_NO = OutputFormat(kind="choice", value='["yes", "no"]')
GREEDY = SamplingParams(temperature=0.0, max_tokens=60)


@pytest.fixture(scope="module")
def llm(dev_models: Path) -> Iterator[LLM]:
    template = llama_cpp_template("Qwen-QwQ-32B")
    model = dev_models / "qwen05.gguf"
    with LLM(model, context_length=2048, parallel=1, chat_template=template) as value:
        yield value


def test_a_budget_ends_the_thinking_and_an_answer_in_its_form_follows(llm: LLM) -> None:
    answer = llm.chat(LONG, GREEDY, reasoning=Reasoning(budget=12), output_format=YES_OR_NO)
    assert answer.reasoning
    assert 12 <= answer.usage.num_reasoning_tokens <= 12 + 8, "and the tokens of the end tag"
    assert answer.text.strip() in ("yes", "no")


def test_off_is_no_thinking_at_all(llm: LLM) -> None:
    for reasoning in (Reasoning(effort="off"), Reasoning(budget=0)):
        answer = llm.chat(ASK, GREEDY, reasoning=reasoning)
        assert answer.reasoning == ""
        assert answer.usage.num_reasoning_tokens <= 8, (
            "the end tag, where the template begins thinking"
        )
        assert "think>" not in answer.text
        answer = llm.chat(ASK, GREEDY, reasoning=reasoning, output_format=YES_OR_NO)
        assert answer.reasoning == ""
        assert answer.text.strip() in ("yes", "no")


def test_without_a_budget_it_thinks_for_as_long_as_it_likes(llm: LLM) -> None:
    answer = llm.chat(LONG, GREEDY, reasoning=Reasoning(effort="on"))
    assert answer.usage.num_reasoning_tokens > 20
    assert "think>" not in answer.text + answer.reasoning
