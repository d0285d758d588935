"""What a grammar costs: decoding with a JSON Schema, by lists and objects, and without, in tokens/s and CPU time.

The arms run in turn, round by round; the plain one runs twice a round, before and after: the schema's figure is held
against the mean of the two, and their ratio is the noise floor (A/A). Every answer has the same number of tokens: the
schema's array is too long to end. Nothing is drafted. Neighbours change how long a token takes, but hardly the CPU
time of all threads for it, and with every core busy more CPU time is as much less throughput: so that is told, too. By
default there is one thread, as threads that wait for each other spin.

usage: python bench/bench_constrained.py MODEL.gguf [--tokens 96] [--rounds 9] [--threads 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from slipstream import LLM, GenerationSpec, SamplingParams
from slipstream.base.types import OutputFormat
from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import paired_ratio, summarize

BAR = 0.95
SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "kind": {"enum": ["city", "river", "mountain"]},
            "height": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "kind", "height", "tags"],
        "additionalProperties": False,
    },
}
FORM = OutputFormat(kind="json_schema", value=json.dumps(SCHEMA))


def run(llm: LLM, streams: int, tokens: int, form: OutputFormat | None) -> tuple[float, float]:
    """Return tokens per second of decoding, all streams together, and tokens per second of CPU time."""
    specs = [
        GenerationSpec(
            request_id=f"r{i}",
            messages=[{"role": "user", "content": f"{i} Make a list of places as JSON."}],
            sampling=SamplingParams(temperature=0.8, seed=i, max_tokens=tokens, ignore_eos=True),
            output_format=form,
        )
        for i in range(streams)
    ]
    before_s = time.process_time()
    usages = [result.usage for result in llm.run(specs)]
    cpu_s = time.process_time() - before_s
    if any(usage.num_output_tokens != tokens for usage in usages):
        sys.exit(f"answers of other lengths: {[usage.num_output_tokens for usage in usages]}")
    rate = sum((usage.num_output_tokens - 1) / usage.decode_s for usage in usages)
    return rate, streams * tokens / cpu_s


def main() -> None:
    """Measure, print and perhaps write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with LLM(arguments.model, threads=arguments.threads, speculation="off") as llm:
        for number in range(arguments.rounds + 1):  # the first round warms up
            for streams in (1, 4):
                for arm, form in (("plain", None), ("schema", FORM), ("plain again", None)):
                    rate, cpu_rate = run(llm, streams, arguments.tokens, form)
                    if number:
                        figures.setdefault(f"{arm} x{streams}", []).append(rate)
                        figures.setdefault(f"{arm} x{streams} by CPU", []).append(cpu_rate)
    name = Path(arguments.model).name
    print(
        f"{name}: {arguments.tokens} tokens, {arguments.rounds} rounds, {arguments.threads} threads"
    )
    for arm, samples in figures.items():
        s = summarize(samples)
        print(f"  {arm:22} {s.median:8.2f} tok/s   ({s.lowest:.2f} … {s.highest:.2f})")
    ratios = {}
    for what in ("x1", "x4", "x1 by CPU", "x4 by CPU"):
        plain, again = figures[f"plain {what}"], figures[f"plain again {what}"]
        both = [(one + other) / 2 for one, other in zip(plain, again, strict=True)]
        for arm, samples, base in (
            ("A/A", again, plain),
            ("schema", figures[f"schema {what}"], both),
        ):
            r = paired_ratio(samples, base)
            ratios[f"{arm} {what}"] = {"median": r.median, "low": r.low, "high": r.high}
            verdict = "" if arm == "A/A" else f"bar {BAR}: {'met' if r.median >= BAR else 'MISSED'}"
            print(
                f"  {arm:6} / plain {what:10} {r.median:.3f}   [{r.low:.3f}, {r.high:.3f}]   {verdict}"
            )
    if arguments.json:
        report = {"provenance": provenance(), "model": name, "tokens": arguments.tokens,
                  "threads": arguments.threads, "arms": figures, "ratios": ratios}  # fmt: skip
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
