"""Plain values about served models: what was asked for and how it is doing. Knows no processes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.load_config import LoadConfig
from slipstream.base.types import ModelInstanceInfo
from slipstream.models.catalog import DEMO_NAME, resolve_model
from slipstream.models.model_info import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

_PART_SUFFIX = re.compile(r"-\d{5}-of-\d{5}$")


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model this server answers for.

    Attributes:
        key: What clients call it; the stem of the file, or `demo`.
        path: The file.
        config: How it is loaded.
        options: Fields of LoadConfig that were said of it: loads take them over the user's file of settings, and that
            over the defaults. None: it is loaded by `config` as it is.
        aliases: Further names it answers to: the name it was asked for with, its file name.
    """

    key: str
    path: Path
    config: LoadConfig = LoadConfig()
    options: dict[str, Any] | None = None
    aliases: tuple[str, ...] = ()


class ModelState(StrEnum):
    """Of an instance."""

    NOT_LOADED = "not-loaded"
    LOADING = "loading"
    LOADED = "loaded"


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance is doing.

    Attributes:
        key: Identifier of the instance: what requests call it.
        path: The file.
        created_s: Unix time of the file's last change; 0 if it is gone.
        state: Whether an engine process holds it.
        progress: Of the running load, 0 … 1.
        info: Of the loaded model.
        num_loads: Loads that succeeded since the server started.
        num_deaths: Engine processes that ended by themselves.
        last_error: Why the last load failed, None once one succeeded.
        config: How it is loaded.
        model: What the store says of it, None before it was asked.
        is_jit: It was loaded because a request named it.
        ttl_s: Seconds it may be idle, if said for it.
        num_requests: Those it has now, running or waiting.
        memory_bytes: Estimate of what it takes, 0 before a load.
    """

    key: str
    path: str
    created_s: int
    state: ModelState
    progress: float = 0.0
    info: ModelInstanceInfo | None = None
    num_loads: int = 0
    num_deaths: int = 0
    last_error: str | None = None
    config: LoadConfig = LoadConfig()
    model: ModelInfo | None = None
    is_jit: bool = False
    ttl_s: float | None = None
    num_requests: int = 0
    memory_bytes: int = 0


def served_models(
    names: Sequence[str], config: LoadConfig, options: dict[str, Any] | None = None
) -> list[ServedModel]:
    """Find the files behind the names a user gave and make distinct keys for them.

    The key is `demo`, or the stem of the file without its part number; a second one of the same key gets ":2".

    Args:
        names: As the user gave them.
        config: How they are loaded.
        options: See ServedModel.

    Raises:
        ModelNotFoundError: a name that is no model.
    """
    served: dict[str, ServedModel] = {}
    for name in names:
        path = resolve_model(name)
        stem = name if name == DEMO_NAME else _PART_SUFFIX.sub("", path.stem)
        key, number = stem, 1
        while key in served:
            number += 1
            key = f"{stem}:{number}"
        aliases = tuple(alias for alias in (name, path.name) if alias != key)
        served[key] = ServedModel(
            key=key, path=path, config=config, options=options, aliases=aliases
        )
    return list(served.values())
