"""Which models are served, and their engine processes: loads on the first request, reloads after a death."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from slipstream.base.errors import ClosedError, EngineDiedError, ModelNotFoundError, SlipstreamError
from slipstream.runtime.engine_process import EngineProcess, worker_command
from slipstream.runtime.served import ModelState, ModelStatus, ServedModel, served_models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slipstream.engine.client import EngineClient
    from slipstream.engine.stats import EngineStats

__all__ = ["ModelManager", "ModelState", "ModelStatus", "ServedModel", "served_models"]

_log = logging.getLogger(__name__)
_STATS_S = 1.0
_CLOSE_S = 3.5


@dataclass(slots=True, eq=False)
class _Slot:
    """What the manager knows of a served model."""

    model: ServedModel
    engine: EngineProcess | None = None
    load: asyncio.Task[EngineProcess] | None = None
    progress: float = 0.0
    num_loads: int = 0
    num_deaths: int = 0
    last_error: str | None = None

    def living_engine(self) -> EngineProcess | None:
        """Return the engine if it takes requests; note its death if it has just ended by itself."""
        if self.engine is not None and not self.engine.is_alive:
            self.engine = None
            self.num_deaths += 1
        return self.engine


class ModelManager:
    """Loads served models into engine processes and hands out their clients. Event loop only.

    Args:
        models: In the order given by the user; keys must be distinct.
        command: Makes the command line of an engine process; tests put another program there.
    """

    def __init__(
        self,
        models: Iterable[ServedModel],
        *,
        command: Callable[[int, int], list[str]] = worker_command,
    ) -> None:
        self._command = command
        self._slots: dict[str, _Slot] = {}
        for model in models:
            if model.key in self._slots:
                message = f"two served models have the key {model.key!r}"
                raise ValueError(message)
            self._slots[model.key] = _Slot(model)
        self._is_closed = False

    def list(self) -> list[ModelStatus]:
        """Return every served model, in the order they were given."""
        return [_status(slot) for slot in self._slots.values()]

    def resolve(self, name: str | None) -> str:
        """Return the key behind the model name of a request.

        An empty or missing name means the first loaded model, or the first served one while none is loaded.
        Any other name must be a key or an alias: an answer from another model than the one asked for helps nobody.

        Raises:
            ModelNotFoundError: an unknown name; the message lists the known ones.
        """
        slots = self._slots
        if not name:
            for key, slot in slots.items():
                if slot.living_engine() is not None:
                    return key
            for key in slots:
                return key
            message = "this server serves no model"
            raise ModelNotFoundError(message, param="model")
        if name in slots:
            return name
        for key, slot in slots.items():
            if name in slot.model.aliases:
                return key
        known = ", ".join(slots) or "none"
        message = f"there is no model {name[:200]!r} here; served models: {known}"
        raise ModelNotFoundError(message, param="model")

    async def client(self, name: str | None) -> EngineClient:
        """Return the engine of a model, loading it first if needed; calls at the same time share one load.

        Cancelling a call leaves the load running: others may wait for it, or the next request will.

        Raises:
            ModelNotFoundError: an unknown name.
            ModelLoadError: the load failed; the next call tries again.
            ClosedError: after close().
        """
        slot = self._slots[self.resolve(name)]
        return (await self._load(slot)).client

    async def load_all(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Load every served model, one after another.

        Args:
            progress: Called with the key and the fraction done, on the event loop.

        Raises:
            ModelLoadError: the first one that fails; the rest is left for the first request.
        """
        for key, slot in self._slots.items():
            await self._load(slot, partial(progress, key) if progress is not None else None)

    async def unload(self, name: str) -> None:
        """End a model's engine process; its running requests fail. Nothing happens if it is not loaded.

        Raises:
            ModelNotFoundError: an unknown name.
        """
        slot = self._slots[self.resolve(name)]
        await self._stop(slot)

    async def stats(self) -> dict[str, EngineStats]:
        """Return the figures of each loaded engine by key; one that does not answer within 1 s is left out."""
        engines = {key: slot.living_engine() for key, slot in self._slots.items()}
        asked = [(key, engine.client) for key, engine in engines.items() if engine is not None]
        answers = await asyncio.gather(*(_stats_of(client) for _, client in asked))
        return {key: stats for (key, _), stats in zip(asked, answers, strict=True) if stats}

    async def close(self) -> None:
        """Cancel loads, end every engine process. Takes at most about 4 s; idempotent."""
        self._is_closed = True
        engines = [slot.engine for slot in self._slots.values() if slot.engine is not None]
        stops = [asyncio.ensure_future(self._stop(slot)) for slot in self._slots.values()]
        if not stops:
            return
        _, late = await asyncio.wait(stops, timeout=_CLOSE_S)
        for stop in late:
            stop.cancel()
        for engine in engines:
            engine.kill()

    async def _load(
        self, slot: _Slot, progress: Callable[[float], None] | None = None
    ) -> EngineProcess:
        """Return the slot's engine, from the running load or a new one if there is none."""
        if self._is_closed:
            message = "the server is shutting down"
            raise ClosedError(message)
        engine = slot.living_engine()
        if engine is not None:
            return engine
        if slot.load is None:
            slot.load = asyncio.get_running_loop().create_task(self._start(slot, progress))
            slot.load.add_done_callback(partial(_load_done, slot))
        load = slot.load
        try:
            return await asyncio.shield(load)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if load.cancelled() and task is not None and not task.cancelling():
                message = "the load was cancelled because the model is unloaded or the server ends"
                raise ClosedError(message) from None
            raise

    async def _start(self, slot: _Slot, progress: Callable[[float], None] | None) -> EngineProcess:
        def note(fraction: float) -> None:
            slot.progress = fraction
            if progress is not None:
                progress(fraction)

        model = slot.model
        slot.progress = 0.0
        _log.info("%s: loading %s", model.key, model.path)
        engine = await EngineProcess.start(
            model.key,
            str(model.path),
            model.config,
            progress=note,
            on_lost=partial(_note_end, slot),
            command=self._command,
        )
        slot.engine = engine
        slot.num_loads += 1
        slot.last_error = None
        return engine

    async def _stop(self, slot: _Slot) -> None:
        load = slot.load
        if load is not None:
            load.cancel()
            await asyncio.wait({load})
        engine, slot.engine = slot.living_engine(), None  # what ends from here on is no death
        if engine is not None:
            await engine.terminate()


