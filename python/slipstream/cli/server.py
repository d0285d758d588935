"""`slipstream server`: a server in the background, and a systemd unit for one that starts at login."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from slipstream.cli.options import CorsOption, HostOption, JsonOption, PortOption
from slipstream.cli.terminal import print_json, show_line

server_app = typer.Typer(no_args_is_help=True, help="Run a server in the background.")


@server_app.command()
def start(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="As for `serve`.")
    ] = None,
    host: HostOption = None,
    port: PortOption = None,
    cors: CorsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a server and wait until it answers. Options given are kept for the next start."""
    from slipstream.base.errors import ServerError
    from slipstream.cli import background
    from slipstream.cli.serve import given_settings
    from slipstream.runtime.server_record import find
    from slipstream.runtime.settings_store import SettingsStore

    given = given_settings(host, port, cors)
    running = find()
    if running is not None and (models or given.keys() & {"host", "port"}):
        message = f"a server runs already (process {running.pid}); `slipstream server stop` ends it"
        raise ServerError(message)
    if given:
        SettingsStore().change(given)
    show_line("starting the server")
    try:
        record, is_new = background.start([_absolute(model) for model in models or ()])
    finally:
        show_line("")
    if as_json:
        print_json({"running": True, "url": record.url, "port": record.port, "pid": record.pid})
        return
    word = "runs now" if is_new else "runs already"
    typer.echo(f"The server {word} on {record.url} (process {record.pid}).")


@server_app.command()
def stop(as_json: JsonOption = False) -> None:
    """End the server: running requests have a second to end."""
    from slipstream.runtime.server_record import find
    from slipstream.runtime.server_record import stop as end

    record = find()
    if record is not None:
        end(record)
    if as_json:
        print_json({"stopped": record is not None})
    else:
        typer.echo("The server has ended." if record else "No server is running.")


@server_app.command()
def status(as_json: JsonOption = False) -> None:
    """Tell whether a server runs, and where."""
    from slipstream.runtime.server_record import find

    record = find()
    if as_json:
        facts = {"running": record is not None}
        print_json(
            facts
            if record is None
            else {
                **facts,
                "ready": record.url is not None,
                "url": record.url,
                "port": record.port,
                "pid": record.pid,
                "version": record.version,
                "uptime_s": round(time.time() - record.started_s, 1),
            }
        )
    elif record is None:
        typer.echo("No server is running.")
    elif record.url is None:
        typer.echo(f"The server is starting (process {record.pid}).")
    else:
        typer.echo(f"The server runs on {record.url} (process {record.pid}).")


@server_app.command("install-unit")
def install_unit(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="As for `serve`.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the unit and write nothing.")
    ] = False,
) -> None:
    """Write a systemd user unit that starts the server at login."""
    from slipstream.base.files import replace_file
    from slipstream.cli.systemd import UNIT_NAME, make_unit, unit_path

    text = make_unit([_absolute(model) for model in models or ()])
    if only_print:
        typer.echo(text, nl=False)
        return
    replace_file(unit_path(), text.encode())
    typer.echo(str(unit_path()))
    typer.echo(
        f"`systemctl --user enable --now {UNIT_NAME}` starts it now and at each login; "
        "`loginctl enable-linger` keeps it without one.",
        err=True,
    )


def _absolute(model: str) -> str:
    """Return a model's name for a process in another folder."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.is_file() else model
