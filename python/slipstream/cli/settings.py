"""`slipstream settings`: the kept settings. Works on their file; a running server takes over most of them at once."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from slipstream.cli.options import JsonOption
from slipstream.cli.terminal import print_json, print_table

settings_app = typer.Typer(no_args_is_help=True, help="Show and change the kept settings.")
NameArgument = Annotated[str, typer.Argument(help="Of the setting.")]
_AT_START = ("host", "port", "max_body_bytes")


@settings_app.command("ls")
def list_settings(as_json: JsonOption = False) -> None:
    """List all settings and their values."""
    values, kept = _values()
    if as_json:
        print_json(values)
        return
    rows = [
        (name, json.dumps(value), "" if name in kept else "default")
        for name, value in values.items()
    ]
    print_table(("SETTING", "VALUE", ""), rows)


@settings_app.command()
def get(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print one setting; lists and texts as JSON with --json."""
    from slipstream.runtime.settings_store import check_name

    check_name(name)
    value = _values()[0][name]
    if as_json:
        print_json(value)
    elif isinstance(value, list):
        typer.echo("\n".join(value))
    else:
        typer.echo(value if isinstance(value, str) else json.dumps(value))


@settings_app.command("set")
def change(
    name: NameArgument,
    value: Annotated[list[str], typer.Argument(help="As JSON, or text; several for a list.")],
    as_json: JsonOption = False,
) -> None:
    """Change a setting and keep it."""
    from slipstream.runtime.settings_store import SettingsStore, check_name

    check_name(name)
    is_list = isinstance(_values()[0][name], list)
    if not is_list and len(value) > 1:
        message = f"{name} takes one value"
        raise typer.BadParameter(message)
    parsed: Any = value if is_list else _parse(value[0])
    if is_list and len(value) == 1 and value[0].startswith("["):
        parsed = _parse(value[0])
    SettingsStore().change({name: parsed})
    _show(name, as_json=as_json)


@settings_app.command()
def reset(name: NameArgument, as_json: JsonOption = False) -> None:
    """Go back to the default of a setting."""
    from slipstream.runtime.settings_store import SettingsStore

    SettingsStore().reset([name])
    _show(name, as_json=as_json)


def _show(name: str, *, as_json: bool) -> None:
    from slipstream.runtime.server_record import find

    value = _values()[0][name]
    if as_json:
        print_json({name: value})
        return
    typer.echo(f"{name}: {json.dumps(value)}", err=True)
    if name in _AT_START and find() is not None:
        typer.echo("The running server takes it over when it is started again.", err=True)


def _values() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (every setting, those that are kept), as JSON has them."""
    import msgspec

    from slipstream.runtime.settings_store import SettingsStore

    store = SettingsStore()
    values: dict[str, Any] = msgspec.to_builtins(store.current())
    return {name: _listed(value) for name, value in values.items()}, store.kept()


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
