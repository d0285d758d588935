"""`slipstream bench`: measures models in this process, or servers, and prints a table or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.base.limits import MAX_BATCH_SIZE, MAX_THREADS
from slipstream.cli.bench_pair import draft_candidates, pair
from slipstream.cli.bench_serve import serve
from slipstream.cli.progress import Progress

if TYPE_CHECKING:
    from slipstream.benchmark.decode import DecodeResult, DecodeSettings
    from slipstream.benchmark.step import EngineCosts, StepResult
    from slipstream.native import Model

bench_app = typer.Typer(help="Measure how fast models run here.", no_args_is_help=True)
bench_app.command()(serve)
bench_app.command()(pair)
bench_app.command("draft-candidates")(draft_candidates)


@bench_app.callback()
def bench() -> None:
    """Measure how fast models run here."""


@bench_app.command()
def decode(
    model: Annotated[str, typer.Argument(help="Path of a .gguf file, or `demo`.")] = "demo",
    num_prompt: Annotated[
        int, typer.Option("--num-prompt", "-p", min=0, help="Prompt tokens; 0: no such test.")
    ] = 512,
    num_generate: Annotated[
        int, typer.Option("--num-generate", "-n", min=0, help="Generated tokens; 0: no such test.")
    ] = 128,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Runs of each test.")
    ] = 5,
    depth: Annotated[
        int, typer.Option("--depth", "-d", min=0, help="Tokens already in the KV cache.")
    ] = 0,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "-b", min=1, max=MAX_BATCH_SIZE, help="Prompt tokens in one batch."
        ),
    ] = 512,
    threads: Annotated[
        int,
        typer.Option(
            "--threads", "-t", min=0, max=MAX_THREADS, help="CPU threads; 0: the physical cores."
        ),
    ] = 0,
    repack: Annotated[
        bool | None,
        typer.Option(
            help="Let ggml re-arrange weights for this CPU. Default: as servers of one request at a time do."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON with machine, commit, build and every sample.")
    ] = False,
) -> None:
    """Measure prompt (pp) and generation (tg) speed of one sequence, as llama-bench does."""
    from slipstream.benchmark.decode import DecodeSettings, bench_model
    from slipstream.models.catalog import resolve_model

    settings = DecodeSettings(
        num_prompt=num_prompt,
        num_generate=num_generate,
        repetitions=repetitions,
        depth=depth,
        batch_size=batch_size,
        threads=threads,
    )
    path = resolve_model(model)
    from slipstream.base.load_config import LoadConfig
    from slipstream.native import Model

    loaded = Model(path, repack=LoadConfig(parallel=1, repack=repack).is_repacked)
    loaded.use_huge_pages(wait=True)  # as the engine does
    try:
        with Progress() as progress:
            results, used_threads = bench_model(loaded, settings, progress.update)
        if as_json:
            import json

            from slipstream.benchmark.report import decode_report

            report = decode_report(loaded, settings, results, used_threads)
            typer.echo(json.dumps(report, indent=2))
        else:
            _print_table(loaded, settings, results, used_threads)
    finally:
        loaded.close()


@bench_app.command()
def step(
    model: Annotated[str, typer.Argument(help="Path of a .gguf file, or `demo`.")] = "demo",
    depth: Annotated[
        int,
        typer.Option("--depth", "-d", min=0, help="Measure with so many tokens cached, too."),
    ] = 0,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Runs of each size.")
    ] = 5,
    threads: Annotated[
        int,
        typer.Option(
            "--threads", "-t", min=0, max=MAX_THREADS, help="CPU threads; 0: the physical cores."
        ),
    ] = 0,
    repack: Annotated[
        bool,
        typer.Option(
            help="Let ggml re-arrange weights for this CPU; servers of several requests at a time do not."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON with machine, commit, build and every sample.")
    ] = False,
) -> None:
    """Measure what a step of 1 to 512 tokens costs, beside what memory bandwidth allows."""
    from slipstream.benchmark.step import StepSettings, bench_steps, engine_costs, step_report
    from slipstream.models.catalog import resolve_model

    settings = StepSettings(depth=depth, repetitions=repetitions, threads=threads)
    path = resolve_model(model)
    from slipstream.native import Model

    loaded = Model(path, repack=repack)
    loaded.use_huge_pages(wait=True)  # as the engine does
    try:
        with Progress() as progress:
            results, bandwidth, used_threads = bench_steps(loaded, settings, progress.update)
        engine = engine_costs(loaded, used_threads, repack=repack)
        if as_json:
            import json

            report = step_report(loaded, settings, results, bandwidth, used_threads, engine)
            typer.echo(json.dumps(report, indent=2))
        else:
            _print_steps(loaded, results, engine, bandwidth, used_threads, repack=repack)
    finally:
        loaded.close()


def _print_steps(
    model: Model,
    results: list[StepResult],
    engine: EngineCosts | None,
    bandwidth: float,
    threads: int,
    *,
    repack: bool,
) -> None:
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from slipstream.benchmark.report import cpu_name, weight_types

    table = Table(title=escape(model.description), title_justify="left", box=MARKDOWN)
    columns = ("depth", "tokens", "ms/step", "± std", "T(n)/T(1)", "tokens/s", "roofline", "engine")
    for column in columns:
        table.add_column(column, justify="right")
    single_s = 0.0
    for result in results:
        seconds = result.seconds
        if result.num_tokens == 1:
            single_s = seconds.median
        table.add_row(
            str(result.depth),
            str(result.num_tokens),
            f"{seconds.median * 1e3:.2f}",
            f"{seconds.stdev * 1e3:.2f}",
            f"{seconds.median / single_s:.2f}",
            f"{result.tokens_per_s:.1f}",
            f"{result.roofline_tokens_per_s:.1f}",
            f"{engine.seconds[result.num_tokens] * 1e3:.2f}" if engine and not result.depth else "",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{model.size_bytes / 2**20:.1f} MiB read per step, {bandwidth / 1e9:.1f} GB/s, {threads} threads, "
        f"{escape(cpu_name())}",
        highlight=False,
    )
    about = engine.description if engine else "knows nothing yet of this model, build and threads"
    console.print(f"engine: {about}", highlight=False)
    kernels = [
        f"{name} {facts['bytes'] / 2**20:.0f} MiB by {facts['kernel']}"
        for name, facts in weight_types(model).items()
    ]
    repacked = "; of types it re-arranges by ggml's repack" if repack else ""
    console.print(f"weights: {', '.join(kernels)}{repacked}", highlight=False)


def _print_table(
    model: Model, settings: DecodeSettings, results: list[DecodeResult], threads: int
) -> None:
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from slipstream.benchmark.report import cpu_name

    table = Table("test", title=escape(model.description), title_justify="left", box=MARKDOWN)
    table.add_column("tokens/s", justify="right")
    table.add_column("± std", justify="right")
    table.add_column("median", justify="right")
    for result in results:
        speed = result.tokens_per_s
        row = (speed.mean, speed.stdev, speed.median)
        table.add_row(result.test, *(f"{value:.2f}" for value in row))
    console = Console()
    console.print(table)
    console.print(
        f"{model.size_bytes / 2**20:.1f} MiB, {model.n_params / 1e6:.1f} M parameters, {threads} threads, "
        f"batch {settings.batch_size}, {settings.repetitions} repetitions, {escape(cpu_name())}",
        highlight=False,
    )
