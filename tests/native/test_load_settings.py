"""Settings of a load that change what a model computes, or where its weights are."""

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.engine.runner import ScheduledSequence

PROMPT = list(range(10, 40))


def first_logprob(path, **settings):
    """Log-probability of the token a greedy step takes after PROMPT."""
    config = LoadConfig(context_length=256, parallel=1, threads=1, speculation="off", **settings)
    runner = LlamaRunner.load(str(path), config)
    try:
        sampling = SamplingParams(temperature=0.0, logprobs=1)
        runner.open_sequence(0, sampling, PROMPT)
        result = runner.step([ScheduledSequence(0, 0, PROMPT, True)])
        return result.logprobs[0].logprob
    finally:
        runner.close()


def test_rotary_positions_can_be_set(tiny_path):
    path = tiny_path("llama")
    usual = first_logprob(path)
    assert first_logprob(path, rope_freq_scale=0.25) != usual
    assert first_logprob(path, rope_freq_base=100.0) != usual


def test_weights_can_be_locked_in_memory_or_it_is_no_error(tiny_path):
    path = tiny_path("llama")
    assert first_logprob(path, keep_in_memory=True) == first_logprob(path)


@pytest.mark.parametrize("settings", [{"rope_freq_base": -1.0}, {"rope_freq_scale": float("nan")}])
def test_what_is_out_of_range_is_refused(settings):
    with pytest.raises(InvalidRequestError, match="rope_freq"):
        LoadConfig(**settings)
