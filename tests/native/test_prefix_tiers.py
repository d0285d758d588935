"""What lost its cells comes back from host memory and from files, on every kind of memory, and is what it was."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.load_config import LoadConfig
from slipstream.engine.prefix_files import PrefixFiles
from slipstream.engine.prefix_store import PrefixStore
from tests.support.hand_driven import HandDrivenEngine, assert_same
from tests.support.native import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SYSTEM = [30 + i * 7 % 60 for i in range(120)]
# One request at a time, and two sequences more than that: others soon take the cells.
TIGHT = LoadConfig(context_length=256, parallel=1, threads=1, batch_size=64)
REAL_TIE = 0.5


def store_of(can_trim: bool, folder: Path | None = None) -> PrefixStore:
    files = PrefixFiles(folder, 1 << 30) if folder else None
    return PrefixStore(1 << 28, files, can_trim=can_trim, recompute_s=lambda n: float(n))


def fill(engine: HandDrivenEngine, names: itertools.count[int]) -> None:
    """Take all cells for prompts of other beginnings."""
    for start in (5, 6, 7):
        engine.add(f"other {next(names)}", [(start + i) % 90 + 20 for i in range(100)], 4)
        engine.run()


@pytest.mark.parametrize("kind", KINDS)
def test_an_evicted_conversation_goes_on_from_host_memory(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    can_trim = kind in ("llama", "gemma3")
    store = store_of(can_trim)
    engine = HandDrivenEngine(tiny_path(kind), TIGHT, store)
    names = itertools.count()
    engine.add("first", SYSTEM, 20)
    engine.run()
    second = [*SYSTEM, *engine.tokens("first")[:-1], 41, 42]
    fill(engine, names)
    assert engine.scheduler.kv_cache.num_evicted_tokens > 0
    assert store.num_host_bytes > 0
    engine.add("second", second, 20)
    engine.run()
    assert store.num_host_hits == 1
    assert engine.usage["second"].num_cached_tokens >= len(second) - 3
    entries = engine.logprobs["second"]
    engine.scheduler.kv_cache._store = None
    assert_same(entries, engine.cold(second, 20))


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_in_another_process_from_its_file(
    tiny_path: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    can_trim = kind in ("llama", "gemma3")
    store = store_of(can_trim, tmp_path)
    engine = HandDrivenEngine(tiny_path(kind), TIGHT, store)
    engine.add("first", SYSTEM, 20)
    engine.run()
    second = [*SYSTEM, *engine.tokens("first")[:-1], 41, 42]
    while store.write_one() or engine.scheduler.kv_cache.store_idle():
        pass
    store.close(5)
    engine.runner.close()
    reopened = store_of(can_trim, tmp_path)
    assert reopened.num_file_bytes == store.num_file_bytes > 0
    other = HandDrivenEngine(tiny_path(kind), TIGHT, reopened)
    other.add("second", second, 20)
    other.run()
    assert reopened.num_file_hits == 1
    assert other.usage["second"].num_cached_tokens >= len(second) - 3
    entries = other.logprobs["second"]
    other.scheduler.kv_cache._store = None
    assert_same(entries, other.cold(second, 20))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_requests_that_had_to_give_way_get_their_state_back(
    tiny_path: Callable[[str], Path], kind: str
) -> None:
    config = LoadConfig(context_length=256, parallel=3, threads=1, batch_size=64)
    engine = HandDrivenEngine(tiny_path(kind), config, store_of(True))
    prompts = [[(20 + 31 * j + i) % 90 + 20 for i in range(70)] for j in range(3)]
    for j, prompt in enumerate(prompts):
        engine.add(f"r{j}", prompt, 60)
    engine.run()
    scheduler = engine.scheduler
    assert scheduler.num_preemptions >= scheduler.num_swaps > 0
    assert scheduler.kv_cache.num_restored_tokens > 0
    entries = dict(engine.logprobs)
    scheduler.kv_cache._store = None
    for j, prompt in enumerate(prompts):
        assert_same(entries[f"r{j}"], engine.cold(prompt, 60))


def prompt_cache_run(path: Path, folder: Path, **options: object) -> tuple[int, int]:
    """Ask one thing in a fresh engine; return the cached tokens and the hits on files."""
    config = {"context_length": 512, "threads": 1, "prompt_cache": str(folder), **options}
    with LLM(path, **config) as llm:
        result = llm.generate(
            SYSTEM, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
        )
        stats = llm.stats()
    return result.usage.num_cached_tokens, stats.file_hits_total


def test_a_prompt_cache_survives_a_restart_and_serves_its_model_only(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    assert prompt_cache_run(tiny_path("llama"), folder) == (0, 0)
    assert prompt_cache_run(tiny_path("llama"), folder) == (len(SYSTEM) - 1, 1)
    assert prompt_cache_run(tiny_path("gemma3"), folder) == (0, 0)
    assert prompt_cache_run(tiny_path("llama"), folder, kv_type="q8_0") == (0, 0)
    assert len(list(folder.iterdir())) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*.prefix"))


def test_damaged_files_cost_the_time_to_compute_and_nothing_else(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    prompt_cache_run(tiny_path("llama"), tmp_path)
    (file,) = tmp_path.rglob("*.prefix")
    whole = file.read_bytes()
    for damaged in (b"", whole[:7], whole[:100], whole[:-1], b"\xff" * len(whole)):
        file.write_bytes(damaged)
        assert prompt_cache_run(tiny_path("llama"), tmp_path)[0] == 0
    for place in (len(whole) // 2, len(whole) - 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        file.write_bytes(damaged)
        assert prompt_cache_run(tiny_path("llama"), tmp_path)[0] == 0


@pytest.mark.parametrize("field", ["model", "build"])
def test_a_copied_file_of_another_model_or_build_is_refused_and_removed(
    tiny_path: Callable[[str], Path], tmp_path: Path, field: str
) -> None:
    prompt_cache_run(tiny_path("llama"), tmp_path)
    (file,) = tmp_path.rglob("*.prefix")
    copied = bytearray(file.read_bytes())
    state = copied.index(b"SLPSTATE")  # behind the tokens; csrc/state.cpp has what follows
    copied[state + {"model": 16, "build": 24}[field]] ^= 1
    file.write_bytes(copied)
    assert prompt_cache_run(tiny_path("llama"), tmp_path)[0] == 0
    (written,) = tmp_path.rglob("*.prefix")
    assert written.read_bytes() != copied
    assert prompt_cache_run(tiny_path("llama"), tmp_path) == (len(SYSTEM) - 1, 1)


def test_a_folder_that_cannot_be_used_is_told_and_does_without(
    tiny_path: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("x", encoding="utf-8")
    assert prompt_cache_run(tiny_path("llama"), in_the_way) == (0, 0)
    assert "prefixes are not kept" in caplog.text


@pytest.mark.dev_models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen05", "gemma3-270m"])
def test_real_conversations_come_back_from_files(
    dev_models: Path, name: str, tmp_path: Path
) -> None:
    path = dev_models / f"{name}.gguf"
    config = LoadConfig(context_length=1024, parallel=1, threads=2)
    store = store_of(True, tmp_path)
    engine = HandDrivenEngine(path, config, store)
    text = "The lighthouse keeper wrote down the weather every hour of the night. " * 20
    prompt = engine.runner.tokenize(text, add_special=True, parse_special=False)
    engine.add("first", prompt, 12)
    engine.run()
    while store.write_one() or engine.scheduler.kv_cache.store_idle():
        pass
    store.close(5)
    engine.runner.close()
    other = HandDrivenEngine(path, config, store_of(True, tmp_path))
    other.add("again", prompt, 12)
    other.run()
    assert other.usage["again"].num_cached_tokens == len(prompt) - 1
    assert_same(other.logprobs["again"], engine.logprobs["first"], REAL_TIE)
