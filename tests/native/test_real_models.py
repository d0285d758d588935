"""Real models, alone and in company: what tiny random ones cannot show. Needs SLIPSTREAM_DEV_MODELS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slipstream import LLM, SamplingParams
from slipstream.native import Context, Model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.dev_models, pytest.mark.slow]

MODELS = ("smollm2-135m", "gemma3-270m", "qwen05", "qwen15")
PROMPT = "def fibonacci(n):\n"
GREEDY = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)


@pytest.mark.parametrize("name", MODELS)
def test_the_engine_gives_the_tokens_of_the_bare_loop(dev_models: Path, name: str) -> None:
    path = dev_models / f"{name}.gguf"
    model = Model(
        path, repack=False
    )  # as for several requests at a time: the same kernels, so the same bits
    context = Context(model, n_ctx=1024, n_seq_max=8)
    prompt = model.tokenize(PROMPT)
    context.decode(np.array(prompt, dtype=np.int32))
    first = int(context.logits(len(prompt) - 1).argmax())
    expected = [first, *context.greedy_loop(first, GREEDY.max_tokens - 1)]
    with LLM(path, context_length=1024) as llm:
        result = llm.generate(PROMPT, GREEDY)
    assert result.token_ids == expected
    assert result.usage.num_prompt_tokens == len(prompt)


@pytest.mark.parametrize("name", ["qwen05", "qwen15"])
def test_a_code_model_answers_a_question_in_its_chat_format(dev_models: Path, name: str) -> None:
    question = [{"role": "user", "content": "What is 2 + 2? Answer with the number only."}]
    with LLM(dev_models / f"{name}.gguf", context_length=1024) as llm:
        answer = llm.chat(question, SamplingParams(temperature=0.0, max_tokens=20))
    assert "4" in answer.text
    assert answer.finish_reason == "stop"


def test_eight_requests_at_once_answer_as_well_as_one(dev_models: Path) -> None:
    questions = [f"What is {i} + {i}? Answer with the number only." for i in range(1, 9)]
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    with LLM(dev_models / "qwen05.gguf", context_length=2048) as llm:

        async def ask() -> list[str]:
            chats = [llm.achat([{"role": "user", "content": q}], greedy) for q in questions]
            return [answer.text for answer in await asyncio.gather(*chats)]

        answers = asyncio.run(ask())
    right = [str(2 * i) in answer for i, answer in enumerate(answers, 1)]
    assert sum(right) >= 7, answers
