"""Pairs of real models: one as its own draft, and a copy the tool quantized. Needs SLIPSTREAM_DEV_MODELS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from slipstream.benchmark.pair import PairSettings, measure_pair
from slipstream.native import quantize

if TYPE_CHECKING:
    from pathlib import Path

# Minutes of computing, many more where other programs take the cores.
pytestmark = [pytest.mark.dev_models, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def report(dev_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pair")
    target = dev_models / "qwen05.gguf"
    twin, copy = folder / "twin.gguf", folder / "copy.gguf"
    twin.symlink_to(target)
    quantize(target, copy, "q4_0", allow_requantize=True)
    settings = PairSettings(num_tokens=16, gammas=(1, 2, 3), confirm="all")
    prompts = ["chat", "translation"]  # of 16 tokens of code even a coarse copy may say all right
    return measure_pair(
        target, [twin, copy], folder, settings=settings, prompts=prompts, per_category=2
    )


def test_a_real_model_drafts_for_itself_but_for_ties(report: dict[str, Any]) -> None:
    (scan,) = [s for s in report["scans"] if s["candidate"] == "twin"]
    assert scan["best"]["alpha"] > 0.97
    (live,) = [found for found in report["live"] if found["candidate"] == "twin"]
    fixed = [arm for arm in live["arms"] if arm["predicted"] is not None and arm["alpha"]]
    assert all(arm["alpha"] > 0.9 for arm in fixed if arm["name"].startswith("draft"))


def test_a_quantized_copy_is_right_less_often_and_costs_less(report: dict[str, Any]) -> None:
    scans = {s["candidate"]: s for s in report["scans"]}
    assert 0.5 < scans["copy"]["best"]["alpha"] < scans["twin"]["best"]["alpha"]
    pairs = {name: report["candidates"][name]["pair"] for name in ("twin", "copy")}
    assert pairs["copy"]["cost_ratio"] < pairs["twin"]["cost_ratio"] == 1.0
    assert pairs["copy"]["num_different"] == 0


def test_the_output_stays_whatever_drafts(report: dict[str, Any]) -> None:
    assert report["is_complete"]
    assert len(report["live"]) == 2
    for live in report["live"]:
        assert live["doubts"] == []
        assert all(arm["is_lossless"] for arm in live["losslessness"]["arms"].values())
