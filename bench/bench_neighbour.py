"""Decoding on all cores while a busy loop takes one of them: ours, upstream's kernels, and upstream with OpenMP.

Arms are processes that take turns in every round, first alone and then beside the loop: `ours`, `all threads` (without
`adapt_threads`), `upstream` (SLIPSTREAM_KERNELS=off, all threads), and with --openmp a llama-bench that was configured
with GGML_OPENMP=ON. Tokens/s of one stream, medians, and ratios round by round with their 90 % interval.

usage: python bench/bench_neighbour.py MODEL.gguf [--rounds 7] [--tokens 48] [--threads 0] [--openmp LLAMA_BENCH]
       [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import paired_ratio, summarize
from slipstream.native import default_threads

ONE_STREAM = """
import sys, time
from slipstream import LLM, SamplingParams
threads, num = int(sys.argv[2]), int(sys.argv[3])
sampling = SamplingParams(temperature=0.0, max_tokens=num, ignore_eos=True)
with LLM(sys.argv[1], context_length=512, threads=threads, speculation="off", repack=False,
         adapt_threads=sys.argv[4] == "adapt") as llm:
    llm.generate(["Once"], sampling)
    usage = llm.generate(["Once upon"], sampling)[0].usage
print((num - 1) / usage.decode_s)
"""
BAR = 3.0


@contextlib.contextmanager
def busy_loop(wanted: bool):
    """Keep one core busy."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=0, help="0: physical cores")
    parser.add_argument(
        "--openmp", metavar="LLAMA_BENCH", help="one that was built with GGML_OPENMP=ON"
    )
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    path = str(Path(arguments.model).resolve())
    threads, tokens = str(arguments.threads or default_threads()), str(arguments.tokens)

    def one_stream(kernels: str, mode: str = "fixed") -> float:
        command = [sys.executable, "-c", ONE_STREAM, path, threads, tokens, mode]
        return float(
            subprocess.check_output(
                command,
                env=os.environ | {"SLIPSTREAM_KERNELS": kernels},
                stderr=subprocess.DEVNULL,
            )
        )

    def openmp() -> float:
        command = [
            arguments.openmp,
            "-m",
            path,
            "-t",
            threads,
            "-p",
            "0",
            "-n",
            tokens,
            "-r",
            "1",
            "-o",
            "json",
        ]
        return float(
            json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))[0]["avg_ts"]
        )

    arms = {
        "ours": lambda: one_stream("on", "adapt"),
        "all threads": lambda: one_stream("on"),
        "upstream": lambda: one_stream("off"),
        "ours again": lambda: one_stream("on", "adapt"),
    }
    if arguments.openmp:
        arms["upstream, OpenMP"] = openmp
    before = provenance()
    samples: dict[str, list[float]] = {}
    for number in range(arguments.rounds):
        sys.stderr.write(f"\rround {number + 1}/{arguments.rounds} ")
        for is_busy in (False, True):
            for name, run in arms.items():
                with busy_loop(is_busy):
                    samples.setdefault(f"{name}, {'busy' if is_busy else 'alone'}", []).append(
                        run()
                    )
    print(f"\n{Path(path).name}: {threads} threads, {arguments.rounds} rounds of {tokens} tokens")
    for name, figures in samples.items():
        s = summarize(figures)
        print(f"  {name:24} {s.median:8.2f} tok/s   ({s.lowest:.2f} … {s.highest:.2f})")
    ratios = {}
    for above, below in [
        ("ours again", "ours"),
        *(("ours", arm) for arm in arms if not arm.startswith("ours")),
    ]:
        for state in ("alone", "busy"):
            r = paired_ratio(samples[f"{above}, {state}"], samples[f"{below}, {state}"])
            ratios[f"{above} / {below}, {state}"] = {
                "median": r.median,
                "low": r.low,
                "high": r.high,
            }
            bar = (
                f"   bar {BAR}: {'met' if r.median >= BAR else 'MISSED'}"
                if (below, state) == ("upstream, OpenMP", "busy")
                else ""
            )
            print(
                f"  {above + ' / ' + below + ', ' + state:40} {r.median:.3f}   [{r.low:.3f}, {r.high:.3f}]{bar}"
            )
    if arguments.json:
        report = {
            "provenance": before,
            "model": path,
            "threads": threads,
            "samples": samples,
            "ratios": ratios,
        }
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
