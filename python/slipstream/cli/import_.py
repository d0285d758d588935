"""`slipstream import` and `rm`: put files into the model folder and take models out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli.terminal import confirm, print_json, size_text


def import_(
    file: Annotated[
        Path, typer.Argument(help="A .gguf file; all parts of a split one come along.")
    ],
    user_repo: Annotated[
        str | None, typer.Option("--user-repo", help="publisher/model to put it under.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", "-c", help="Copy instead of move.")] = False,
    hard_link: Annotated[
        bool, typer.Option("--hard-link", "-L", help="Link instead of move; needs the same disk.")
    ] = False,
    symbolic_link: Annotated[
        bool, typer.Option("--symbolic-link", "-l", help="Link by name instead of move.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Put a model file into the model folder; moves it unless told otherwise."""
    from slipstream.base.errors import InvalidRequestError
    from slipstream.models.store_files import ImportMode, plan_import, run_import

    modes: list[ImportMode] = []
    modes += ["copy"] if copy else []
    modes += ["hard-link"] if hard_link else []
    modes += ["symbolic-link"] if symbolic_link else []
    if len(modes) > 1:
        message = "give one of --copy, --hard-link and --symbolic-link"
        raise InvalidRequestError(message)
    plan = plan_import(file, modes[0] if modes else "move", user_repo)
    if not dry_run:
        run_import(plan)
    if as_json:
        print_json(plan)
        return
    would = "would " if dry_run else ""
    for source, target in plan.files:
        typer.echo(f"{would}{plan.mode}: {source} -> {target}")


def rm(
    key: Annotated[str, typer.Argument(help="A model, or with @quantization one variant of it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: the files deleted.")] = False,
) -> None:
    """Delete a model of the model folder; files of other folders are left alone."""
    from slipstream.models.store import ModelStore
    from slipstream.models.store_files import files_to_remove, remove_files

    model = ModelStore().find(key)
    one = "@" in key or key == "demo" or key.lower().endswith(".gguf")
    files = files_to_remove(model, only_selected=one)
    size = size_text(sum(file.stat().st_size for file in files))
    confirm(f"delete {len(files)} files of {model.key} ({size})?", yes=yes)
    remove_files(files)
    if as_json:
        print_json([str(file) for file in files])
    else:
        for file in files:
            typer.echo(f"deleted {file}")
