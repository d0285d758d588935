"""`slipstream ls`: the models on this machine. Asks the disk, no server and no network."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.cli.terminal import print_json, size_text

if TYPE_CHECKING:
    from slipstream.models.model_info import ModelInfo


def ls(
    key: Annotated[str | None, typer.Argument(help="Only this model, with its variants.")] = None,
    llm: Annotated[bool, typer.Option("--llm", help="Only models that write text.")] = False,
    embedding: Annotated[bool, typer.Option("--embedding", help="Only embedding models.")] = False,
    variants: Annotated[bool, typer.Option("--variants", help="Every quantization.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the models of the model folders."""
    from slipstream.models.store import ModelStore

    store = ModelStore()
    models = [store.find(key)] if key else store.scan()
    if llm != embedding:
        models = [model for model in models if model.type == ("llm" if llm else "embedding")]
    if as_json:
        print_json(models)
        return
    if not models:
        typer.echo("no models yet; `slipstream get demo` brings a small one", err=True)
        return
    _print_tables(models, variants=variants or key is not None)


def _print_tables(models: list[ModelInfo], *, variants: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    total = sum(variant.size_bytes for model in models for variant in model.variants)
    console = Console()
    console.print(f"{len(models)} models, {size_text(total)}\n", highlight=False)
    for title, type_ in (("LLM", "llm"), ("EMBEDDING", "embedding")):
        of_type = [model for model in models if model.type == type_]
        if not of_type:
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(title, overflow="fold")
        for name in ("PARAMS", "ARCH", "QUANT", "SIZE", "CAN"):
            table.add_column(name, justify="right" if name in ("PARAMS", "SIZE") else "left")
        for model in of_type:
            error = f"broken: {model.error}" if model.error else _abilities(model)
            cells = [model.key, model.params_string, model.architecture, model.quantization]
            table.add_row(*map(escape, [*cells, size_text(model.size_bytes), error]))
            if variants:
                for variant in model.variants:
                    mark = "*" if variant.key == model.selected_variant else " "
                    cells = [f" {mark} {variant.key}", "", "", variant.quantization]
                    problem = f"broken: {variant.error}" if variant.error else ""
                    table.add_row(*map(escape, [*cells, size_text(variant.size_bytes), problem]))
        console.print(table, soft_wrap=not sys.stdout.isatty(), highlight=False)


def _abilities(model: ModelInfo) -> str:
    able = model.capabilities
    names = {"tools": able.tool_use, "vision": able.vision, "reasoning": able.reasoning}
    return ", ".join(name for name, has in {**names, "rerank": able.rerank}.items() if has)
