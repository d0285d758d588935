"""Which models are served, and their engine processes: loads on the first request, reloads after a death."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from slipstream.base.types import LoadConfig, ModelInstanceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slipstream.engine.client import EngineClient
    from slipstream.engine.stats import EngineStats


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model this server answers for.

    Attributes:
        key: What clients call it; the stem of the file, or `demo`.
        path: The file.
        config: How it is loaded.
        aliases: Further names it answers to: the name it was asked for with, its file name.
    """

    key: str
    path: Path
    config: LoadConfig = LoadConfig()
    aliases: tuple[str, ...] = ()


class ModelState(StrEnum):
    """Of a served model."""

    NOT_LOADED = "not-loaded"
    LOADING = "loading"
    LOADED = "loaded"


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a served model is doing.

    Attributes:
        key: See ServedModel.
        path: The file.
        created_s: Unix time of the file's last change; 0 if it is gone.
        state: Whether an engine process holds it.
        progress: Of the running load, 0 … 1.
        info: Of the loaded model.
        num_loads: Loads that succeeded since the server started.
        num_deaths: Engine processes that ended by themselves.
        last_error: Why the last load failed, None once one succeeded.
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


def served_models(names: Sequence[str], config: LoadConfig) -> list[ServedModel]:
    """Find the files behind the names a user gave and make distinct keys for them.

    Raises:
        ModelNotFoundError: a name that is no model.
    """
    raise NotImplementedError


class ModelManager:
    """Loads served models into engine processes and hands out their clients. Event loop only.

    Args:
        models: In the order given by the user; keys must be distinct.
    """

    def __init__(self, models: Iterable[ServedModel]) -> None:
        raise NotImplementedError

    def list(self) -> list[ModelStatus]:
        """Return every served model, in the order they were given."""
        raise NotImplementedError

    def resolve(self, name: str | None) -> str:
        """Return the key behind the model name of a request.

        An empty or missing name means the first loaded model, or the first served one while none is loaded.

        Raises:
            ModelNotFoundError: an unknown name; the message lists the known ones.
        """
        raise NotImplementedError

    async def client(self, name: str | None) -> EngineClient:
        """Return the engine of a model, loading it first if needed; calls at the same time share one load.

        Raises:
            ModelNotFoundError: an unknown name.
            ModelLoadError: the load failed; the next call tries again.
            ClosedError: after close().
        """
        raise NotImplementedError

    async def load_all(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Load every served model, one after another.

        Args:
            progress: Called with the key and the fraction done, on the event loop.

        Raises:
            ModelLoadError: the first one that fails; the rest is left for the first request.
        """
        raise NotImplementedError

    async def unload(self, name: str) -> None:
        """End a model's engine process; its running requests fail. Nothing happens if it is not loaded."""
        raise NotImplementedError

    async def stats(self) -> dict[str, EngineStats]:
        """Return the figures of each loaded engine by key; one that does not answer within 1 s is left out."""
        raise NotImplementedError

    async def close(self) -> None:
        """Cancel loads, end every engine process. Takes at most about 3 s; idempotent."""
        raise NotImplementedError
