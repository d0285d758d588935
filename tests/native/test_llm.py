"""LLM: one prompt, many, streams, async, errors, on a tiny model."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from slipstream import LLM, FinishReason, LoadConfig, Model, SamplingParams
from slipstream.base.errors import (
    ClosedError,
    ContextLengthError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    SlipstreamError,
)
from slipstream.base.types import GenerationSpec
from slipstream.benchmark.step import engine_costs
from slipstream.runtime.results import ResultCollector
from tests.support.native import assert_agree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipstream import GenerationResult

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, logprobs=2)
CHAT = [{"role": "user", "content": "hello"}]
CONFIG = LoadConfig(context_length=256, parallel=4, threads=1)


@pytest.fixture(scope="module")
def llm(tiny_path: Callable[[str], Path]) -> Iterator[LLM]:
    with LLM(tiny_path("llama"), CONFIG) as llm:
        yield llm


def test_a_chat_is_rendered_by_the_models_template(llm: LLM) -> None:
    result = llm.chat(CHAT, GREEDY)
    assert result.usage.num_output_tokens == 12
    assert result.finish_reason is FinishReason.LENGTH
    assert len(result.token_ids) == 12
    rendered = llm.tokenize(
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", parse_special=True
    )
    assert abs(result.usage.num_prompt_tokens - len(rendered)) <= 1


def test_a_list_of_prompts_gives_each_what_it_gives_alone(llm: LLM) -> None:
    prompts = [f"prompt number {i}" for i in range(9)]
    alone = [llm.generate(prompt, GREEDY) for prompt in prompts]
    for one, other in zip(llm.generate(prompts, GREEDY), alone, strict=True):
        assert_agree(one, other)


def test_token_ids_are_prompts_too(llm: LLM) -> None:
    text = "the same prompt"
    ids = llm.tokenize(text)
    of_text = llm.generate(text, GREEDY)
    for result in [llm.generate(ids, GREEDY), *llm.generate([ids, ids], GREEDY)]:
        assert_agree(result, of_text)


def test_each_prompt_can_have_its_own_sampling(llm: LLM) -> None:
    results = llm.generate(["a", "b"], [GREEDY, SamplingParams(max_tokens=3, ignore_eos=True)])
    assert [len(r.token_ids) for r in results] == [12, 3]
    with pytest.raises(InvalidRequestError, match="one for each"):
        llm.generate(["a", "b"], [GREEDY])


def test_a_stream_adds_up_to_the_whole_answer(llm: LLM) -> None:
    whole = llm.generate("a stream", GREEDY)
    deltas = list(llm.generate("a stream", GREEDY, stream=True))
    collector = ResultCollector()
    streamed = [result for delta in deltas if (result := collector.add(delta))]
    assert_agree(streamed[0], whole)
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert deltas[-1].usage is not None


def test_a_closed_stream_frees_its_sequence(llm: LLM) -> None:
    stream = llm.generate("endless", SamplingParams(ignore_eos=True), stream=True)
    next(stream)
    stream.close()
    # A request that takes the whole cache gets in only if the other has left.
    assert (
        len(llm.generate([5] * 200, SamplingParams(max_tokens=20, ignore_eos=True)).token_ids) == 20
    )


def test_seeds_make_answers_repeat(llm: LLM) -> None:
    def draw(seed: int) -> list[int]:
        return llm.generate(
            "dice", SamplingParams(seed=seed, max_tokens=20, ignore_eos=True)
        ).token_ids

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_repeated_prompts_come_from_the_cache(llm: LLM) -> None:
    prompt = "a prompt that is long enough to be worth keeping " * 3
    cold = llm.generate(prompt, GREEDY)
    warm = llm.generate(prompt, GREEDY)
    assert warm.usage.num_cached_tokens >= cold.usage.num_prompt_tokens - 1
    assert_agree(warm, cold)


def test_async_calls_run_together(llm: LLM) -> None:
    async def main() -> None:
        results = await asyncio.gather(*(llm.agenerate(f"async {i}", GREEDY) for i in range(5)))
        chat = await llm.achat(CHAT, GREEDY)
        for stream, whole in (
            (llm.astream_generate("async 3", GREEDY), results[3]),
            (llm.astream_chat(CHAT, GREEDY), chat),
        ):
            collector = ResultCollector()
            ends = [result async for delta in stream if (result := collector.add(delta))]
            assert_agree(ends[0], whole)

    asyncio.run(main())


def test_a_cancelled_task_aborts_its_request(llm: LLM) -> None:
    async def main() -> None:
        task = asyncio.create_task(llm.agenerate("endless", SamplingParams(ignore_eos=True)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await llm.agenerate([5] * 200, SamplingParams(max_tokens=20, ignore_eos=True))

    asyncio.run(main())


def test_threads_share_one_engine(llm: LLM) -> None:
    expected = [llm.generate(f"thread {i}", GREEDY) for i in range(6)]
    results: dict[int, GenerationResult] = {}

    def work(i: int) -> None:
        results[i] = llm.generate(f"thread {i}", GREEDY)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i in range(6):
        assert_agree(results[i], expected[i])


@pytest.mark.parametrize(
    ("prompt", "sampling", "error"),
    [
        ("x" * 5000, GREEDY, ContextLengthError),
        ([300], GREEDY, InvalidRequestError),
        ([-1], GREEDY, InvalidRequestError),
        ("x", SamplingParams(grammar="root ::= ("), InvalidRequestError),
        ("x", SamplingParams(logit_bias={9999: 1.0}), InvalidRequestError),
        ("half \ud83d", GREEDY, InvalidRequestError),
    ],
)
def test_what_cannot_be_done_is_refused_and_the_engine_goes_on(
    llm: LLM, prompt: str | list[int], sampling: SamplingParams, error: type[SlipstreamError]
) -> None:
    with pytest.raises(error):
        llm.generate(prompt, sampling)
    assert llm.generate("fine", GREEDY).token_ids


def test_models_that_are_not_there_or_no_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        LLM("no-such-model")
    noise = tmp_path / "noise.gguf"
    noise.write_bytes(b"noise" * 1000)
    with pytest.raises(ModelLoadError, match=r"noise\.gguf"):
        LLM(noise)


def test_options_and_config_exclude_each_other(tiny_path: Callable[[str], Path]) -> None:
    with pytest.raises(TypeError, match="not both"):
        LLM(tiny_path("llama"), CONFIG, threads=2)
    with pytest.raises(TypeError):
        LLM(tiny_path("llama"), no_such_option=1)


def test_after_close_calls_are_refused(tiny_path: Callable[[str], Path]) -> None:
    llm = LLM(tiny_path("llama"), CONFIG)
    llm.close()
    llm.close()
    with pytest.raises(ClosedError):
        llm.generate("x", GREEDY)


@pytest.mark.parametrize("policy", ["rolling_window", "truncate_middle"])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "mamba"])
def test_a_full_context_rolls_and_goes_on_as_from_what_is_left(
    tiny_path: Callable[[str], Path], kind: str, policy: str
) -> None:
    config = LoadConfig(context_length=256, parallel=2, threads=1)
    with LLM(tiny_path(kind), config) as small:
        prompt = [40 + i % 50 for i in range(60)]
        sampling = SamplingParams(temperature=0.0, max_tokens=600, ignore_eos=True, logprobs=2)
        spec = GenerationSpec(
            request_id="roll", prompt_token_ids=prompt, sampling=sampling, context_overflow=policy
        )
        result = small.run([spec])[0]
        assert result.usage.num_output_tokens == 600
        limit = 256
        full = [*prompt, *result.token_ids[: limit - len(prompt)]]
        head = 4 if policy == "rolling_window" else len(prompt)
        left = full[:head] + full[head + (limit - head + 1) // 2 :]
        again = small.generate(left, msgspec.structs.replace(sampling, max_tokens=20))
        start = limit - len(prompt)
        assert result.logprobs is not None
        assert again.logprobs is not None
        for one, other in zip(result.logprobs[start : start + 20], again.logprobs, strict=True):
            if one.token_id != other.token_id:
                assert other.top[0][2] - other.top[1][2] < 0.05
                break
            assert one.logprob == pytest.approx(other.logprob, abs=0.05)


def test_a_prompt_that_is_too_long_is_shortened_where_the_spec_says_so(llm: LLM) -> None:
    messages = [{"role": "user", "content": f"message {i} " + "x" * 60} for i in range(20)]
    with pytest.raises(ContextLengthError):
        llm.chat(messages, GREEDY)
    spec = GenerationSpec(
        request_id="long", messages=messages, sampling=GREEDY, context_overflow="truncate_middle"
    )
    result = llm.run([spec])[0]
    assert result.usage.num_output_tokens == 12
    assert result.usage.num_prompt_tokens <= 256 - 12


def test_step_costs_are_known_after_a_load_and_learnt_after_it(
    tiny_path: Callable[[str], Path],
) -> None:
    model = Model(tiny_path("llama"))
    assert engine_costs(model, 1, repack=False) is None
    with LLM(tiny_path("llama"), threads=1, context_length=256, parallel=2, repack=False) as llm:
        begun = engine_costs(model, 1, repack=False)
        assert begun is not None
        assert [n for n, _ in begun.known.costs] == [1, 2, 4, 8]
        for start in range(10):
            prompt = list(range(30 + start, 130 + start))
            llm.generate(prompt, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True))
    learnt = engine_costs(model, 1, repack=False)
    assert learnt is not None
    assert [n for n, _ in learnt.known.costs][:4] == [1, 2, 4, 8]
    assert max(n for n, _ in learnt.known.costs) > 90
    assert engine_costs(model, 1, repack=True) is None
    model.close()
