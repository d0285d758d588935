"""What a grammar costs: tokens per second of decoding with a JSON Schema, by lists and objects, and without.

The arms run in turn, round by round; the plain one runs twice a round, before and after: the schema's figure is held
against the mean of the two, and their ratio is the noise floor (A/A). Every answer has the same number of tokens: the
schema's array is too long to end. Nothing is drafted.

usage: python bench/bench_constrained.py MODEL.gguf [--tokens 96] [--rounds 9] [--threads 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
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


def run(llm: LLM, streams: int, tokens: int, form: OutputFormat | None) -> float:
    """Return tokens per second of decoding, all streams together."""
    specs = [
        GenerationSpec(
            request_id=f"r{i}",
            messages=[{"role": "user", "content": f"{i} Make a list of places as JSON."}],
            sampling=SamplingParams(temperature=0.8, seed=i, max_tokens=tokens, ignore_eos=True),
            output_format=form,
        )
        for i in range(streams)
    ]
    usages = [result.usage for result in llm.run(specs)]
    if any(usage.num_output_tokens != tokens for usage in usages):
        sys.exit(f"answers of other lengths: {[usage.num_output_tokens for usage in usages]}")
    return sum((usage.num_output_tokens - 1) / usage.decode_s for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with LLM(arguments.model, threads=arguments.threads, speculation="off") as llm:
        for number in range(arguments.rounds + 1):  # the first round warms up
            for streams in (1, 4):
                for arm, form in (("plain", None), ("schema", FORM), ("plain again", None)):
                    figure = run(llm, streams, arguments.tokens, form)
                    if number:
                        figures.setdefault(f"{arm} x{streams}", []).append(figure)
            sys.stderr.write(f"\rround {number}/{arguments.rounds} ")
            sys.stderr.flush()
    report = {
        "provenance": provenance(),
        "model": Path(arguments.model).name,
        "arms": figures,
        "ratios": {},
    }
    print(f"\n{Path(arguments.model).name}: {arguments.tokens} tokens, {arguments.rounds} rounds")
    for arm, samples in figures.items():
        s = summarize(samples)
        print(f"  {arm:16} {s.median:8.2f} tok/s   ({s.lowest:.2f} … {s.highest:.2f})")
    for streams in (1, 4):
        for arm in ("plain again", "schema"):
            plain, again = figures[f"plain x{streams}"], figures[f"plain again x{streams}"]
            both = [(one + other) / 2 for one, other in zip(plain, again, strict=True)]
            base = both if arm == "schema" else plain
            r = paired_ratio(figures[f"{arm} x{streams}"], base)
            name = f"{arm} / plain x{streams}"
            report["ratios"][name] = {"median": r.median, "low": r.low, "high": r.high}
            verdict = (
                "A/A" if arm != "schema" else f"bar {BAR}: {'met' if r.median >= BAR else 'MISSED'}"
            )
            print(f"  {name:24} {r.median:.3f}   [{r.low:.3f}, {r.high:.3f}]   {verdict}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
