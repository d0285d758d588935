"""Microseconds of choosing one token from a row of logits, by how flat it is and by the filters.

    python bench/bench_sampling.py [--vocab N] [--repeats N] [--threads N] [--json FILE]

One thread; the minimum and the median over the repeats. `greedy` has little more than the copy of the row that only
this way of calling makes. With --threads, rows are also sampled by that many threads at once: what a step would gain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from slipstream.base.sampling import SamplingParams
from slipstream.benchmark.report import provenance
from slipstream.native import Model, Sampler, sampler_params

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.tiny_gguf import write_tiny_model

ROWS = {"peaked": 4.0, "uneven": 2.2, "flat": 0.8, "even": 0.02}  # deviation of the logits
FILTERS = {
    "greedy": {"temperature": 0.0},
    "top-k 40, top-p 0.95, min-p 0.05": {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "top-p 0.95": {"top_k": 0, "top_p": 0.95, "min_p": 0.0},
    "top-p 0.95, min-p 0.05": {"top_k": 0, "top_p": 0.95, "min_p": 0.05},
    "min-p 0.05": {"top_k": 0, "top_p": 1.0, "min_p": 0.05},
    "top-k 4000": {"top_k": 4000, "top_p": 1.0, "min_p": 0.0},
    "temperature alone": {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
}
NUM_ROWS = 8


def time_rows(sampler: Sampler, rows: np.ndarray, repeats: int) -> list[float]:
    """Return the seconds of a row in each repeat."""
    samples = []
    for _ in range(repeats):
        begin_s = time.perf_counter()
        for row in rows:
            sampler.sample_logits(row)
        samples.append((time.perf_counter() - begin_s) / len(rows))
    return samples


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_model(Path(folder) / "wide.gguf", n_vocab=options.vocab)
        model = Model(path, vocab_only=True)
    random = np.random.default_rng(1)
    results = []
    for shape, deviation in ROWS.items():
        rows = random.normal(0, deviation, (NUM_ROWS, options.vocab)).astype(np.float32)
        if shape == "peaked":
            rows[:, 7] = rows.max() + 6
        for name, values in FILTERS.items():
            params = sampler_params(SamplingParams(seed=1, **{"temperature": 0.8, **values}))
            samplers = [Sampler(model, params) for _ in range(options.threads)]
            seconds = time_rows(samplers[0], rows, options.repeats)
            result = {
                "row": shape,
                "filters": name,
                "min_us": min(seconds) * 1e6,
                "median_us": statistics.median(seconds) * 1e6,
            }
            line = (
                f"{shape:8} {name:34} {result['min_us']:9.1f} min {result['median_us']:9.1f} median"
            )
            if options.threads > 1:
                parts = np.array_split(rows, options.threads)
                with ThreadPoolExecutor(options.threads) as pool:
                    begin_s = time.perf_counter()
                    list(pool.map(time_rows, samplers, parts, [options.repeats] * options.threads))
                    spent_s = time.perf_counter() - begin_s
                result["threads_us"] = spent_s / options.repeats / NUM_ROWS * 1e6
                line += f" {result['threads_us']:9.1f} by {options.threads} threads"
            results.append(result)
            print(line)
    if options.json:
        options.json.write_text(
            json.dumps({**provenance(), "vocab": options.vocab, "results": results}, indent=2),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
