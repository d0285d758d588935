"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from slipstream.base.limits import MAX_PORT

HostOption = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on; 0.0.0.0 lets other machines in. Default: the setting, 127.0.0.1."
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_PORT, help="Port to listen on. Default: the setting, 1234."),
]
CorsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN", help="Origin whose pages may call the API, `*` for all. Repeatable."
    ),
]

UrlOption = Annotated[
    str | None,
    typer.Option(
        envvar="SLIPSTREAM_URL",
        help="Server to speak to, with the token of SLIPSTREAM_API_TOKEN; else this user's own one.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the command line says a parameter itself, rather than leaving it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
