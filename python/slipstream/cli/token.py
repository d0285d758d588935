"""`slipstream token`: API tokens of this user's server. Works on their file; a running server sees changes at once."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.cli.options import JsonOption
from slipstream.cli.terminal import confirm, print_json, print_table

if TYPE_CHECKING:
    from slipstream.runtime.tokens import ApiToken

token_app = typer.Typer(no_args_is_help=True, help="Make, list, edit and revoke API tokens.")
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="PERMISSION",
        help="inference, models, logs or metrics; repeatable. A new token may do the first two.",
    ),
]


@token_app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    allow: AllowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and show it, this once."""
    from slipstream.runtime.settings_store import SettingsStore
    from slipstream.runtime.tokens import DEFAULT_PERMISSIONS, TokenStore

    token, secret = TokenStore().create(name, allow or DEFAULT_PERMISSIONS)
    if as_json:
        print_json({"token": secret, **_facts(token)})
        return
    typer.echo(secret)
    if sys.stdout.isatty():
        typer.echo("Keep it now: it cannot be shown again.", err=True)
    if not SettingsStore().current().require_auth:
        note = "No token is asked for yet: `slipstream settings set require_auth true` does so."
        typer.echo(note, err=True)


@token_app.command("ls")
def list_tokens(as_json: JsonOption = False) -> None:
    """List the tokens, without what is secret about them."""
    from slipstream.runtime.tokens import TokenStore

    tokens = TokenStore().list()
    if as_json:
        print_json([_facts(token) for token in tokens])
    elif tokens:
        rows = [
            (token.name, token.id, ", ".join(token.permissions), _day(token)) for token in tokens
        ]
        print_table(("NAME", "ID", "MAY", "CREATED"), rows)
    else:
        typer.echo("no tokens; `slipstream token create NAME` makes one", err=True)


@token_app.command()
def edit(
    name: Annotated[str, typer.Argument(help="Name or id of the token.")],
    new_name: Annotated[str | None, typer.Option("--name", help="Call it so.")] = None,
    allow: AllowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the name of a token, or what it may do."""
    from slipstream.runtime.tokens import TokenStore

    if new_name is None and not allow:
        message = "nothing to change: give --name or --allow"
        raise typer.BadParameter(message)
    token = TokenStore().edit(name, new_name=new_name, permissions=allow or None)
    if as_json:
        print_json(_facts(token))
    else:
        typer.echo(f"{token.name} may: {', '.join(token.permissions)}", err=True)


@token_app.command("rm")
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the token.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Revoke a token: it opens nothing from now on."""
    from slipstream.runtime.tokens import TokenStore

    confirm(f"Revoke the token {name!r}?", yes=yes)
    token = TokenStore().revoke(name)
    if as_json:
        print_json(_facts(token))
    else:
        typer.echo(f"revoked {token.name}", err=True)


def _facts(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "permissions": token.permissions,
        "created_s": token.created_s,
    }


def _day(token: ApiToken) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(token.created_s))
