"""The `slipstream` command: puts the subcommands together and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from slipstream.base.errors import SlipstreamError
from slipstream.cli.bench import bench_app
from slipstream.cli.chat import chat
from slipstream.cli.get import get, search
from slipstream.cli.import_ import import_, rm
from slipstream.cli.instances import load, ps, unload
from slipstream.cli.log import log_app
from slipstream.cli.ls import ls
from slipstream.cli.serve import serve
from slipstream.cli.server import server_app
from slipstream.cli.settings import settings_app
from slipstream.cli.token import token_app
from slipstream.cli.version import print_version, version

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="slipstream",
    help="Run, serve and measure local language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(chat)
app.command()(get)
app.command()(search)
app.command()(ls)
app.command()(ps)
app.command()(load)
app.command()(unload)
app.command("import")(import_)
app.command()(rm)
app.add_typer(server_app, name="server")
app.add_typer(log_app, name="log")
app.add_typer(token_app, name="token")
app.add_typer(settings_app, name="settings")
app.add_typer(bench_app, name="bench")
app.command()(version)


def _show_version(asked: bool) -> None:
    if asked:
        print_version()
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Run, serve and measure local language models."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except SlipstreamError as error:
        sys.stderr.write(f"slipstream: {_one_line(error)}\n")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _one_line(error: SlipstreamError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
