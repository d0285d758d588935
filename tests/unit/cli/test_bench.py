import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from slipstream.base.load_config import LoadConfig
from slipstream.benchmark import decode, report, step
from slipstream.benchmark.decode import DecodeResult
from slipstream.benchmark.step import EngineCosts, StepResult
from slipstream.cli.main import app
from slipstream.engine.step_cost import KnownCosts

ENGINE = EngineCosts(
    KnownCosts({"model": 1, "context": [4096, 512, 19, 3]}, [(1, 0.009), (8, 0.0285)], 1e9),
    {1: 0.009, 8: 0.0285},
)


class FakeModel(SimpleNamespace):
    def __init__(self, path, *, repack):
        super().__init__(
            path=str(path),
            repack=repack,
            description="llama [1M] F32",
            size_bytes=2**21,
            n_params=10**6,
        )

    def use_huge_pages(self, wait: bool = False) -> int:
        assert wait, "times are those of the engine"
        return 0

    def close(self):
        self.closed = True


@pytest.fixture
def bench(monkeypatch):
    seen = {}

    def bench_model(model, settings, progress):
        progress("pp512", 0, 1)
        seen.update(model=model, settings=settings)
        return [DecodeResult(test="pp512", num_tokens=512, samples=(10.0, 14.0))], 2

    native = ModuleType("slipstream.native")
    native.Model = FakeModel
    catalog = ModuleType("slipstream.models.catalog")
    catalog.resolve_model = Path
    monkeypatch.setitem(sys.modules, "slipstream.native", native)
    monkeypatch.setitem(sys.modules, "slipstream.models.catalog", catalog)
    monkeypatch.setattr(decode, "bench_model", bench_model)
    monkeypatch.setattr(report, "provenance", lambda: {"commit": "abc"})
    types = {"q4_K": {"bytes": 2**20, "kernel": "avx2"}}
    monkeypatch.setattr(report, "weight_types", lambda _model: types)

    def bench_steps(model, settings, progress):
        progress("1 @ d0", 0, 1)
        seen.update(model=model, settings=settings)
        samples = {1: (0.010, 0.010), 8: (0.020, 0.040)}
        return (
            [
                StepResult(num_tokens=n, depth=0, samples=s, roofline_s=0.005)
                for n, s in samples.items()
            ],
            30e9,
            2,
        )

    def engine_costs(model, threads, *, repack):
        seen.update(asked=(model, threads, repack))
        return seen.get("engine")

    monkeypatch.setattr(step, "bench_steps", bench_steps)
    monkeypatch.setattr(step, "engine_costs", engine_costs)

    def invoke(*args, command="decode", engine=None):
        seen["engine"] = engine
        seen["result"] = CliRunner().invoke(app, ["bench", command, *args], catch_exceptions=False)
        return seen

    return invoke


def test_the_table_shows_mean_deviation_and_median(bench):
    seen = bench("m.gguf")
    shown = seen["result"].stdout
    assert "llama [1M] F32" in shown
    assert "pp512" in shown
    assert "12.00" in shown
    assert "2.83" in shown
    assert "2 threads" in shown
    assert seen["model"].closed


def test_json_carries_settings_and_provenance(bench):
    made = json.loads(bench("m.gguf", "--json", "-p", "64", "-d", "8")["result"].stdout)
    assert made["commit"] == "abc"
    assert made["settings"]["num_prompt"] == 64
    assert made["settings"]["depth"] == 8
    assert made["results"][0]["samples"] == [10.0, 14.0]


def test_the_short_options_are_those_of_llama_bench(bench):
    settings = bench("m.gguf", "-p", "1", "-n", "2", "-r", "3", "-d", "4", "-b", "5", "-t", "6")[
        "settings"
    ]
    assert (settings.num_prompt, settings.num_generate, settings.repetitions) == (1, 2, 3)
    assert (settings.depth, settings.batch_size, settings.threads) == (4, 5, 6)


def test_the_step_table_shows_cost_growth_speed_and_roofline(bench):
    seen = bench("m.gguf", command="step")
    rows = [line.split("|") for line in seen["result"].stdout.splitlines() if "|" in line]
    assert [cell.strip() for cell in rows[-1][1:-1]] == [
        "0", "8", "30.00", "14.14", "3.00", "266.7", "1600.0", ""
    ]  # fmt: skip
    assert "engine: knows nothing yet" in seen["result"].stdout
    assert "30.0 GB/s, 2 threads" in seen["result"].stdout
    assert "weights: q4_K 1 MiB by avx2\n" in seen["result"].stdout
    assert seen["model"].closed


def test_the_step_table_shows_what_the_engine_begins_with(bench):
    seen = bench("m.gguf", "--repack", command="step", engine=ENGINE)
    rows = [line.split("|") for line in seen["result"].stdout.splitlines() if "|" in line]
    assert [row[-2].strip() for row in rows[2:]] == ["9.00", "28.50"]
    shown = " ".join(seen["result"].stdout.split())
    assert "engine: begins with steps of 1, 8 tokens, kept " in shown
    assert "with context 4096 and 3 requests at a time" in shown
    assert seen["asked"] == (seen["model"], 2, True)


def test_weights_are_repacked_as_asked_for(bench):
    assert not bench("m.gguf", "--no-repack")["model"].repack
    assert bench("m.gguf", "--repack")["model"].repack
    assert bench("m.gguf")["model"].repack == LoadConfig(parallel=1).is_repacked
    assert not bench("m.gguf", command="step")["model"].repack
    assert "ggml's repack" in bench("m.gguf", "--repack", command="step")["result"].stdout


def test_step_json_carries_bandwidth_settings_and_provenance(bench):
    made = json.loads(
        bench("m.gguf", "--json", "-d", "8", "-t", "6", command="step")["result"].stdout
    )
    assert made["commit"] == "abc"
    assert made["settings"] == {"depth": 8, "repetitions": 5, "threads": 2}
    assert made["memory_bytes_per_s"] == 30e9
    assert made["results"][1]["tokens_per_s"] == pytest.approx(8 / 0.030)
    assert made["engine"] is None
    made = json.loads(bench("m.gguf", "--json", command="step", engine=ENGINE)["result"].stdout)
    assert made["engine"]["kept"][1] == {"num_tokens": 8, "seconds": 0.0285}
    assert made["engine"]["settings"] == {"context": [4096, 512, 19, 3]}
