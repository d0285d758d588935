"""What shares a step, and which cells of the KV cache are free, changes no bit of an answer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from slipstream import LLM, SamplingParams, native

if TYPE_CHECKING:
    from pathlib import Path

    from slipstream.base.types import GenerationResult

WORDS = (
    "a",
    "river",
    "the",
    "moon",
    "bread",
    "clock",
    "wind",
    "salt",
    "bridge",
    "glass",
    "of",
    "in",
)


@pytest.mark.slow
@pytest.mark.skipif(
    not native.build_info()["kernels"]["q8_0"], reason="upstream's products depend on their company"
)
def test_answers_are_the_same_alone_and_in_company(demo_model: Path) -> None:
    choice = random.Random(5)
    prompts = [" ".join(choice.choices(WORDS, k=choice.randint(3, 40))) for _ in range(48)]
    # Answers of many lengths leave cells free in between, and later ones are spread over these.
    sampling = [
        SamplingParams(
            temperature=0.0, max_tokens=choice.randint(1, 14), ignore_eos=True, logprobs=1
        )
        for _ in prompts
    ]

    def answers(parallel: int, speculation: str) -> list[GenerationResult]:
        options = {"context_length": 1024, "repack": False, "speculation": speculation}
        with LLM(demo_model, parallel=parallel, **options) as llm:
            if parallel > 1:
                return llm.generate(prompts, sampling)
            return [llm.generate([p], s)[0] for p, s in zip(prompts, sampling, strict=True)]

    alone = answers(1, "off")
    for parallel, speculation in ((8, "off"), (8, "ngram")):
        for one, other in zip(alone, answers(parallel, speculation), strict=True):
            assert other.token_ids == one.token_ids
            assert other.logprobs == one.logprobs
