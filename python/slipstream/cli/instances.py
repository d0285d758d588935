"""`slipstream ps`, `load` and `unload`: the loaded models of a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.errors import InvalidRequestError, ModelLoadError, ModelNotFoundError
from slipstream.base.limits import MAX_CONTEXT_LENGTH, MAX_PARALLEL
from slipstream.cli.options import JsonOption, UrlOption
from slipstream.cli.terminal import can_ask, pick, print_json, print_table, size_text

if TYPE_CHECKING:
    from slipstream.cli.server_client import ServerClient


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
    model: Annotated[
        str | None,
        typer.Argument(help="Key of a model; see `slipstream ls`. Asked for on a terminal."),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option("--context-length", "-c", min=1, max=MAX_CONTEXT_LENGTH, help="In tokens."),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=MAX_PARALLEL, help="Requests at the same time.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="On the GPU: `off`, `max`, a share of the layers from 0 to 1, or from 2 on their number.",
        ),
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
        "draft_model": draft_model,
        **({} if gpu is None else _on_gpu(gpu)),
    }
    with started_server(url) as client:
        if model is None:
            body["model"] = model = _choose_model(client)
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

    if everything and identifier is not None:
        message = "give the identifier of an instance, or --all"
        raise typer.BadParameter(message)
    with need_server(url) as client:
        wanted = [identifier]
        if identifier is None:
            loaded = [one["id"] for one in _loaded(client)]
            wanted = loaded if everything or not loaded else [_choose("unload", loaded, loaded)]
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


def _on_gpu(gpu: str) -> dict[str, Any]:
    """Return the fields of a load for `--gpu`: as in LM Studio 1 is all of the model, not one layer."""
    if gpu in ("off", "max"):
        return {"gpu_layers": {"off": 0, "max": -1}[gpu]}
    if gpu.isascii() and gpu.isdigit() and 2 <= int(gpu) < 2**31:
        return {"gpu_layers": int(gpu)}
    try:
        ratio = float(gpu)
    except ValueError:
        ratio = -1.0
    if 0 <= ratio <= 1:
        return {"gpu_ratio": ratio}
    message = f"{gpu!r} must be `off`, `max`, a share from 0 to 1, or a number of layers"
    raise typer.BadParameter(message, param_hint="--gpu")


def _choose_model(client: ServerClient) -> str:
    """Ask which model of the server to load."""
    models = client.get("/api/v1/models")["models"]
    if not models:
        message = "there are no models here; `slipstream get` brings one"
        raise ModelNotFoundError(message)
    keys = [key for model in models for key in model.get("variants") or [model["key"]]]
    sizes = {model["key"]: f"  {size_text(model['size_bytes'])}" for model in models}
    return _choose("load", keys, [key + sizes.get(key, "") for key in keys])


def _choose(what: str, names: list[str], lines: list[str]) -> str:
    """Return one of the names, asked for on a terminal; the only one is taken without a question.

    Raises:
        InvalidRequestError: nobody can answer.
    """
    if len(names) == 1:
        return names[0]
    if not can_ask():
        message = f"say what to {what}: {', '.join(names[:20])}"
        raise InvalidRequestError(message)
    for number, line in enumerate(lines, 1):
        typer.echo(f"{number:>3}  {line}", err=True)
    return names[pick(f"which one to {what}", len(names))]


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
    from slipstream.cli.progress import load_bar

    answer: dict[str, Any] | None = None
    with (
        load_bar(model) as show,
        client.events("POST", "/api/v1/models/load", body=body) as events,
    ):
        for text in events:
            event = json.loads(text)
            if event["type"] == "model_load.progress":
                show(event["progress"])
            elif event["type"] == "error":
                raise _error_of(event["error"])
            elif event["type"] == "load.end":
                answer = event["result"]
    if answer is None:
        message = f"the server ended the load of {model} without an answer"
        raise ModelLoadError(message)
    return answer


def _error_of(error: dict[str, Any]) -> Exception:
    kinds = {"model_not_found": ModelNotFoundError, "invalid_request": InvalidRequestError}
    return kinds.get(error["type"], ModelLoadError)(error["message"])
