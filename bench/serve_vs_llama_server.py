"""Slipstream against llama-server of the same source and flags, as users see them: the rows of bench/README.md.

Each row starts both servers with the same threads, context and parallelism, lets them take turns over rounds on the
same prompts (new ones in every round), and tells ratios of paired rounds with their 90 % interval. Everything not named
is each server's default; ours speculates by default, llama-server does not.

usage: python bench/serve_vs_llama_server.py [--model FILE.gguf] [--rows a,b] [--rounds 7] [--threads 2] [--aa]
       [--output bench/results/serve-NAME.json] [--markdown FILE]

A run of some rows keeps the others of a result of the same commit, model, machine and settings, so that a long table
can be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_rows import ROWS, Options, Row
from servers import LLAMA_SERVER, llama_server_command, slipstream_command

from slipstream.base.config import demo_model_path
from slipstream.benchmark.report import provenance
from slipstream.benchmark.serve import ratios
from slipstream.benchmark.serve.compare import sane
from slipstream.benchmark.serve.report import pooled

if TYPE_CHECKING:
    from slipstream.benchmark.serve import Figures
    from slipstream.benchmark.stats import Ratio

RESULTS = Path(__file__).parent / "results"


def doubts(row: Row) -> list[str]:
    """What makes a row worthless or weak: failures, other numbers of tokens than asked for, few rounds."""
    found = sane(row.arms, row.plan) if len(row.arms) > 1 else []
    if row.plan.max_tokens is not None:
        for arm in row.arms:
            for figures in arm.figures():
                wanted = row.plan.max_tokens * (figures.num_requests - figures.num_failed)
                if figures.num_output_tokens != wanted:
                    found.append(
                        f"{arm.name}: {figures.num_output_tokens} output tokens, asked for {wanted}"
                    )
    return found


def lines(row: Row) -> list[str]:
    """Lines of the markdown table."""
    if row.checks:
        figures = row.arms[0].figures()[0]
        waits = figures.ttft_ms
        wait = (
            f"wait mean {waits.mean / 1e3:.1f} s, max {waits.highest / 1e3:.1f} s" if waits else ""
        )
        state = "met" if all(row.checks.values()) else "missed"
        complete = figures.num_requests - figures.num_failed
        bar = "all complete, max ≤ 3 x mean"
        return [f"| {row.title} | {complete} complete; {wait} | | | {bar} | {state} |"]
    ours, peer, *again = row.arms
    compared = ratios(ours, peer)
    noise = ratios(again[0], ours) if again else {}
    made = []
    for bar in row.bars:
        ratio = compared.get(bar.figure)
        values = [value_of(pooled(arm, row.plan), bar.figure) for arm in (ours, peer)]
        if ratio is None:
            made.append(
                f"| {row.title}: {bar.figure} | {values[0]} | {values[1]} | none | {bar} | missed |"
            )
            continue
        spread = f"{told(ratio)}, {ratio.num_rounds} rounds"
        if bar.figure in noise:
            spread += f"; A/A {told(noise[bar.figure])}"
        made.append(
            f"| {row.title}: {bar.figure} | {values[0]} | {values[1]} | {spread} | {bar} | {bar.verdict(ratio)} |"
        )
    return made


def told(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def value_of(figures: Figures, figure: str) -> str:
    """A figure over all rounds, with its unit."""
    if figure == "output tok/s":
        return f"{figures.output_tokens_per_s:.1f} tok/s"
    if figure == "requests/s":
        return f"{figures.requests_per_s:.2f}/s"
    name, _, which = figure.partition(" ")
    percentiles = {"TTFT": figures.ttft_ms, "ITL": figures.itl_ms}[name]
    return "none" if percentiles is None else f"{getattr(percentiles, which):.0f} ms"


def earlier_rows(output: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Rows of an earlier run that this one goes on with; none if anything but the load differs."""
    try:
        earlier = json.loads(output.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    kept = json.loads(json.dumps(made))  # a tuple comes back as a list
    same = all(earlier.get(key) == kept[key] for key in ("commit", "model", "threads", "build"))
    return earlier["rows"] if same and earlier["machine"]["cpu"] == kept["machine"]["cpu"] else {}


def markdown(made: dict[str, Any]) -> str:
    """The table of bench/README.md."""
    machine = made["machine"]
    head = [
        f"{made['model']}, {made['threads']} threads, {machine['cpu']}, load {machine['load_average'][0]} before, "
        f"commit {made['commit']}, {made['time'][:10]}: `{made['command']}`",
        "",
        "| workload: figure | Slipstream | llama-server | ratio [90 % interval] | bar | |",
        "|---|---|---|---|---|---|",
    ]
    rows = made["rows"]
    notes = [f"\n{name}: {doubt}." for name, row in rows.items() for doubt in row["doubts"]]
    table = [line for row in rows.values() for line in row["table"]]
    return "\n".join([*head, *table, *notes]) + "\n"


def row_report(row: Row) -> dict[str, Any]:
    """A row as JSON values."""
    return {
        "title": row.title,
        "settings": asdict(row.plan),
        "commands": {
            "slipstream": slipstream_command(row.shape)[1:],
            "llama-server": llama_server_command(row.shape)[1:],
        },
        "arms": {
            arm.name: {
                "all_rounds": asdict(pooled(arm, row.plan)),
                "rounds": [asdict(figures) for figures in arm.figures()],
            }
            for arm in row.arms
        },
        "ratios": {k: asdict(v) for k, v in ratios(*row.arms[:2]).items()} if row.bars else {},
        "aa": {k: asdict(v) for k, v in ratios(row.arms[2], row.arms[0]).items()}
        if len(row.arms) > 2
        else {},
        "bars": {bar.figure: str(bar) for bar in row.bars},
        "checks": row.checks,
        "doubts": doubts(row),
        "table": lines(row),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--model", default=str(demo_model_path()))
    parser.add_argument("--rows", default=",".join(ROWS), help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--aa", action="store_true", help="run ours a second time in every round: the noise floor"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="JSON; bench/results/serve-MODEL.json if not given"
    )
    parser.add_argument("--markdown", metavar="FILE", help="the table, which is printed anyhow")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.rows.split(",")]
    unknown = [name for name in names if name not in ROWS]
    if unknown or arguments.rounds < 1:
        parser.error(f"--rows takes {', '.join(ROWS)}; --rounds at least 1")
    if not LLAMA_SERVER.exists():
        parser.error(f"{LLAMA_SERVER} is not built; `make peers` builds it")
    path = str(Path(arguments.model).resolve())
    options = Options(
        model=path, threads=arguments.threads, rounds=arguments.rounds, aa=arguments.aa
    )
    made: dict[str, Any] = {
        "benchmark": "serve_vs_llama_server", **provenance(), "model": Path(path).name, "threads": options.threads,
        "command": " ".join(["python bench/serve_vs_llama_server.py", *sys.argv[1:]]),
    }  # fmt: skip
    output = Path(arguments.output or RESULTS / f"serve-{Path(path).stem}.json")
    done = earlier_rows(output, made)
    for name in names:
        row = ROWS[name](options)
        done[name] = row_report(row)
        sys.stderr.write("\r\033[K" + "\n".join(lines(row) + doubts(row)) + "\n")
        made["rows"] = {name: done[name] for name in ROWS if name in done}
        made["load_average_at_end"] = os.getloadavg()[0]
        output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    table = markdown(made)
    if arguments.markdown:
        Path(arguments.markdown).write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
