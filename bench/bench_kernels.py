"""What a step of n rows costs with our matrix kernels, with upstream's in its two modes, and with ik_llama.cpp.

Arms are processes that hold the model ready and take turns in every round: `ours`, `ours again` (their ratio is the
noise floor), upstream with and without repacked weights (SLIPSTREAM_KERNELS=off), and `ik` where --ik names a Python
that has ik-llama-cpp-python. A step's sample is the median of a few; a bar is on the median of the ratios round by
round, with its 90 % interval. `better upstream` is, for each number of rows, the mode whose median is lower.

Beside each median stand the shares of what the machine can do, measured in the same run by machine_limits.cpp: int8
multiply-adds per second, and bytes read from memory.

usage: python bench/bench_kernels.py MODEL.gguf [--rounds 7] [--rows 1,4,8,16,256,512] [--threads 0] [--ik PYTHON]
       [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from programs import compiled

from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import paired_ratio, summarize
from slipstream.models.gguf import check_model_file
from slipstream.native import default_threads

FOLDER = Path(__file__).parent
MAX_DECODE_ROWS = 16  # more rows are a prompt's
REPETITIONS = 3
SETTLE_S = 0.02  # the threads of the arm before go to sleep
# By the type of most of a model's block weights: (what, rows, its bar). Ratios of time, prompts of speed.
BARS = {
    "q4_K": {"upstream1": 1.0, "own4": 1.3, "own8": 1.9, "upstream16": 0.5, "prompt": 1.5},
    "q5_0": {"upstream1": 1.0, "own4": 1.4, "own8": 2.0, "upstream16": 0.55, "prompt": 2.0},
    "q4_1": {"upstream1": 0.95, "own4": 1.5, "own8": 2.2, "upstream16": 0.45, "prompt": 2.0},
}


class Work:
    """What a step has to do at least, by the file's header: multiply-adds and bytes of weights."""

    def __init__(self, path: str) -> None:
        tensors = check_model_file(path).tensors
        tied = "output.weight" not in tensors
        self.macs = self.output_macs = self.size_bytes = 0
        sizes: dict[str, int] = {}
        for name, tensor in tensors.items():
            is_output = name == ("token_embd.weight" if tied else "output.weight")
            if len(tensor.shape) < 2 or (name == "token_embd.weight" and not is_output):
                continue
            if len(tensor.shape) > 2:
                raise SystemExit(
                    "the work of a model with experts depends on the tokens; choose another model"
                )
            self.size_bytes += tensor.size_bytes
            if is_output:
                self.output_macs = math.prod(tensor.shape)
            else:
                self.macs += math.prod(tensor.shape)
                sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + tensor.size_bytes
        self.family = max(sizes, key=lambda name: sizes[name])

    def macs_of(self, rows: int) -> int:
        return rows * self.macs + (rows if rows <= MAX_DECODE_ROWS else 1) * self.output_macs