def _load_done(slot: _Slot, load: asyncio.Task[EngineProcess]) -> None:
    slot.load = None
    if load.cancelled():
        return
    error = load.exception()  # also marks it as seen if every waiter has gone
    if error is not None:
        slot.last_error = error.message if isinstance(error, SlipstreamError) else repr(error)
        _log.error("%s: %s", slot.model.key, slot.last_error)


def _note_end(slot: _Slot, how: str) -> None:
    if slot.living_engine() is None:
        _log.debug("%s: not loaded any more, its process %s", slot.model.key, how)


async def _stats_of(client: EngineClient) -> EngineStats | None:
    try:
        return await asyncio.wait_for(client.stats(), _STATS_S)
    except (EngineDiedError, TimeoutError):
        return None


def _status(slot: _Slot) -> ModelStatus:
    engine = slot.living_engine()
    try:
        created_s = int(slot.model.path.stat().st_mtime)
    except OSError:
        created_s = 0
    state = ModelState.LOADED if engine is not None else ModelState.NOT_LOADED
    if engine is None and slot.load is not None:
        state = ModelState.LOADING
    return ModelStatus(
        key=slot.model.key,
        path=str(slot.model.path),
        created_s=created_s,
        state=state,
        progress=slot.progress if state is ModelState.LOADING else float(engine is not None),
        info=engine.info if engine is not None else None,
        num_loads=slot.num_loads,
        num_deaths=slot.num_deaths,
        last_error=slot.last_error,
    )
