"""`slipstream log stream`: what a server logs and what its models are asked and answer, as it happens."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer

from slipstream.cli.options import UrlOption
from slipstream.cli.terminal import writer

log_app = typer.Typer(no_args_is_help=True, help="Watch what a server does.")


@log_app.callback()
def root() -> None:
    """Watch what a server does."""


@log_app.command()
def stream(
    source: Annotated[
        list[str] | None,
        typer.Option("--source", "-s", help="server, runtime or model; repeatable. Default: all."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--filter", metavar="input,output", help="Of models: only one of the two."),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Token counts and speed.")] = False,
    content: Annotated[
        bool, typer.Option("--content", help="Show what is asked and answered, not only how much.")
    ] = False,
    url: UrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print what a server logs, and the requests of its models, until Ctrl-C."""
    from slipstream.cli.server_client import need_server

    asked = {"source": ",".join(source or ()), "filter": only or ""}
    asked |= {"stats": str(stats).lower(), "content": str(content).lower()}
    write = writer(sys.stdout)
    with (
        need_server(url) as client,
        client.events("GET", "/api/v1/log", params=_filled(asked)) as events,
    ):
        typer.echo(f"watching {client.url}; Ctrl-C ends it", err=True)
        for event in events:
            write((event if as_json else _line(json.loads(event))) + "\n")


def _filled(asked: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in asked.items() if text}


def _line(record: dict[str, Any]) -> str:
    data = record["data"]
    clock = time.strftime("%H:%M:%S", time.localtime(record["timestamp"] / 1000))
    if data["type"] == "dropped":
        return f"{clock} {data['count']} records were left out: they came too fast"
    if data["type"].endswith(".log"):
        return f"{clock} {data['level'].upper():<7} {data['logger']}: {data['content']}"
    return f"{clock} {data['modelIdentifier']} {_request(data)}"


def _request(data: dict[str, Any]) -> str:
    if "inputCharacters" in data:
        if data["input"] is None:
            return f"<- {data['inputCharacters']} characters"
        return f"<- {_given(data['input'])}"
    text = f"{data['outputCharacters']} characters" if data["output"] is None else data["output"]
    line = f"-> {text} [{data['finishReason']}]"
    stats = data.get("stats")
    if stats:
        speed = stats["num_output_tokens"] / stats["decode_s"] if stats["decode_s"] else 0.0
        line += f" prompt {stats['num_prompt_tokens']} ({stats['num_cached_tokens']} cached)"
        line += f", answer {stats['num_output_tokens']} tokens, {speed:.1f} tokens/s"
    return line


def _given(given: dict[str, Any]) -> str:
    if "messages" not in given:
        return str(given.get("prompt", given.get("prompt_token_ids")))
    lines = [f"{message.get('role')}: {_text(message)}" for message in given["messages"]]
    return "\n   ".join(lines)


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return json.dumps(content if content is not None else message.get("tool_calls"))