class Arm:
    """A process of step_arm.py."""

    def __init__(
        self, python: str, model: str, threads: int, kind: str, kernels: str = "on"
    ) -> None:
        environment = os.environ | {"SLIPSTREAM_KERNELS": kernels}
        self._process = subprocess.Popen(
            [python, str(FOLDER / "step_arm.py"), model, str(threads), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._answer("ready")

    def seconds(self, rows: int) -> float:
        """Time steps of so many rows and return the median."""
        assert self._process.stdin
        time.sleep(SETTLE_S)
        repetitions = REPETITIONS if rows <= MAX_DECODE_ROWS else 1
        self._process.stdin.write(f"{rows} {repetitions}\n")
        self._process.stdin.flush()
        return statistics.median(json.loads(self._answer("seconds ")))

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self, start: str) -> str:
        assert self._process.stdout
        for line in self._process.stdout:  # a peer may print other things
            if line.startswith(start):
                return line[len(start) :]
        raise SystemExit(f"an arm ended: {' '.join(map(str, self._process.args))}")  # type: ignore[arg-type]


def machine_limits(threads: int) -> dict[str, float]:
    """Compile and run machine_limits.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        program = compiled("machine_limits", Path(folder), "-O3", "-march=native")
        limits: dict[str, float] = json.loads(subprocess.check_output([program, str(threads)]))
    return limits


def measure(
    arms: dict[str, Arm], all_rows: list[int], rounds: int
) -> dict[str, dict[int, list[float]]]:
    """Return the samples of each arm and number of rows; the first round warms up."""
    samples: dict[str, dict[int, list[float]]] = {
        arm: {rows: [] for rows in all_rows} for arm in arms
    }
    for number in range(rounds + 1):
        sys.stderr.write(f"\rround {number}/{rounds} ")
        sys.stderr.flush()
        for rows in all_rows:
            for name, arm in arms.items():
                seconds = arm.seconds(rows)
                if number:
                    samples[name][rows].append(seconds)
    sys.stderr.write("\n")
    return samples


def comparisons(samples: dict[str, dict[int, list[float]]], family: str) -> list[dict[str, Any]]:
    """Return each ratio with its bar, if it has one."""
    bars = BARS.get(family, {})
    ours = samples["ours"]
    found = []

    def add(
        what: str, above: list[float], below: list[float], bar: float | None, at_least: bool = False
    ) -> None:
        ratio = paired_ratio(above, below)
        met = None if bar is None else (ratio.median >= bar if at_least else ratio.median <= bar)
        found.append({"what": what, "median": ratio.median, "low": ratio.low, "high": ratio.high,
                      "bar": bar, "met": met})  # fmt: skip

    for rows in ours:
        add(f"A/A, {rows} rows", samples["ours again"][rows], ours[rows], None)
    for rows in ours:
        modes = [arm for arm in samples if arm.startswith("upstream")]
        best = min(modes, key=lambda arm: statistics.median(samples[arm][rows]))
        if rows <= MAX_DECODE_ROWS:
            add(
                f"time of {rows} rows, ours / {best}",
                ours[rows],
                samples[best][rows],
                bars.get(f"upstream{rows}"),
            )
        else:
            add(
                f"speed of {rows} rows, ours / {best}",
                samples[best][rows],
                ours[rows],
                bars.get("prompt"),
                True,
            )
        if "ik" in samples:
            add(f"time of {rows} rows, ours / ik", ours[rows], samples["ik"][rows], 1.0)
        if 1 in ours and 1 < rows <= MAX_DECODE_ROWS:
            add(
                f"time of {rows} rows / of 1 row, ours", ours[rows], ours[1], bars.get(f"own{rows}")
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default="1,4,8,16,256,512", help="up to 512 each")
    parser.add_argument("--threads", type=int, default=0, help="0: physical cores")
    parser.add_argument("--ik", metavar="PYTHON", help="a Python that has ik-llama-cpp-python")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    path = str(Path(arguments.model).resolve())
    threads = arguments.threads or default_threads()
    all_rows = [int(rows) for rows in arguments.rows.split(",")]
    work = Work(path)
    limits_before = machine_limits(threads)
    before = provenance()
    arms = {
        "ours": Arm(sys.executable, path, threads, "plain"),
        "upstream plain": Arm(sys.executable, path, threads, "plain", "off"),
        "upstream repack": Arm(sys.executable, path, threads, "repack", "off"),
        "ours again": Arm(sys.executable, path, threads, "plain"),
    }
    if arguments.ik:
        arms["ik"] = Arm(arguments.ik, path, threads, "ik")
    try:
        samples = measure(arms, all_rows, arguments.rounds)
    finally:
        for arm in arms.values():
            arm.stop()
    limits = {
        name: max(limit, limits_before[name]) for name, limit in machine_limits(threads).items()
    }
    macs, read = limits["macs_per_s"] / 1e9, limits["bytes_per_s"] / 1e9
    print(
        f"{Path(path).name}: {threads} threads, {arguments.rounds} rounds; limits {macs:.0f} G MAC/s, {read:.1f} GB/s"
    )
    table = {}
    for name, by_rows in samples.items():
        for rows, seconds in by_rows.items():
            s = summarize(seconds)
            mac_share = work.macs_of(rows) / s.median / limits["macs_per_s"]
            read_share = work.size_bytes / s.median / limits["bytes_per_s"]
            table[f"{name}, {rows} rows"] = {"median_s": s.median, "samples_s": seconds,
                                             "share_of_macs": mac_share, "share_of_bandwidth": read_share}  # fmt: skip
            print(f"  {name:16} {rows:4} rows {s.median * 1e3:8.1f} ms  ({s.lowest * 1e3:.1f} … {s.highest * 1e3:.1f})"
                  f"   {mac_share:4.0%} of multiply-adds, {read_share:4.0%} of bandwidth")  # fmt: skip
    ratios = comparisons(samples, work.family)
    for r in ratios:
        verdict = (
            "" if r["bar"] is None else f"   bar {r['bar']}: {'met' if r['met'] else 'MISSED'}"
        )
        print(f"  {r['what']:46} {r['median']:.3f}   [{r['low']:.3f}, {r['high']:.3f}]{verdict}")
    if arguments.json:
        report = {"provenance": before, "model": path, "threads": threads, "limits": limits,
                  "work": vars(work), "steps": table, "ratios": ratios}  # fmt: skip
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
