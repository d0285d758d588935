"""`slipstream bench serve`: puts load on a server, or on two in turn, and prints a table or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.config import DEFAULT_HOST, DEFAULT_PORT
from slipstream.cli.progress import Progress

if TYPE_CHECKING:
    from slipstream.benchmark.serve import Arm, Figures, Plan
    from slipstream.benchmark.stats import Percentiles

DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
_LOAD = "Load"
_COMPARE = "Comparison"
_OUTPUT = "Output"


def serve(
    url: Annotated[
        str, typer.Argument(help="Of a server with OpenAI's API, ours or another.")
    ] = DEFAULT_URL,
    workload: Annotated[
        str,
        typer.Option(
            "--workload", "-w", metavar="NAME", rich_help_panel=_LOAD,
            help="short, long-prompt, shared-prefix, multi-turn, copy-edit, creative, mixed or intrusion.",
        ),
    ] = "short",
    requests: Annotated[
        int, typer.Option("--requests", "-n", min=1, rich_help_panel=_LOAD, help="Conversations in a round.")
    ] = 32,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "-c", min=1, rich_help_panel=_LOAD, help="Closed loop: so many at a time; 8."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(rich_help_panel=_LOAD, help="Open loop: so many begin per second, as a Poisson process."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_LOAD, help="Of each answer; the workload's own if not given.")
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", "-r", min=1, rich_help_panel=_LOAD, help="Each has new texts.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(min=0, rich_help_panel=_LOAD, help="The same seed, the same texts and arrivals.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option(rich_help_panel=_LOAD, help="The first of the server if not given.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="SLIPSTREAM_BENCH_API_KEY", rich_help_panel=_LOAD, help="Sent as a bearer token."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=_LOAD, help="Seconds a request may take in all.")
    ] = 600.0,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos/--stop-at-eos", rich_help_panel=_LOAD,
            help="Ask for exactly as many tokens as given; some servers refuse the field.",
        ),
    ] = True,
    slo_ttft_ms: Annotated[
        float | None, typer.Option(rich_help_panel=_LOAD, help="Goodput counts answers that begin within this.")
    ] = None,
    slo_itl_ms: Annotated[
        float | None, typer.Option(rich_help_panel=_LOAD, help="And whose gaps are below this for 95 % of them.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="URL", rich_help_panel=_COMPARE, help="A second server; both take turns.")
    ] = None,
    compare_model: Annotated[
        str | None, typer.Option(rich_help_panel=_COMPARE, help="Its model; its first if not given.")
    ] = None,
    aa: Annotated[
        bool, typer.Option("--aa", rich_help_panel=_COMPARE, help="Run the first server twice: the noise floor.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="Print JSON with provenance and every request.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", rich_help_panel=_OUTPUT, help="Write that JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=_OUTPUT, help="Draw a .png, .svg or .html; needs the plot extra."),
    ] = None,
) -> None:  # fmt: skip
    """Put load on an OpenAI-compatible server and measure what its users see."""
    import asyncio

    from slipstream.benchmark.serve import Arm, Load, Plan, Slo, Target, run_rounds, serve_report
    from slipstream.benchmark.serve.plot import check_plot, write_plot

    closed = concurrency or (8 if rate is None else None)
    plan = Plan(
        workload=workload,
        num=requests,
        max_tokens=max_tokens,
        load=Load(concurrency=closed, rate=rate),
        rounds=rounds,
        seed=seed,
        slo=Slo(ttft_ms=slo_ttft_ms, itl_ms=slo_itl_ms),
    )
    common: dict[str, Any] = {
        "api_key": api_key,
        "timeout_s": timeout,
        "ignore_eos": ignore_eos,
    }
    first = Target(url=url, model=model, **common)
    arms = [Arm(name="server", target=first)]
    if compare is not None:
        arms.append(Arm(name="other", target=Target(url=compare, model=compare_model, **common)))
    if aa:
        arms.append(Arm(name="server again", target=first, other_texts=True))
    for file in (output, plot):
        if file is not None and not file.absolute().parent.is_dir():
            message = f"there is no folder {file.absolute().parent}"
            raise typer.BadParameter(message, param_hint="--output or --plot")
    if plot is not None:
        check_plot(plot)
    with Progress() as progress:
        asyncio.run(run_rounds(plan, arms, progress.update))
    if output is not None or as_json:
        import json

        report = json.dumps(serve_report(plan, arms), indent=1)
        if output is not None:
            output.write_text(report + "\n", encoding="utf-8")
        if as_json:
            typer.echo(report)
    if not as_json:
        _print(plan, arms)
    if plot is not None:
        write_plot(plot, plan, arms)
    if not any(figures.num_output_tokens for arm in arms for figures in arm.figures()):
        raise typer.Exit(1)


def _print(plan: Plan, arms: list[Arm]) -> None:
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from slipstream.benchmark.serve.compare import ratios, sane
    from slipstream.benchmark.serve.report import pooled

    console = Console()
    how = f"rate {plan.load.rate:g}/s" if plan.load.rate else f"concurrency {plan.load.concurrency}"
    if plan.workload == "intrusion":
        how = "one intruder after the other"
    title = f"{plan.workload}, {plan.num} conversations x {plan.rounds} rounds, {how}"
    table = Table("", title=title, title_justify="left", box=MARKDOWN)
    for arm in arms:
        table.add_column(f"{arm.name}: {escape(arm.model)}", justify="right")
    columns = [_lines(pooled(arm, plan), plan) for arm in arms]
    for name in columns[0]:
        table.add_row(name, *(lines[name] for lines in columns))
    console.print(table)
    for arm in arms[1:]:
        compared = Table(f"{arms[0].name} / {arm.name}", box=MARKDOWN)
        for column in ("median", "90 % interval"):
            compared.add_column(column, justify="right")
        for name, ratio in ratios(arms[0], arm).items():
            compared.add_row(name, f"{ratio.median:.3f}", f"{ratio.low:.3f} … {ratio.high:.3f}")
        console.print(compared)
    for arm in arms:
        for kind, detail in pooled(arm, plan).details.items():
            console.print(f"{arm.name}: {kind}: {detail}", markup=False, highlight=False)
    for doubt in sane(arms, plan):
        console.print(f"note: {doubt}", markup=False, highlight=False)


def _lines(figures: Figures, plan: Plan) -> dict[str, str]:
    """Return the table's cells of one server, by the name of their line."""
    cached, prompt = figures.num_cached_tokens, figures.num_prompt_tokens
    lines = {
        "requests": f"{figures.num_requests}",
        "failed": ", ".join(f"{n} {kind}" for kind, n in figures.errors.items()) or "0",
        "output tokens": f"{figures.num_output_tokens}" + ("" if figures.from_usage else " pieces"),
        "prompt tokens": "not told" if prompt is None else f"{prompt}",
        "cached tokens": "not told" if cached is None else f"{cached}",
        "output tok/s": f"{figures.output_tokens_per_s:.1f}",
        "requests/s": f"{figures.requests_per_s:.2f}",
    }
    if plan.slo.ttft_ms is not None or plan.slo.itl_ms is not None:
        lines["goodput requests/s"] = f"{figures.goodput_per_s:.2f}"
    for name, values in (
        ("TTFT ms", figures.ttft_ms),
        ("ITL ms", figures.itl_ms),
        ("TPOT ms", figures.tpot_ms),
    ):
        lines[f"{name} p50 / p95 / p99"] = _percentiles(values)
    return lines


def _percentiles(values: Percentiles | None) -> str:
    if values is None:
        return "none"
    return f"{values.p50:.1f} / {values.p95:.1f} / {values.p99:.1f}"
