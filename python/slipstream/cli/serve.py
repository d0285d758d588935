"""`slipstream serve`: the HTTP server. This process never imports the native core; each model has its own process."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream import __version__
from slipstream.base.limits import (
    MAX_CONTEXT_LENGTH,
    MAX_PARALLEL,
    MAX_THREADS,
    SPECULATION_MODES,
    VERIFY_MODES,
)
from slipstream.cli.options import CorsOption, HostOption, PortOption, is_given
from slipstream.cli.terminal import show_load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.runtime.model_manager import ServedModel

_log = logging.getLogger(__name__)


def serve(
    context: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Paths of .gguf files, or `demo`; the first one answers requests that name no model. "
            "Without any: `demo`.",
        ),
    ] = None,
    host: HostOption = None,
    port: PortOption = None,
    context_length: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_CONTEXT_LENGTH,
            help="Tokens a model's KV cache holds, shared by its requests; 0: the model's own, at most 8192.",
        ),
    ] = 0,
    parallel: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_PARALLEL, help="Requests a model answers at the same time; others wait."
        ),
    ] = 8,
    threads: Annotated[
        int,
        typer.Option(min=0, max=MAX_THREADS, help="CPU threads of a model; 0: the physical cores."),
    ] = 0,
    adapt_threads: Annotated[
        bool,
        typer.Option(
            help="Fewer threads while other programs take the cores and fewer are quicker."
        ),
    ] = True,
    huge_pages: Annotated[
        bool,
        typer.Option(
            help="Copy mapped weights into huge pages, arranged for the kernels, if memory is ample."
        ),
    ] = True,
    step_target_ms: Annotated[
        int,
        typer.Option(
            min=0,
            max=3_600_000,
            help="While answers stream, prompts are computed in pieces of about so long a step; 0: in the largest.",
        ),
    ] = 200,
    speculation: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="Where drafts come from, as far as they pay: ngram (a request's own text), draft (the draft model), "
            "auto (both) or off. Same output.",
        ),
    ] = "auto",
    draft_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A smaller model that guesses ahead for every model served."
        ),
    ] = None,
    projector: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File that turns images into what the model computes (mmproj); by default the one beside the model. "
            "'' takes no images.",
        ),
    ] = None,
    verify: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="exact: token for token as without drafts. distribution: drafts drawn at random and judged by "
            "rejection sampling.",
        ),
    ] = "exact",
    share_ngrams: Annotated[
        bool, typer.Option(help="Draft from what earlier requests were answered, too.")
    ] = False,
    prompt_cache: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder that keeps cached prompts across restarts. It holds what prompts said.",
        ),
    ] = None,
    prompt_cache_ram: Annotated[
        int,
        typer.Option(
            metavar="MIB",
            min=0,
            max=2**30,
            help="Host memory of each model for prompts that lost their place in its KV cache; 0: none.",
        ),
    ] = 512,
    prompt_cache_disk: Annotated[
        int,
        typer.Option(metavar="MIB", min=1, max=2**30, help="Most of the folder for each model."),
    ] = 4096,
    repack: Annotated[
        bool | None,
        typer.Option(
            help="Let ggml re-arrange weights for this CPU: a copy; on x86 our kernels are quicker. Default: with "
            "--parallel 1 on other CPUs.",
        ),
    ] = None,
    cors: CorsOption = None,
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")
    ] = "info",
    no_load: Annotated[
        bool,
        typer.Option(
            "--no-load",
            help="Name none: those loaded by hand before are loaded again.",
        ),
    ] = False,
    restore: Annotated[
        bool | None,
        typer.Option(
            help="With --no-load: load again what was loaded by hand before. Default: the setting."
        ),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(help="Write the log there instead of stderr; it is kept below 30 MB."),
    ] = None,
) -> None:
    """Serve models over HTTP until Ctrl-C."""
    from slipstream.base import log
    from slipstream.base.load_config import LoadConfig

    try:
        log.configure(log_level, log_file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--log-level") from None
    from msgspec.structs import replace

    from slipstream.models.catalog import resolve_model
    from slipstream.runtime.access import Access
    from slipstream.runtime.kept_loads import KeptLoads
    from slipstream.runtime.model_manager import ModelManager, served_models
    from slipstream.runtime.server_record import claim
    from slipstream.runtime.settings_store import SettingsStore
    from slipstream.runtime.tokens import TokenStore
    from slipstream.server.serve import run

    overrides = given_settings(host, port, cors)
    if restore is not None:
        overrides["restore_models"] = restore
    store = SettingsStore(overrides=overrides)
    for option, value, choices in (
        ("--speculation", speculation, SPECULATION_MODES),
        ("--verify", verify, VERIFY_MODES),
    ):
        if value not in choices:
            message = f"{value!r} is not one of {', '.join(choices)}"
            raise typer.BadParameter(message, param_hint=option)
    if speculation == "draft" and draft_model is None:
        message = "'draft' needs --draft-model"
        raise typer.BadParameter(message, param_hint="--speculation")
    values: dict[str, Any] = {
        "context_length": context_length,
        "parallel": parallel,
        "threads": threads,
        "adapt_threads": adapt_threads,
        "huge_pages": huge_pages,
        "step_target_ms": step_target_ms,
        "speculation": speculation,
        "draft_model": str(resolve_model(draft_model)) if draft_model else None,
        "projector": projector,
        "verify": verify,
        "share_ngrams": share_ngrams,
        "prompt_cache": prompt_cache,
        "prompt_cache_mib": prompt_cache_ram,
        "prompt_cache_disk_mib": prompt_cache_disk,
        "repack": repack,
    }
    config = LoadConfig(**values)
    # What is said here goes over the user's file of settings by model; what is not, below it.
    names = {"prompt_cache_mib": "prompt_cache_ram", "prompt_cache_disk_mib": "prompt_cache_disk"}
    given = {name: v for name, v in values.items() if is_given(context, names.get(name, name))}
    served = served_models(models or ([] if no_load else ["demo"]), config, given)
    store.mend()
    settings = store.current()
    # A draft model is for the models named here; those loaded later need not have its vocabulary.
    others = replace(
        config, draft_model=None, speculation="auto" if speculation == "draft" else speculation
    )
    hold = claim(__version__)
    kept = KeptLoads() if hold is not None else None
    manager = ModelManager(served, current=store.current, config=others, kept=kept)
    if hold is None:
        _log.warning("another server of this user runs: ps, load and the like speak to that one")
    access = Access(TokenStore(), hold.record.key if hold else None)

    async def load() -> None:
        if not no_load:
            await manager.load_all(show_load)

    def ready(url: str) -> None:
        if hold is not None:
            hold.publish(url, settings.port)
        _print_ready(url, served)
        manager.by_hand.take_over(restore=not served and settings.restore_models)

    try:
        run(manager, settings, current=store.current, access=access, before=load, on_ready=ready)
    finally:
        if hold is not None:
            hold.release()


def given_settings(host: str | None, port: int | None, cors: list[str] | None) -> dict[str, Any]:
    """Return the settings that options give, by name."""
    given = {"host": host, "port": port, "cors_origins": tuple(cors) if cors else None}
    return {name: value for name, value in given.items() if value is not None}


def _print_ready(url: str, served: Sequence[ServedModel]) -> None:
    if not served:
        typer.echo(f"Slipstream serves the models of `slipstream ls` on {url} (Ctrl-C stops it).")
        sys.stdout.flush()
        return
    keys = ", ".join(model.key for model in served)
    body = {"model": served[0].key, "messages": [{"role": "user", "content": "Say hello."}]}
    typer.echo(f"Slipstream serves {keys} on {url} (Ctrl-C stops it). Try:")
    typer.echo(
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )
    sys.stdout.flush()
