"""Does greedy output depend on what shares a step? The same prompts alone, eight at a time, and with n-gram drafts.

Prints how many answers are equal token for token, and where the first difference is. Long prompts come last, as their
steps hold 64 rows and more, for which ggml's attention has another kernel (docs/design/kernels.md).

usage: python bench/batch_invariance.py MODEL.gguf [--prompts 200] [--long 20] [--tokens 24] [--threads 0]
       [--batch-size 512] [--json FILE]
With --batch-size 32 no step has so many rows. SLIPSTREAM_KERNELS=off shows upstream's.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from slipstream import LLM, SamplingParams
from slipstream.benchmark.report import provenance

SUBJECTS = (
    "a river",
    "the moon",
    "bread",
    "a clock",
    "the wind",
    "salt",
    "a bridge",
    "glass",
    "a forest",
    "tea",
)
TASKS = (
    "Tell what {} is.",
    "def describe():\n    # {}\n",
    "A short poem about {}:\n",
    "Q: Why do people like {}?\nA:",
    "List five words about {}:\n1.",
)
OPENINGS = ("", "Be brief. ", "In plain words: ", "For a child of six. ")


def prompts_of(num: int, num_long: int) -> tuple[list[str], list[str]]:
    """Return short prompts, all different, and long ones of some 600 tokens."""
    every = [
        opening + task.format(subject)
        for opening, task, subject in itertools.product(OPENINGS, TASKS, SUBJECTS)
    ]
    if num > len(every):
        raise SystemExit(f"--prompts {num}: there are {len(every)} at most")
    tale = " ".join(f"On day {i} the keeper wrote about {SUBJECTS[i % 10]}." for i in range(50))
    return every[:num], [f"{i}. {tale} {prompt}" for i, prompt in enumerate(every[:num_long])]


def answers(
    path: str, prompts: list[str], arguments: argparse.Namespace, parallel: int, mode: str
) -> list[list[int]]:
    """Answer them in a fresh engine, as many at a time as run in parallel."""
    sampling = SamplingParams(temperature=0.0, max_tokens=arguments.tokens, ignore_eos=True)
    with LLM(path, context_length=8192, parallel=parallel, speculation=mode, repack=False,
             threads=arguments.threads, batch_size=arguments.batch_size) as llm:  # fmt: skip
        return [result.token_ids for result in llm.generate(prompts, sampling)]


def compare(alone: list[list[int]], other: list[list[int]]) -> dict[str, object]:
    firsts = [
        next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), None)
        for x, y in zip(alone, other, strict=True)
    ]
    different = [first for first in firsts if first is not None]
    return {
        "equal": len(firsts) - len(different),
        "of": len(firsts),
        "first_differences": sorted(different),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--long", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=0, help="0: physical cores")
    parser.add_argument("--batch-size", type=int, default=512, help="most rows of a step")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    path = str(Path(arguments.model).resolve())
    short, long = prompts_of(arguments.prompts, arguments.long)
    report = {
        "provenance": provenance(),
        "model": path,
        "tokens": arguments.tokens,
        "batch_size": arguments.batch_size,
        "results": {},
    }
    for kind, prompts in (("short", short), ("long", long)):
        if not prompts:
            continue
        alone = answers(path, prompts, arguments, 1, "off")
        for name, parallel, mode in (("eight at a time", 8, "off"), ("n-gram drafts", 1, "ngram"),
                                     ("eight with drafts", 8, "ngram")):  # fmt: skip
            result = compare(alone, answers(path, prompts, arguments, parallel, mode))
            report["results"][f"{kind}, {name}"] = result
            differences = (
                f"; first differences at {result['first_differences'][:8]}"
                if result["first_differences"]
                else ""
            )
            print(
                f"{Path(path).name}: {kind} prompts, {name}: {result['equal']} of {result['of']} equal{differences}",
                flush=True,
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
