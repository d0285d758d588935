"""Tool calls and reasoning on tiny random models: what must be a call is one, and budgets hold, drafted or not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slipstream import LLM, FinishReason, LoadConfig, OutputFormat, Reasoning, SamplingParams
from slipstream.base.errors import InvalidRequestError
from slipstream.base.types import GenerationSpec, Speculation
from tests.support.chat_templates import llama_cpp_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipstream import GenerationResult

HELLO = [{"role": "user", "content": "hi"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look up",
            "parameters": {
                "type": "object",
                "properties": {"kind": {"enum": ["a", "b"]}, "ok": {"type": "boolean"}},
                "required": ["kind", "ok"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
FORM = OutputFormat(kind="json_schema", value='{"enum": ["x", 7]}', name="response_format")


def load(path: Path, template: str | None) -> LLM:
    source = llama_cpp_template(template) if template else None
    return LLM(path, LoadConfig(context_length=2048, parallel=2, threads=1, chat_template=source))


@pytest.fixture(scope="module")
def plain(tiny_path: Callable[[str], Path]) -> Iterator[LLM]:
    """A model whose template knows neither tools nor reasoning."""
    with load(tiny_path("llama"), None) as llm:
        yield llm


@pytest.fixture(scope="module")
def thinker(tiny_path: Callable[[str], Path]) -> Iterator[LLM]:
    """One with tools whose prompts end within thinking."""
    with load(tiny_path("llama"), "Qwen-QwQ-32B") as llm:
        yield llm


def ask(llm: LLM, seed: int = 1, most: int = 400, **fields: Any) -> GenerationResult:
    sampling = SamplingParams(temperature=1.0, seed=seed, max_tokens=most)
    spec = GenerationSpec(
        request_id="r", messages=HELLO, sampling=sampling, parse_output=True, **fields
    )
    return llm.run([spec])[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_answer_that_must_call_does(plain: LLM, seed: int) -> None:
    result = ask(plain, seed, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    assert result.finish_reason is FinishReason.TOOL_CALLS
    (call,) = result.tool_calls
    arguments = json.loads(call.arguments)
    assert call.name in ("look up", "now")
    if call.name == "look up":
        assert arguments["kind"] in ("a", "b")
        assert isinstance(arguments["ok"], bool)
    assert result.text == ""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_named_tool_is_the_one(plain: LLM, seed: int) -> None:
    result = ask(plain, seed, tools=TOOLS, tool_choice="name:now", parallel_tool_calls=False)
    assert [(call.name, json.loads(call.arguments)) for call in result.tool_calls] == [("now", {})]


def test_nothing_is_called_where_nothing_may_be(plain: LLM) -> None:
    result = ask(plain, most=20, tools=TOOLS, tool_choice="none")
    assert (result.tool_calls, result.finish_reason) == ((), FinishReason.LENGTH)


@pytest.mark.parametrize("budget", [0, 7])
@pytest.mark.parametrize("source", ["off", "ngram"])
def test_a_budget_ends_the_thinking(thinker: LLM, budget: int, source: str) -> None:
    plain = Speculation(source=source, num_tokens=4 if source == "ngram" else None)
    result = ask(thinker, most=60, reasoning=Reasoning(budget=budget), speculation=plain)
    end = 20  # tokens of "</think>", which this vocabulary may have to spell
    assert result.usage.num_reasoning_tokens <= (budget + end if budget else 0)
    assert "</think>" not in result.text + result.reasoning
    assert result.text
    assert bool(result.reasoning.strip()) is bool(budget) or not budget
    again = ask(thinker, most=60, reasoning=Reasoning(budget=budget))
    assert (again.text, again.reasoning) == (result.text, result.reasoning)


def test_after_thinking_comes_the_call_that_must_be(thinker: LLM) -> None:
    result = ask(
        thinker,
        tools=TOOLS,
        tool_choice="name:now",
        parallel_tool_calls=False,
        reasoning=Reasoning(budget=5),
    )
    assert [call.name for call in result.tool_calls] == ["now"]
    assert result.usage.num_reasoning_tokens >= 5


def test_the_form_of_content_holds_after_thinking(thinker: LLM) -> None:
    result = ask(thinker, output_format=FORM, reasoning=Reasoning(budget=5))
    assert json.loads(result.text) in ("x", 7)
    assert result.usage.num_reasoning_tokens >= 5


@pytest.mark.parametrize("seed", range(1, 6))
def test_content_of_a_form_or_a_call_are_both_possible(plain: LLM, seed: int) -> None:
    result = ask(plain, seed, tools=TOOLS, output_format=FORM)
    assert result.tool_calls or json.loads(result.text) in ("x", 7)


def test_a_grammar_and_tools_exclude_each_other(plain: LLM) -> None:
    form = OutputFormat(kind="gbnf", value='root ::= "a"', name="grammar")
    with pytest.raises(InvalidRequestError, match="exclude") as caught:
        ask(plain, tools=TOOLS, output_format=form)
    assert caught.value.param == "grammar"


def test_chat_splits_its_answers(thinker: LLM) -> None:
    sampling = SamplingParams(temperature=0.0, max_tokens=40)
    options: dict[str, Any] = {"reasoning": Reasoning(budget=3)}
    result = thinker.chat(HELLO, sampling, **options)
    deltas = list(thinker.chat(HELLO, sampling, stream=True, **options))
    assert "".join(delta.text for delta in deltas) == result.text
    assert "".join(delta.reasoning for delta in deltas) == result.reasoning
    assert result.usage.num_reasoning_tokens > 0
