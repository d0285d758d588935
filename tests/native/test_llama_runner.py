"""LlamaRunner: the step contract on real (tiny) models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slipstream.base.errors import InvalidBatchError, InvalidRequestError, NoKVSlotError
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.engine.runner import ScheduledSequence
from slipstream.native import Context, Model
from tests.support.native import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GREEDY = SamplingParams(temperature=0.0)
CONFIG = LoadConfig(context_length=256, parallel=4, threads=1, batch_size=64)
PROMPT = list(range(40, 60))


def load(path: Path) -> LlamaRunner:
    return LlamaRunner.load(str(path), CONFIG)


def generate(runner: LlamaRunner, seq_id: int, prompt: list[int], num_tokens: int) -> list[int]:
    runner.open_sequence(seq_id, GREEDY, prompt)
    result = runner.step([ScheduledSequence(seq_id, 0, prompt, True)])
    tokens = list(result.token_ids)
    while len(tokens) < num_tokens:
        position = len(prompt) + len(tokens) - 1
        result = runner.step([ScheduledSequence(seq_id, position, tokens[-1:], True)])
        tokens += result.token_ids
    return tokens


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_a_plain_decode_loop(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    runner = load(tiny_path(kind))
    tokens = generate(runner, 1, PROMPT, 12)
    context = Context(Model(tiny_path(kind)), n_ctx=256, n_threads=1)
    expected: list[int] = []
    context.decode(np.array(PROMPT, dtype=np.int32))
    row = context.logits(len(PROMPT) - 1)
    while len(expected) < 12:
        expected.append(int(row.argmax()))
        context.decode(np.array(expected[-1:], dtype=np.int32))
        row = context.logits(0)
    assert tokens == expected


def test_sequences_in_one_step_give_what_they_give_alone(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    prompts = [PROMPT, PROMPT[::-1], PROMPT[:3]]
    alone = []
    for prompt in prompts:
        alone.append(generate(runner, 0, prompt, 8))
        assert runner.trim(0, 0)
    for seq_id, prompt in enumerate(prompts):
        runner.open_sequence(seq_id, GREEDY, prompt)
    result = runner.step([ScheduledSequence(s, 0, p, True) for s, p in enumerate(prompts)])
    outputs = [[token] for token in result.token_ids]
    for _ in range(7):
        scheduled = [
            ScheduledSequence(s, len(prompts[s]) + len(outputs[s]) - 1, outputs[s][-1:], True)
            for s in range(3)
        ]
        for output, token in zip(outputs, runner.step(scheduled).token_ids, strict=True):
            output.append(token)
    assert outputs == alone


def test_a_chunked_prompt_samples_only_at_its_end(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    expected = generate(runner, 0, PROMPT, 1)
    runner.open_sequence(1, GREEDY, PROMPT)
    assert runner.step([ScheduledSequence(1, 0, PROMPT[:7], False)]).token_ids == []
    assert runner.step([ScheduledSequence(1, 7, PROMPT[7:], True)]).token_ids == expected


def test_logprobs_are_of_the_raw_distribution(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    runner.open_sequence(0, SamplingParams(temperature=2.0, seed=1, logprobs=5), PROMPT)
    result = runner.step([ScheduledSequence(0, 0, PROMPT, True)])
    context = Context(Model(tiny_path("llama")), n_ctx=256, n_threads=1)
    context.decode(np.array(PROMPT, dtype=np.int32))
    row = context.logits(len(PROMPT) - 1).astype(np.float64)
    normalizer = math.log(np.exp(row - row.max()).sum()) + row.max()
    entry = result.logprobs[0]
    assert entry is not None
    assert entry.token_id == result.token_ids[0]
    assert entry.logprob == pytest.approx(row[entry.token_id] - normalizer, abs=1e-4)
    assert [token for token, _piece, _logprob in entry.top] == np.argsort(-row)[:5].tolist()
    assert entry.top[0][2] == pytest.approx(row.max() - normalizer, abs=1e-4)


def test_trim_says_what_the_memory_can(tiny_path: Callable[[str], Path]) -> None:
    plain, recurrent = load(tiny_path("llama")), load(tiny_path("mamba"))
    for runner in (plain, recurrent):
        generate(runner, 0, PROMPT, 2)
        assert runner.trim(0, 5) == runner.info.can_trim
        assert runner.trim(0, 0)
    assert plain.info.can_trim
    assert not recurrent.info.can_trim


def test_steps_that_break_the_contract_are_refused(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    with pytest.raises(InvalidBatchError, match="no sampler"):
        runner.step([ScheduledSequence(0, 0, PROMPT, True)])
    runner.open_sequence(0, GREEDY, PROMPT)
    with pytest.raises(InvalidBatchError, match="goes on at 0"):
        runner.step([ScheduledSequence(0, 3, PROMPT, True)])
    with pytest.raises(InvalidBatchError, match="out of range"):
        runner.open_sequence(runner.info.max_num_seqs, GREEDY, PROMPT)
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        runner.open_sequence(0, SamplingParams(logit_bias={10**6: 1.0}), PROMPT)


def test_a_full_cache_leaves_memory_as_it_was(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    for start in range(0, 256, 64):
        runner.step([ScheduledSequence(0, start, [9] * 64, False)])
    with pytest.raises(NoKVSlotError):
        runner.step([ScheduledSequence(1, 0, [9], False)])
    assert runner.trim(0, 200)
    runner.step([ScheduledSequence(1, 0, [9], False)])


def test_text_that_is_no_unicode_is_refused(tiny_path: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        load(tiny_path("llama")).tokenize("half \ud83d", add_special=True, parse_special=False)


def test_a_sequence_that_cannot_be_sampled_fails_alone(tiny_path: Callable[[str], Path]) -> None:
    runner = load(tiny_path("llama"))
    expected = generate(runner, 0, PROMPT, 2)
    assert runner.trim(0, 0)
    runner.open_sequence(0, GREEDY, PROMPT)
    nothing = SamplingParams(temperature=0.0, logit_bias={i: float("-inf") for i in range(300)})
    runner.open_sequence(1, nothing, PROMPT)
    result = runner.step([ScheduledSequence(s, 0, PROMPT, True) for s in (1, 0)])
    assert result.counts == [0, 1]
    assert result.token_ids == expected[:1]
    assert list(result.errors) == [0]
    assert "no token can be sampled" in str(result.errors[0])
    assert (
        runner.step([ScheduledSequence(0, len(PROMPT), expected[:1], True)]).token_ids
        == expected[1:]
    )
