"""`slipstream get`: brings a model into the model folder."""

from __future__ import annotations

from typing import Annotated

import typer


def get(
    model: Annotated[str, typer.Argument(help="`demo`, the small model to try things with.")],
) -> None:
    """Bring a model into the model folder and print where it lies."""
    from slipstream.base.errors import ModelNotFoundError

    if model != "demo":
        message = (
            f"{model!r} cannot be fetched: only `demo` can. Give the path of a .gguf file to the other "
            "commands, or put it into the model folder as publisher/model/file.gguf"
        )
        raise ModelNotFoundError(message)
    from slipstream.cli.terminal import show_line
    from slipstream.models.demo import bring_demo_model

    path = bring_demo_model(progress=show_line)
    show_line("")
    typer.echo(str(path))
