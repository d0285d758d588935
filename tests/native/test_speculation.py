"""Drafts on real (tiny) models: whatever is drafted, the output is the one without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slipstream import LLM
from slipstream.base.errors import InvalidBatchError
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.engine.runner import ScheduledSequence
from tests.support.native import assert_agree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = LoadConfig(context_length=512, parallel=2, threads=1, batch_size=64)
PROMPT = [40, 41, 42, 43, 44, 45] * 3
NUM_TOKENS = 24
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 1.0, "seed": 6, "top_k": 0, "top_p": 0.8, "repeat_penalty": 1.2},
    {"temperature": 1.0, "seed": 7, "typical_p": 0.9},
    {"temperature": 0.0, "frequency_penalty": 0.5, "logprobs": 2},
    {"temperature": 1.0, "seed": 8, "grammar": 'root ::= ("ab" | "cd" | " x")*'},
]


def load(path: Path) -> LlamaRunner:
    return LlamaRunner.load(str(path), CONFIG)


def plain_run(runner: LlamaRunner, sampling: SamplingParams) -> list[int]:
    runner.trim(0, 0)
    runner.open_sequence(0, sampling, PROMPT)
    tokens = list(runner.step([ScheduledSequence(0, 0, PROMPT, True)]).token_ids)
    while len(tokens) < NUM_TOKENS:
        start = len(PROMPT) + len(tokens) - 1
        tokens += runner.step([ScheduledSequence(0, start, tokens[-1:], True)]).token_ids
    return tokens


def drafted_run(
    runner: LlamaRunner, sampling: SamplingParams, draft: Callable[[int], list[int]]
) -> tuple[list[int], int]:
    """Generate with `draft(number of tokens so far)` behind every token; also return the number of steps."""
    runner.trim(1, 0)
    runner.open_sequence(1, sampling, PROMPT)
    tokens = list(runner.step([ScheduledSequence(1, 0, PROMPT, True)]).token_ids)
    num_steps = 1
    while len(tokens) < NUM_TOKENS:
        drafts = draft(len(tokens))
        start = len(PROMPT) + len(tokens) - 1
        scheduled = ScheduledSequence(1, start, tokens[-1:] + drafts, True, len(drafts))
        result = runner.step([scheduled])
        assert result.counts == [len(result.token_ids)]
        assert 1 <= len(result.token_ids) <= len(drafts) + 1
        tokens += result.token_ids
        num_steps += 1
    return tokens[:NUM_TOKENS], num_steps


@pytest.mark.parametrize("values", SAMPLINGS, ids=str)
@pytest.mark.parametrize("num_drafts", [1, 2, 5, 9])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_outputs_are_those_without_drafts_for_every_draft_length(
    tiny_path: Callable[[str], Path], kind: str, num_drafts: int, values: dict[str, Any]
) -> None:
    runner = load(tiny_path(kind))
    sampling = SamplingParams(**values)
    expected = plain_run(runner, sampling)

    def right(done: int) -> list[int]:
        return expected[done : done + num_drafts]

    def half_right(done: int) -> list[int]:
        draft = right(done)
        return [*draft[: done % 3], *((token + 1) % 300 for token in draft[done % 3 :])]

    tokens, num_steps = drafted_run(runner, sampling, right)
    assert tokens == expected
    assert num_steps <= 1 + -(-(NUM_TOKENS - 1) // (num_drafts + 1))
    assert drafted_run(runner, sampling, half_right)[0] == expected


def test_drafts_of_several_sequences_share_a_step(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    sampling = SamplingParams(temperature=0.0)
    expected = plain_run(runner, sampling)
    for seq_id in (0, 1):
        runner.trim(seq_id, 0)
        runner.open_sequence(seq_id, sampling, PROMPT)
    runner.step([ScheduledSequence(s, 0, PROMPT, True) for s in (0, 1)])
    wrong = [(expected[1] + 1) % 300]
    scheduled = [
        ScheduledSequence(0, len(PROMPT), [expected[0], *expected[1:4]], True, 3),
        ScheduledSequence(1, len(PROMPT), [expected[0], *wrong], True, 1),
    ]
    result = runner.step(scheduled)
    assert result.counts == [4, 1]
    assert result.token_ids == [*expected[1:5], expected[1]]


@pytest.mark.parametrize("num_good_rows", [0, 1, 2])
def test_drafts_leave_memory_when_a_row_cannot_be_sampled(
    tiny_path: Callable[[str], Path], num_good_rows: int
) -> None:
    runner = load(tiny_path("llama"))
    sampling = SamplingParams(temperature=0.0)
    expected = plain_run(runner, sampling)
    runner.trim(0, 0)
    runner.open_sequence(0, sampling, PROMPT)
    runner.step([ScheduledSequence(0, 0, PROMPT, True)])
    masks = np.zeros((4, 10), np.uint32)
    masks[:num_good_rows] = 0xFFFFFFFF
    start, tokens = len(PROMPT), expected[:4]
    *_, counts, errors = runner._runner.step([0], [start], [4], tokens, [True], [3], [0], masks)
    assert counts == [num_good_rows]
    assert [index for index, _, _ in errors] == [0]
    # What is in memory is what a request has computed: all it was given but the last.
    assert runner._context.seq_pos_max(0) + 1 == start + max(1, num_good_rows)


def test_the_index_proposes_what_followed_before(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    text = [7, 8, 9, 10, 11, 12, 13, 14, 99, 7, 8, 9, 10]
    runner.open_sequence(0, SamplingParams(temperature=0.0), text)
    runner.open_sequence(1, SamplingParams(temperature=0.0), [1, 2, 3])
    (match, draft), nothing = runner.propose([0, 1], 4)
    assert (match, draft) == (4, [11, 12, 13, 14])
    assert nothing == (0, [])
    # A continuation that runs into the end goes round.
    runner.open_sequence(0, SamplingParams(temperature=0.0), [5, 6, 5, 6, 5, 6])
    assert runner.propose([0], 5) == [(4, [5, 6, 5, 6, 5])]


@pytest.mark.parametrize(
    ("token_ids", "sample", "num_drafts"), [([1], True, 1), ([1, 2], False, 1), ([1], True, -1)]
)
def test_impossible_drafts_are_refused(
    tiny_path: Callable[[str], Path], token_ids: list[int], sample: bool, num_drafts: int
) -> None:
    runner = load(tiny_path("llama"))
    runner.open_sequence(0, SamplingParams(temperature=0.0), [1])
    with pytest.raises(InvalidBatchError, match="draft"):
        runner.step([ScheduledSequence(0, 0, token_ids, sample, num_drafts)])


def test_memory_that_cannot_drop_drafts_gets_none(tiny_path: Callable[[str], Path]) -> None:
    assert load(tiny_path("llama")).info.max_drafts > 0
    assert load(tiny_path("mamba")).info.max_drafts == 0
    off = LoadConfig(context_length=256, threads=1, speculation="off")
    assert LlamaRunner.load(str(tiny_path("llama")), off).info.max_drafts == 0


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_engine_with_drafts_says_what_it_says_without(
    demo_model: Path, temperature: float
) -> None:
    sampling = SamplingParams(
        temperature=temperature, seed=3, max_tokens=48, ignore_eos=True, logprobs=2
    )
    prompts = ["one two three four five one two three four five one two three", "a b c a b c a b"]
    results = []
    for speculation in ("off", "ngram"):
        with LLM(demo_model, context_length=1024, speculation=speculation) as llm:
            results.append([llm.generate(prompt, sampling) for prompt in prompts])
    off, ngram = results
    assert all(r.usage.num_drafted_tokens == 0 for r in off)
    for one, other in zip(off, ngram, strict=True):
        usage = other.usage
        assert usage.num_drafted_tokens == (
            usage.num_accepted_tokens + usage.num_rejected_tokens + usage.num_ignored_tokens
        )
        if temperature == 0:
            assert_agree(one, other)
        else:
            assert one.token_ids[:8] == other.token_ids[:8]  # later ones may hang on the last bit
