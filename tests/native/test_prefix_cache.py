"""Cached and shared prefixes on real memory: in company and from the cache a request gives what it gives alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipstream.base.load_config import LoadConfig
from slipstream.native import build_info
from tests.support.hand_driven import TIE, assert_same
from tests.support.hand_driven import HandDrivenEngine as Engine
from tests.support.native import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Of quantized models of real depth. Our kernels give a row the same bits in every company; by upstream's, chunks of 64
# instead of 512 tokens alone make 0.3.
REAL_TIE = TIE if build_info()["kernels"] else 0.5
SYSTEM = [30 + i * 7 % 60 for i in range(90)]
DEV_MODELS = ("smollm2-135m", "qwen05", "gemma3-270m")
SYSTEM_TEXT = "You answer briefly, in one sentence, and in the language of the question. " * 12


def check_conversations(
    engine: Engine, system: list[int], tails: list[list[int]], tie: float = TIE
) -> None:
    """Chats with one beginning, started together, late and again, each with a second turn; then all alone and cold."""
    prompts = {f"chat {i}": system + tail for i, tail in enumerate(tails)}
    first, *others = prompts
    engine.add(first, prompts[first])
    for _ in range(5):
        engine.step()  # its prompt is computed and its answer under way when the others come
    for name in others:
        engine.add(name, prompts[name])
    engine.run()
    for name in list(prompts):
        prompts[f"{name}, again"] = [*prompts[name], *engine.tokens(name)[:-1], *tails[0]]
        engine.add(f"{name}, again", prompts[f"{name}, again"])
    engine.run()
    entries = dict(engine.logprobs)
    for name, prompt in prompts.items():
        assert_same(entries[name], engine.cold(prompt), tie)


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_in_company_and_cached_answer_as_alone(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    engine = Engine(tiny_path(kind))
    num_chats = 6 if engine.runner.info.can_share else 3  # fewer sequences to keep them in
    check_conversations(engine, SYSTEM, [[40 + i, 50, 60 - i, 70] for i in range(num_chats)])
    cached = {name: usage.num_cached_tokens for name, usage in engine.usage.items()}
    if kind == "gemma3":  # what lies behind the window may have gone to others
        assert engine.num_copies > 0
        assert sum(cached.values()) >= 4 * len(SYSTEM)
    elif engine.runner.info.can_share:
        assert engine.num_copies >= 5
        assert all(cached[f"chat {i}"] >= len(SYSTEM) for i in range(1, 6))
        assert all(cached[f"chat {i}, again"] > len(SYSTEM) + 4 for i in range(6))
    else:
        assert engine.num_copies == 0
        assert max(cached.values()) > len(SYSTEM)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, 85) for kind in KINDS),
        *((kind, 45) for kind in KINDS if kind != "mamba"),
    ],  # forgets
)
def test_one_wrong_token_in_a_cached_prefix_would_be_noticed(
    tiny_path: Callable[[str], Path], kind: str, wrong: int
) -> None:
    engine = Engine(tiny_path(kind))
    prompt = [*SYSTEM, 50]
    cold = engine.cold(prompt)
    planted = [*SYSTEM[:wrong], SYSTEM[wrong] + 1, *SYSTEM[wrong + 1 :], 50]
    with pytest.raises(AssertionError):
        assert_same(engine.cold(planted), cold)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_the_same_prompt_many_times_at_once_is_computed_once(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    engine = Engine(tiny_path(kind))
    cold = engine.cold(SYSTEM)
    engine.scheduler.kv_cache.reset()
    for i in range(4):
        engine.add(f"r{i}", SYSTEM)
    engine.run()
    # the last few tokens are not worth waiting for
    assert all(engine.usage[f"r{i}"].num_cached_tokens >= 64 for i in range(1, 4))
    for i in range(4):
        assert_same(engine.logprobs[f"r{i}"], cold)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_shared_prefix_outlives_the_sequence_that_computed_it(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    engine = Engine(tiny_path(kind))
    cold = engine.cold([*SYSTEM, 50])
    engine.scheduler.kv_cache.reset()
    engine.add("first", [*SYSTEM, 40, 41])
    engine.step()
    engine.step()
    engine.add("second", [*SYSTEM, 50])
    engine.step()
    engine.scheduler.fail(engine.scheduler._requests["first"], RuntimeError("made up"))
    engine.scheduler.take_events()
    engine.scheduler.kv_cache.evict()
    engine.run()
    assert engine.usage["second"].num_cached_tokens == 90
    assert_same(engine.logprobs["second"], cold)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_more_tokens_fit_than_there_are_cells_when_they_are_shared(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    engine = Engine(
        tiny_path(kind), LoadConfig(context_length=320, parallel=4, threads=1, batch_size=64)
    )
    for i in range(4):
        engine.add(f"r{i}", [*SYSTEM, 40 + i], 30)  # 120 tokens each
    engine.run()
    assert engine.scheduler.num_preemptions == 0
    entries = dict(engine.logprobs)
    for i in range(4):
        assert_same(entries[f"r{i}"], engine.cold([*SYSTEM, 40 + i], 30))


def test_conversations_of_the_demo_model_answer_as_alone_and_a_planted_error_is_noticed(
    demo_model: Path,
) -> None:
    engine = Engine(demo_model, LoadConfig(context_length=1024, parallel=2, threads=2))

    def tokenize(text: str, *, add_special: bool = False) -> list[int]:
        return engine.runner.tokenize(text, add_special=add_special, parse_special=True)

    system = tokenize(SYSTEM_TEXT[:300], add_special=True)
    tails = [tokenize(f"\nQ: What is the capital of {name}?\nA:") for name in ("France", "Chile")]
    check_conversations(engine, system, tails, REAL_TIE)
    assert engine.num_copies >= 1
    cold = engine.cold([*system, *tails[0]])
    for wrong in (20, len(system) - 3):
        planted = [*system[:wrong], system[wrong] + 1, *system[wrong + 1 :], *tails[0]]
        with pytest.raises(AssertionError):
            assert_same(engine.cold(planted), cold)


@pytest.mark.dev_models
@pytest.mark.slow
@pytest.mark.parametrize("name", DEV_MODELS)
def test_real_conversations_in_company_and_cached_answer_as_alone(
    dev_models: Path, name: str
) -> None:
    config = LoadConfig(context_length=4096, parallel=4, threads=2)
    engine = Engine(dev_models / f"{name}.gguf", config)

    def tokenize(text: str, *, add_special: bool = False) -> list[int]:
        return engine.runner.tokenize(text, add_special=add_special, parse_special=True)

    tails = [
        tokenize(f"\nQ: What is the capital of {country}?\nA:")
        for country in ("France", "Japan", "Chile", "Kenya", "Norway", "Nepal")
    ]
    check_conversations(engine, tokenize(SYSTEM_TEXT, add_special=True), tails, REAL_TIE)
    assert engine.num_copies >= 5
