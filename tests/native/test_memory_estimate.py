"""The memory estimate against what an engine process takes once it has answered."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec
from slipstream.models.memory_estimate import estimate_load
from slipstream.runtime.engine_process import EngineProcess

pytestmark = pytest.mark.e2e

CONFIGS = {
    "default": LoadConfig(prompt_cache_mib=0),
    "one request, short context": LoadConfig(
        context_length=2048, parallel=1, batch_size=256, prompt_cache_mib=0
    ),
    "long context, small cache": LoadConfig(
        context_length=16384, kv_type="q8_0", flash_attention=True, prompt_cache_mib=0
    ),
}


async def measured_bytes(path: Path, config: LoadConfig) -> int:
    """Resident memory, pages of the mapped file included, after a prompt that fills two batches."""
    engine = await EngineProcess.start("measured", str(path), config)
    try:
        prompt = [10 + (i * 13) % 1000 for i in range(2 * config.batch_size)]
        spec = GenerationSpec(
            request_id="r", prompt_token_ids=prompt, sampling=SamplingParams(max_tokens=4)
        )
        async for _event in engine.client.submit([spec]):
            pass
        text = Path(f"/proc/{engine.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024
    finally:
        await engine.terminate()


def check(path: Path, config: LoadConfig) -> None:
    estimate = estimate_load(path, 0, config).total_bytes
    measured = asyncio.run(asyncio.wait_for(measured_bytes(path, config), 120))
    assert estimate == pytest.approx(measured, rel=0.15), (
        f"{path.name}: {estimate >> 20} MiB estimated, {measured >> 20} MiB measured"
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_demo_model_takes_what_was_estimated(demo_model: Path, name: str) -> None:
    check(demo_model, CONFIGS[name])


@pytest.mark.dev_models
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("model", ["gemma3-270m", "qwen05", "qwen15"])
def test_models_take_what_was_estimated(dev_models: Path, model: str, name: str) -> None:
    check(dev_models / f"{model}.gguf", CONFIGS[name])


@pytest.mark.dev_models
def test_a_draft_model_counts(dev_models: Path) -> None:
    draft = str(dev_models / "qwen05.gguf")
    check(dev_models / "qwen15.gguf", LoadConfig(draft_model=draft, prompt_cache_mib=0))
