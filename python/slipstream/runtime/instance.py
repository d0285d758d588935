"""One loaded copy of a model, from the wish for it to its end: engine, load under way, use. Event loop only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipstream.base.errors import ModelUnloadedError
from slipstream.runtime.served import ModelState, ModelStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from slipstream.models.memory_estimate import MemoryEstimate
    from slipstream.models.model_info import ModelInfo
    from slipstream.runtime.engine_process import EngineProcess
    from slipstream.runtime.served import ServedModel

_OUTDATED_S = 1.0  # what is to make room may still get the request it was loaded for


@dataclass(slots=True, eq=False)
class Instance:
    """What the manager knows of an instance.

    Attributes:
        identifier: What requests call it.
        model: What it is a copy of, and how it is loaded.
        info: Of the store, None for a file that was named on the command line and not described yet.
        is_pinned: Named on the command line: listed when it is not loaded, too, and never unloaded by the manager.
        is_jit: Loaded because a request named it; such instances make room for each other.
        is_wanted: Should be loaded, so that a request loads it again after a death.
        is_outdated: Another one was loaded in its place; it goes when its requests have ended.
        ttl_s: Seconds it may be idle, if said for this instance.
        estimate: Memory it takes, once a load has begun.
        last_used_s: When its last request began or ended, by the manager's clock.
        num_waiters: Callers that wait for its load.
    """

    identifier: str
    model: ServedModel
    info: ModelInfo | None = None
    is_pinned: bool = False
    is_jit: bool = False
    is_wanted: bool = True
    is_outdated: bool = False
    ttl_s: float | None = None
    estimate: MemoryEstimate | None = None
    engine: EngineProcess | None = None
    load: asyncio.Task[EngineProcess] | None = None
    progress: float = 0.0
    num_loads: int = 0
    num_deaths: int = 0
    last_error: str | None = None
    last_used_s: float = 0.0
    num_waiters: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def living_engine(self) -> EngineProcess | None:
        """Return the engine if it takes requests; note its death if it has just ended by itself."""
        if self.engine is not None and not self.engine.is_alive:
            self.engine = None
            self.num_deaths += 1
        return self.engine

    @property
    def is_free(self) -> bool:
        """Whether it is one of the command line that waits to be loaded."""
        return self.is_pinned and self.load is None and self.living_engine() is None

    @property
    def is_busy(self) -> bool:
        """Whether it has requests, or a load under way."""
        engine = self.living_engine()
        return self.load is not None or (engine is not None and engine.client.num_requests > 0)

    def idle_deadline(self, jit_ttl_s: float | None) -> float | None:
        """Return when it may be unloaded if nothing comes, None for never or while it works.

        Args:
            jit_ttl_s: Of the settings, for instances loaded on request without a word on it.
        """
        if self.is_pinned or self.engine is None or self.is_busy:
            return None
        ttl_s = self.ttl_s
        if self.is_outdated:
            ttl_s = _OUTDATED_S
        elif ttl_s is None and self.is_jit:
            ttl_s = jit_ttl_s
        return None if ttl_s is None else self.last_used_s + ttl_s

    def note_progress(self, fraction: float) -> None:
        """Note how far the load is, and wake who follows it."""
        self.progress = max(self.progress, fraction)
        self.wake()

    def wake(self) -> None:
        """Wake who follows the load."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self) -> AsyncGenerator[float, None]:
        """Yield how far the load under way is, rising; 1.0 at last if it succeeds."""
        told = -1.0
        while self.load is not None:
            changed = self._changed
            if self.progress > told:
                told = self.progress
                yield told
            else:
                await changed.wait()
        if told < 1.0 and self.living_engine() is not None:
            yield 1.0

    async def wait(self) -> EngineProcess:
        """Wait for the load under way. Cancelling the caller leaves it running.

        Raises:
            ModelUnloadedError: the load was cancelled by somebody else.
            SlipstreamError: what it failed with.
        """
        load = self.load
        if load is None:
            assert self.engine is not None
            return self.engine
        self.num_waiters += 1
        try:
            return await asyncio.shield(load)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if load.cancelled() and task is not None and not task.cancelling():
                message = "the load was cancelled because the model is unloaded or the server ends"
                raise ModelUnloadedError(message) from None
            raise
        finally:
            self.num_waiters -= 1

    def waiter(self) -> asyncio.Task[EngineProcess]:
        """Return a task that does what `wait` does; nobody need look at its end."""
        task = asyncio.get_running_loop().create_task(self.wait())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def detach(self) -> tuple[asyncio.Task[EngineProcess] | None, EngineProcess | None]:
        """Take load and engine away, for their end: no request gets at them any more, and no death is counted."""
        load, engine = self.load, self.living_engine()
        self.engine, self.is_wanted = None, False
        return load, engine

    def status(self) -> ModelStatus:
        """Return how it is doing."""
        engine = self.living_engine()
        state = ModelState.LOADED if engine is not None else ModelState.NOT_LOADED
        if engine is None and self.load is not None:
            state = ModelState.LOADING
        try:
            created_s = int(self.model.path.stat().st_mtime)
        except OSError:
            created_s = 0
        return ModelStatus(
            key=self.identifier,
            path=str(self.model.path),
            created_s=created_s,
            state=state,
            progress=self.progress if state is ModelState.LOADING else float(engine is not None),
            info=engine.info if engine is not None else None,
            num_loads=self.num_loads,
            num_deaths=self.num_deaths,
            last_error=self.last_error,
            config=self.model.config,
            model=self.info,
            is_jit=self.is_jit,
            ttl_s=self.ttl_s,
            num_requests=engine.client.num_requests if engine is not None else 0,
            memory_bytes=self.estimate.total_bytes if self.estimate is not None else 0,
        )
