"""`slipstream version`: imports the native core only when asked what it is made of."""

from __future__ import annotations

from typing import Annotated

import typer

import slipstream


def print_version() -> None:
    """Print the version of the package alone."""
    typer.echo(f"slipstream {slipstream.__version__}")


def version(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also tell what the native core is made of.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """Print the version."""
    if not verbose and not as_json:
        print_version()
        return
    facts = {"version": slipstream.__version__, **slipstream.build_info()}
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        typer.echo(f"{name:<{width}}  {shown}")
