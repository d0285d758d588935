"""`slipstream get` and `search`: models of the hub. The only commands that use the network by themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.cli.terminal import can_ask, pick, print_json, show_line, size_text

if TYPE_CHECKING:
    from slipstream.models.download_plan import RemoteVariant
    from slipstream.models.downloads import DownloadJob, DownloadManager
    from slipstream.models.hub import HubModel


def search(
    words: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="Results to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Search the hub for models, most downloaded first."""
    from slipstream.models import hub

    found = hub.search(words, limit)
    if as_json:
        print_json(found)
    elif found:
        _print_found(found)
    else:
        typer.echo(f"the hub has no GGUF model for {words!r}", err=True)


def get(
    model: Annotated[
        str,
        typer.Argument(
            help="`demo`, a catalogue key, user/repo, repo@quant, an address, or words."
        ),
    ],
    quant: Annotated[str | None, typer.Option("--quant", "-q", help="Quantization.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, take the default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The finished job as JSON.")] = False,
) -> None:
    """Bring a model into the model folder and print where it lies."""
    if model == "demo":
        from slipstream.models.demo import bring_demo_model

        path = bring_demo_model(progress=show_line)
        show_line("")
        if as_json:
            print_json({"name": model, "path": str(path)})
        else:
            typer.echo(str(path))
        return
    import asyncio

    ask = can_ask() and not yes
    name = model if "/" in model else _choose_model(model, ask=ask, first=yes)
    if ask and quant is None and "@" not in name and "://" not in name:
        quant = _choose_quantization(name)
    job = asyncio.run(_download(name, quant))
    if as_json:
        print_json(job)
    elif job.path:
        typer.echo(job.path)
    if job.error:
        from slipstream.base.errors import DownloadError

        raise DownloadError(job.error)


def _choose_model(words: str, *, ask: bool, first: bool) -> str:
    """Turn words into a name: a key of the catalogue that ends so, else what a search finds."""
    from slipstream.base.errors import ModelNotFoundError
    from slipstream.models import hub
    from slipstream.models.download_plan import catalogue

    base, at, quant = words.partition("@")
    keys = [key for key in catalogue() if key.endswith("/" + base.lower())]
    if len(keys) == 1:
        return keys[0] + at + quant
    found = hub.search(base, 10)
    if not found:
        message = f"the hub has no GGUF model for {base!r}"
        raise ModelNotFoundError(message)
    if ask:
        _print_found(found, err=True)
        return found[pick("which one", len(found), 1)].repo + at + quant
    if first:
        return found[0].repo + at + quant
    names = ", ".join(one.repo for one in found[:5])
    message = f"{words!r} is no full name; give one of those the hub found ({names}), or --yes for the first"
    raise ModelNotFoundError(message)


def _choose_quantization(name: str) -> str | None:
    from slipstream.models.download_plan import default_variant, variants_of

    variants = variants_of(name)
    if len(variants) < 2:
        return None
    default = default_variant(variants)
    for number, variant in enumerate(variants, 1):
        typer.echo(
            f"{number:>3}  {_variant_line(variant, recommended=variant is default)}", err=True
        )
    return variants[pick("which quantization", len(variants), variants.index(default) + 1)].name


def _variant_line(variant: RemoteVariant, *, recommended: bool) -> str:
    fit = "fits" if variant.fits else "too large for this machine's memory"
    mark = ", recommended" if recommended else ""
    return f"{variant.quantization:<12} {size_text(variant.size_bytes):>9}  {fit}{mark}"


def _print_found(found: list[HubModel], *, err: bool = False) -> None:
    for number, one in enumerate(found, 1):
        gated = "  gated" if one.gated else ""
        line = f"{number:>3}  {one.repo}  {one.downloads} downloads  {one.updated}{gated}"
        typer.echo(line, err=err)


async def _download(name: str, quant: str | None) -> DownloadJob:
    from slipstream.models.downloads import DownloadManager

    manager = DownloadManager(any_host=True)
    try:
        job = await manager.start(name, quant)
        if job.job_id:
            job = await _show(manager, job)
    finally:
        await manager.close()  # Ctrl-C: what has come is kept, the same command goes on
    return job


async def _show(manager: DownloadManager, job: DownloadJob) -> DownloadJob:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task(job.name, total=job.total_bytes or None)
        async for now in manager.watch(job.job_id):
            job = now
            bar.update(task, completed=now.downloaded_bytes, total=now.total_bytes or None)
    return job
