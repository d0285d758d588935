"""What attention costs: our kernel and upstream's, on one thread, by its own clock, so that neighbours matter little.

Arms take turns in every round: ours, ours again (their ratio is the noise floor) and upstream. A sample is the least of
a few repetitions. Beside each median stands its share of the f32 multiply-adds one core does in registers, measured in
the same run. Shapes are those of real models: rows that decode, drafts, pieces of prompts, and prompts among cached
cells that they do not see. Needs a C++ compiler.

usage: python bench/bench_attention.py [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from programs import compiled

from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import paired_ratio, summarize

ROOT = Path(__file__).parents[1]
GGML = ROOT / "build" / "editable" / "llama.cpp" / "ggml" / "src"
ARMS = {"ours": "on", "ours again": "on", "upstream": "off"}


@dataclass(frozen=True, slots=True)
class Shape:
    """One operation; every row sees the `seen` cells up to its own."""

    model: str
    head_size: int
    kv_heads: int
    group: int
    cells: int
    seen: int
    rows: int

    def arguments(self, repetitions: int) -> list[str]:
        shape = (self.head_size, self.kv_heads, self.group, self.cells, self.seen, self.rows)
        return [str(value) for value in (*shape, repetitions)]

    @property
    def gflop(self) -> float:
        return 4e-9 * self.head_size * self.kv_heads * self.group * self.seen * self.rows


SHAPES = [
    *(Shape("Qwen2.5 0.5B", 64, 2, 7, 3600, 3600, rows) for rows in (1, 4, 16, 36, 132)),
    Shape("Qwen2.5 0.5B", 64, 2, 7, 8192, 200, 132),
    *(Shape("Qwen2.5 1.5B", 128, 2, 6, 3600, 3600, rows) for rows in (1, 8, 132)),
    *(Shape("SmolLM2 135M", 64, 3, 3, 600, 600, rows) for rows in (1, 8)),
    *(Shape("Llama 3 8B", 128, 8, 4, 1000, 1000, rows) for rows in (1, 8)),
    Shape("Gemma 3 270M, a window", 256, 1, 4, 2000, 512, 128),
    Shape("Llama 2 7B", 128, 32, 1, 1000, 1000, 1),
]


def run(program: str, kernels: str, arguments: list[str]) -> float:
    """Return what the program says."""
    environment = os.environ | {"SLIPSTREAM_KERNELS": kernels}
    result = subprocess.run(
        [program, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    return float(result.stdout)


def measure(program: str, shape: Shape, num_rounds: int) -> dict[str, Any]:
    """Let the arms take turns; print and return the figures of one shape."""
    peak = run(program, "on", ["peak"])
    repetitions = max(3, min(50, int(0.1 / max(shape.gflop / 20, 1e-6))))
    samples: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(num_rounds):
        for arm, kernels in ARMS.items():
            samples[arm].append(run(program, kernels, shape.arguments(repetitions)))
    medians = {arm: summarize(times).median for arm, times in samples.items()}
    ratio = paired_ratio(samples["ours"], samples["upstream"])
    noise = paired_ratio(samples["ours again"], samples["ours"])
    share = shape.gflop / medians["ours"] * 1e3 / peak
    print(f"{shape.model:24} {shape.rows:4} rows, {shape.seen} of {shape.cells} cells: "
          f"{medians['ours']:8.3f} ms, upstream {medians['upstream']:8.3f} ms, "
          f"ratio {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], "
          f"A/A {noise.median:.2f} [{noise.low:.2f}, {noise.high:.2f}], "
          f"{100 * share:.0f} % of {peak:.0f} GFLOP/s", flush=True)  # fmt: skip
    return {"shape": asdict(shape), "milliseconds": samples, "peak_gflops": peak}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = compiled("attention_time", Path(folder), "-O2", "-march=native", ggml=GGML)
        results = [measure(program, shape, arguments.rounds) for shape in SHAPES]
    if arguments.json:
        report = {"provenance": provenance(), "results": results}
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
