"""Instructions of a matrix product, counted by callgrind: exact on any machine.

Ours has its weights as they lie in a file and packed, as they are once they were copied into huge pages; upstream's as
in the file and repacked. Everything is built for AVX2, as valgrind knows no AVX-512, in build/avx2 (a minute or two the
first time). A product is a whole ggml operation on one thread, activations quantized and all. Figures are instructions
per 1000 multiply-adds. Needs valgrind and its headers.

usage: python bench/count_instructions.py [--types q4_K,...] [--rows 1,4,8,256] [--columns 1536] [--weights 256]
       [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from programs import compiled

from slipstream.benchmark.report import provenance

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "avx2"
TYPES = "q4_0,q4_1,q5_0,q5_1,q8_0,q2_K,q3_K,q4_K,q5_K,q6_K,iq4_nl,iq4_xs"
ARMS = {  # SLIPSTREAM_KERNELS, and how weights lie in memory
    "ours": ("on", "plain"),
    "packed": ("on", "packed"),
    "upstream plain": ("off", "plain"),
    "upstream repack": ("off", "repack"),
}
REPACKED = ("q4_0", "q4_K", "iq4_nl")  # what upstream repacks with AVX2


def build() -> str:
    """Build ggml with our kernels, and the program, for AVX2; return the program."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DSLIPSTREAM_CPP_TESTS=ON",
                 "-DSLIPSTREAM_NATIVE=OFF", f"-DPython_EXECUTABLE={sys.executable}"]  # fmt: skip
    nanobind = subprocess.check_output([sys.executable, "-m", "nanobind", "--cmake_dir"], text=True)
    subprocess.run(
        [*configure, f"-Dnanobind_DIR={nanobind.strip()}"], check=True, stdout=sys.stderr
    )
    subprocess.run(["cmake", "--build", str(BUILD), "--target", "ggml", "ggml-cpu", "-j"],
                   check=True, stdout=sys.stderr)  # fmt: skip
    return compiled("count_instructions", BUILD, "-O2", ggml=BUILD / "llama.cpp/ggml/src")


def count(
    program: str, type_name: str, arguments: argparse.Namespace, rows: int, arm: str
) -> float:
    """Return the instructions of a product per 1000 multiply-adds."""
    kernels, mode = ARMS[arm]
    result = subprocess.run(
        ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--callgrind-out-file=/dev/null", program,
         type_name, str(arguments.columns), str(arguments.weights), str(rows), mode],
        env=os.environ | {"SLIPSTREAM_KERNELS": kernels}, capture_output=True, text=True, check=True)  # fmt: skip
    collected = re.search(r"Collected : (\d+)", result.stderr)
    if collected is None:
        raise SystemExit(f"callgrind counted nothing:\n{result.stderr}")
    return 1000 * int(collected[1]) / (arguments.columns * arguments.weights * rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--rows", default="1,4,8,256")
    parser.add_argument("--columns", type=int, default=1536)
    parser.add_argument("--weights", type=int, default=256, help="rows of the weight matrix")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    program = build()
    counts: dict[str, dict[str, float]] = {}
    for type_name in arguments.types.split(","):
        arms = [arm for arm in ARMS if arm != "upstream repack" or type_name in REPACKED]
        for rows in map(int, arguments.rows.split(",")):
            found = {arm: count(program, type_name, arguments, rows, arm) for arm in arms}
            counts[f"{type_name}, {rows} rows"] = found
            figures = "  ".join(f"{arm} {figure:7.1f}" for arm, figure in found.items())
            best = min(figure for arm, figure in found.items() if arm.startswith("upstream"))
            share = found["packed"] / best
            print(
                f"{type_name:7} {rows:4} rows  {figures}   packed / the fewer of upstream {share:.2f}",
                flush=True,
            )
    if arguments.json:
        report = {"provenance": provenance(), "columns": arguments.columns, "weights": arguments.weights,
                  "instructions_per_1000_macs": counts}  # fmt: skip
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
