"""Draws a serving benchmark as a PNG, an SVG or an HTML page. The one module that knows matplotlib."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slipstream.benchmark.serve.compare import Arm, Plan

SUFFIXES = (".png", ".svg", ".html")


def check_plot(path: Path) -> None:
    """Find out before a long run whether it can be drawn at its end.

    Raises:
        InvalidRequestError: matplotlib is not installed, or the file's ending tells no format.
    """
    if path.suffix.lower() not in SUFFIXES:
        message = f"{path.name} tells no format; the name of a plot ends in {', '.join(SUFFIXES)}"
        raise InvalidRequestError(message, param="plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = "a plot needs matplotlib, which is not installed; pip install 'slipstream[plot]' brings it"
        raise InvalidRequestError(message, param="plot") from error


def write_plot(path: Path, plan: Plan, arms: Sequence[Arm]) -> None:
    """Draw a benchmark into a file: first tokens, gaps, requests over time, and throughput of each round.

    Args:
        path: Ends in one of SUFFIXES.
        plan: What was run.
        arms: With their runs.

    Raises:
        InvalidRequestError: as `check_plot`.
    """
    check_plot(path)
    figure = _draw(plan, arms)
    if path.suffix.lower() != ".html":
        figure.savefig(path, dpi=120)
        return
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    title = html.escape(f"slipstream bench serve: {plan.workload}")
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f"<body style='margin:2em;font-family:sans-serif'><h1>{title}</h1>\n{svg[svg.index('<svg') :]}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _draw(plan: Plan, arms: Sequence[Arm]) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(11, 8), layout="constrained")
    (first, gaps), (timeline, rounds) = figure.subplots(2, 2)
    for number, arm in enumerate(arms):
        color = f"C{number}"
        results = [result for run in arm.runs for result in run.results]
        streams = [result for run in arm.runs for result in run.intruded] or results
        _distribution(first, [r.ttft_s * 1e3 for r in results if r.ttft_s is not None], arm, color)
        _distribution(gaps, [gap * 1e3 for r in streams for gap in r.itl_s], arm, color)
        _timeline(timeline, arm, color, offset=number * (len(arm.runs[-1].results) + 1))
        speeds = [figures.output_tokens_per_s for figures in arm.figures()]
        rounds.plot(range(1, len(speeds) + 1), speeds, "o-", color=color, label=arm.name)
    for axes, title, label in (
        (first, "time to first token", "ms"),
        (gaps, "between pieces of text", "ms"),
        (timeline, "requests of the last round (bright: after the first token)", "s"),
        (rounds, "output tokens/s", "round"),
    ):
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(visible=True, alpha=0.3)
    rounds.set_ylim(bottom=0)
    first.legend()
    figure.suptitle(f"{plan.workload}, {plan.num} conversations, {plan.rounds} rounds")
    return figure


def _distribution(axes: Any, samples: list[float], arm: Arm, color: str) -> None:
    """Draw which share of the samples lies below each value."""
    if samples:
        axes.ecdf(samples, color=color, label=arm.name)
        axes.set_xscale("log")


def _timeline(axes: Any, arm: Arm, color: str, offset: int) -> None:
    """Draw a bar for each request of the last round."""
    results = arm.runs[-1].results
    begin_s = results[0].sent_s
    for row, result in enumerate(results):
        sent_s, ended_s = result.sent_s - begin_s, result.ended_s - begin_s
        axes.barh(offset + row, ended_s - sent_s, left=sent_s, color=color, alpha=0.3)
        if result.ttft_s is not None:
            first_s = sent_s + result.ttft_s
            axes.barh(offset + row, ended_s - first_s, left=first_s, color=color)
    axes.set_yticks([])
