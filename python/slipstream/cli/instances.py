"""`slipstream ps`, `load` and `unload`: the loaded models of a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError
from slipstream.base.limits import MAX_CONTEXT_LENGTH, MAX_PARALLEL
from slipstream.cli.options import UrlOption
from slipstream.cli.terminal import print_json, print_table, show_load, size_text

if TYPE_CHECKING:
    from slipstream.cli.server_client import ServerClient

JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


def ps(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the loaded models and what they are doing."""
    from slipstream.cli.server_client import find_server

    client = find_server(url)
    loaded: list[dict[str, Any]] = []
    if client is not None:
        with client:
            loaded = _loaded(client)
    if as_json:
        print_json(loaded)
    elif loaded:
        head = ("IDENTIFIER", "MODEL", "STATUS", "SIZE", "MEMORY", "CONTEXT", "PARALLEL", "TTL")
        print_table(head, [_row(one) for one in loaded])
    else:
        typer.echo("no model is loaded" if client else "no server is running", err=True)


def load(
    model: Annotated[str, typer.Argument(help="Key of a model; see `slipstream ls`.")],
    context_length: Annotated[
        int | None,
        typer.Option("--context-length", "-c", min=1, max=MAX_CONTEXT_LENGTH, help="In tokens."),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=MAX_PARALLEL, help="Requests at the same time.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="Layers on the GPU: `off`, `max` or a number."),
    ] = None,
    ttl: Annotated[
        float | None, typer.Option(min=1, help="Seconds it may be idle; else it stays.")
    ] = None,
    identifier: Annotated[
        str | None, typer.Option(help="What requests call it; the key if not given.")
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option(help="Key of a smaller model that guesses ahead.")
    ] = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate-only", help="Tell the memory it would take, load nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--yes", "-y", "--force", help="Load it whatever the guardrails say.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model, in a server that is started if none runs."""
    from slipstream.cli.server_client import started_server

    body: dict[str, Any] = {
        "model": model,
        "context_length": context_length,
        "parallel": parallel,
        "gpu_layers": None if gpu is None else _layers(gpu),
        "draft_model": draft_model,
    }
    with started_server(url) as client:
        if estimate_only:
            _show_estimate(client.post("/api/v1/models/estimate", _given(body)), as_json=as_json)
            return
        body |= {"ttl": ttl, "identifier": identifier, "force": force, "stream": True}
        body |= {"echo_load_config": True}
        answer = _follow(client, model, _given(body))
    if as_json:
        print_json(answer)
        return
    typer.echo(answer["instance_id"])
    typer.echo(f"loaded in {answer['load_time_seconds']:.1f} s", err=True)


def unload(
    identifier: Annotated[
        str | None, typer.Argument(help="Of an instance; see `slipstream ps`.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Unload all of them.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Unload a model."""
    from slipstream.cli.server_client import need_server

    if everything == (identifier is not None):
        message = "give the identifier of an instance, or --all"
        raise typer.BadParameter(message)
    with need_server(url) as client:
        wanted = [one["id"] for one in _loaded(client)] if everything else [identifier]
        gone = [
            client.post("/api/v1/models/unload", {"instance_id": name})["instance_id"]
            for name in wanted
        ]
    if as_json:
        print_json(gone)
    else:
        typer.echo(f"unloaded {', '.join(gone)}" if gone else "no model is loaded", err=True)


def _loaded(client: ServerClient) -> list[dict[str, Any]]:
    """Return the loaded instances with the key and the size of their models."""
    return [
        {
            **instance,
            "model": model["key"],
            "type": model["type"],
            "size_bytes": model["size_bytes"],
        }
        | _queue(instance)
        for model in client.get("/api/v1/models")["models"]
        for instance in model["loaded_instances"]
    ]


def _queue(instance: dict[str, Any]) -> dict[str, int]:
    """Return how many requests wait: those beyond what runs at the same time."""
    parallel = instance["config"].get("parallel")
    return {"queued": max(0, instance["num_requests"] - parallel) if parallel else 0}


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    config, status, ttl = one["config"], one["status"], one.get("ttl")
    if status == "loading":
        status += f" {one['progress']:.0%}"
    elif status == "generating":
        queued = f", {one['queued']} wait" if one["queued"] else ""
        status += f" {one['num_requests'] - one['queued']}{queued}"
    return (
        one["id"],
        one["model"],
        status,
        size_text(one["size_bytes"]),
        size_text(one["memory_bytes"]),
        str(config["context_length"]),
        str(config.get("parallel", "")),
        "" if ttl is None else f"{ttl:g} s",
    )


def _layers(gpu: str) -> int:
    if gpu in ("off", "max"):
        return {"off": 0, "max": -1}[gpu]
    if gpu.isascii() and gpu.isdigit() and int(gpu) < 2**31:
        return int(gpu)
    message = f"{gpu!r} is no number of layers; it must be `off`, `max` or a number"
    raise typer.BadParameter(message, param_hint="--gpu")


def _given(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _show_estimate(estimate: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(estimate)
        return
    refusal = estimate.get("refusal")
    lines = {
        "Model": estimate["model"],
        "Context length": str(estimate["context_length"]),
        "Weights": size_text(estimate["weights_bytes"]),
        "KV cache": size_text(estimate["kv_cache_bytes"]),
        "GPU memory": size_text(estimate["gpu_bytes"]),
        "Total memory": size_text(estimate["total_bytes"]),
        "Verdict": f"would be refused: {refusal}" if refusal else "can be loaded",
    }
    for name, value in lines.items():
        typer.echo(f"{name + ':':<16}{value}")


def _follow(client: ServerClient, model: str, body: dict[str, Any]) -> dict[str, Any]:
    """Show a load as it goes on, and return what the server says of it in the end.

    Raises:
        ModelLoadError: it failed.
        ModelNotFoundError: there is no such model.
    """
    answer: dict[str, Any] | None = None
    try:
        with client.events("POST", "/api/v1/models/load", body=body) as events:
            for text in events:
                event = json.loads(text)
                if event["type"] == "model_load.progress":
                    show_load(model, event["progress"])
                elif event["type"] == "error":
                    raise _error_of(event["error"])
                elif event["type"] == "load.end":
                    answer = event["result"]
    finally:
        show_load(model, 1.0)
    if answer is None:
        message = f"the server ended the load of {model} without an answer"
        raise ModelLoadError(message)
    return answer


def _error_of(error: dict[str, Any]) -> Exception:
    kinds = {"model_not_found": ModelNotFoundError, "invalid_request": InvalidRequestError}
    return kinds.get(error["type"], ModelLoadError)(error["message"])
