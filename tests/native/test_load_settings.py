"""Settings of a load that change what a model computes, or where its weights are."""

import threading

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.load_config import LoadConfig, with_layers
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.engine.runner import ScheduledSequence
from slipstream.runtime.generation import fan_out
from slipstream.runtime.host import EngineHost
from slipstream.runtime.results import ResultCollector

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


def test_what_only_a_gpu_changes_is_no_error_without_one(tiny_path):
    path = tiny_path("llama")
    usual = first_logprob(path)
    assert first_logprob(path, gpu_layers=1) == usual
    assert first_logprob(path, offload_kv_cache=False) == usual


def test_the_seed_of_a_load_is_for_requests_without_one(tiny_path):
    def texts(load_seed, n, seed=None):
        config = LoadConfig(context_length=256, threads=1, speculation="off", seed=load_seed)
        host = EngineHost.load(str(tiny_path("llama")), config)
        try:
            params = SamplingParams(max_tokens=12, temperature=5.0, ignore_eos=True, seed=seed)
            spec = GenerationSpec(request_id="r", prompt_token_ids=PROMPT, sampling=params)
            ends = {}
            for one in fan_out(spec, n):
                collector, done = ResultCollector(), threading.Event()

                def take(events, one=one, collector=collector, done=done):
                    for event in events:
                        if (result := collector.add(event)) is not None:
                            ends[one.request_id] = result.text
                            done.set()

                host.submit(one, take)
                assert done.wait(60)
            return [ends[one.request_id] for one in fan_out(spec, n)]
        finally:
            host.close()

    first, second = texts(7, 2)
    assert first != second
    assert texts(7, 1) == [first]
    assert texts(None, 1, seed=8) == [second]
    assert texts(7, 1, seed=8) == [second]


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"gpu_ratio": 0.5}, 14),
        ({"gpu_ratio": 1}, -1),
        ({"gpu_ratio": 0}, 0),
        ({"gpu_layers": 3}, 3),
    ],
)
def test_a_share_of_the_layers_is_a_number_of_them(settings, layers):
    config = with_layers(LoadConfig(**settings), 28)
    assert (config.gpu_layers, config.gpu_ratio) == (layers, None)


@pytest.mark.parametrize("settings", [{"gpu_ratio": 1.5}, {"gpu_ratio": -0.1}, {"seed": -2}])
def test_a_share_or_a_seed_there_is_not_is_refused(settings):
    with pytest.raises(InvalidRequestError, match=next(iter(settings))):
        LoadConfig(**settings)


@pytest.mark.parametrize("settings", [{"rope_freq_base": -1.0}, {"rope_freq_scale": float("nan")}])
def test_what_is_out_of_range_is_refused(settings):
    with pytest.raises(InvalidRequestError, match="rope_freq"):
        LoadConfig(**settings)
