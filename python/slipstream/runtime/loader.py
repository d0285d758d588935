"""Loads instances into engine processes and ends them: memory is checked first, what is ending has ended before."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from slipstream.base.errors import SlipstreamError
from slipstream.models.memory_estimate import estimate_load
from slipstream.runtime.engine_process import EngineProcess, worker_command
from slipstream.runtime.memory_guard import check_memory, machine_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from slipstream.models.memory_estimate import MemoryEstimate
    from slipstream.runtime.instance import Instance
    from slipstream.runtime.memory_guard import MachineMemory
    from slipstream.runtime.settings import ServerSettings

_log = logging.getLogger(__name__)


def estimate(instance: Instance) -> MemoryEstimate:
    """Estimate the memory of an instance; reads the header of its file."""
    model = instance.model
    rest = 0
    if instance.info is not None and instance.info.path == str(model.path):
        rest = max(instance.info.size_bytes - model.path.stat().st_size, 0)
    return estimate_load(model.path, rest, model.config)


class Loader:
    """Starts and ends the engine processes of instances. Event loop only.

    Args:
        instances: All there are, for the memory they hold.
        command: Makes the command line of an engine process.
        estimates: Says what an instance will take; runs in a thread.
        memory: Says what the machine has.
    """

    def __init__(
        self,
        instances: Iterable[Instance],
        *,
        command: Callable[[int, int], list[str]] = worker_command,
        estimates: Callable[[Instance], MemoryEstimate] = estimate,
        memory: Callable[[], MachineMemory] = machine_memory,
    ) -> None:
        self._instances = instances
        self._command = command
        self._estimates = estimates
        self._memory = memory
        self._endings: set[asyncio.Task[None]] = set()

    def begin(
        self, instance: Instance, settings: ServerSettings, *, force: bool, done: Callable[[], None]
    ) -> None:
        """Start loading, in a task that is `instance.load` until it ends.

        Args:
            instance: Neither loaded nor loading.
            settings: With the guardrails.
            force: Whatever the guardrails say.
            done: Called after the end of the load, however it ended.
        """
        instance.progress, instance.is_wanted, instance.estimate = 0.0, True, None
        instance.load = asyncio.get_running_loop().create_task(
            self._start(instance, settings, force=force)
        )
        instance.load.add_done_callback(partial(_load_done, instance, done))

    def end(self, instance: Instance) -> asyncio.Task[None]:
        """Cancel an instance's load or end its engine; its requests fail. At once no new one gets at it."""
        load, engine = instance.detach()
        task = asyncio.get_running_loop().create_task(_end(load, engine))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def estimate(self, instance: Instance) -> MemoryEstimate:
        """Return what an instance would take.

        Raises:
            ModelLoadError: its file cannot be read.
        """
        return await asyncio.to_thread(self._estimates, instance)

    def check(self, instance: Instance, wanted: MemoryEstimate, settings: ServerSettings) -> None:
        """Ask the guardrails.

        Raises:
            InsufficientMemoryError: they refuse it.
        """
        others = [one for one in self._instances if one is not instance and one.estimate]
        check_memory(
            instance.identifier,
            wanted,
            [one.estimate for one in others if one.estimate and one.living_engine() is not None],
            [one.estimate for one in others if one.estimate and one.load is not None],
            settings,
            self._memory(),
        )

    async def _start(
        self, instance: Instance, settings: ServerSettings, *, force: bool
    ) -> EngineProcess:
        while self._endings:
            await asyncio.wait(set(self._endings))
        model = instance.model
        _log.info("%s: loading %s", instance.identifier, model.path)
        engine = await EngineProcess.start(
            instance.identifier,
            str(model.path),
            model.config,
            before=partial(self._take_memory, instance, settings, force=force),
            progress=instance.note_progress,
            on_lost=partial(_note_end, instance),
            command=self._command,
        )
        instance.engine = engine
        instance.num_loads += 1
        instance.last_error = None
        return engine

    async def _take_memory(
        self, instance: Instance, settings: ServerSettings, *, force: bool
    ) -> None:
        """Note what an instance will take, if the guardrails let it."""
        try:
            wanted = await self.estimate(instance)
        except OSError as error:
            _log.debug("no estimate for %s: %s", instance.identifier, error)  # the engine tells why
            return
        if not force:  # without an await from here on, so the next load sees this one's
            self.check(instance, wanted, settings)
        instance.estimate = wanted


async def _end(load: asyncio.Task[EngineProcess] | None, engine: EngineProcess | None) -> None:
    if load is not None:
        load.cancel()
        await asyncio.wait({load})
        if not load.cancelled() and load.exception() is None:  # it had just come to its end
            engine = engine or load.result()
    if engine is not None:
        await engine.terminate()


def _load_done(
    instance: Instance, done: Callable[[], None], load: asyncio.Task[EngineProcess]
) -> None:
    instance.load = None
    if not load.cancelled():
        error = load.exception()  # also marks it as seen if every waiter has gone
        if error is not None:
            instance.last_error = (
                error.message if isinstance(error, SlipstreamError) else repr(error)
            )
            _log.error("%s: %s", instance.identifier, instance.last_error)
    done()
    instance.wake()


def _note_end(instance: Instance, how: str) -> None:
    if instance.living_engine() is None:
        _log.debug("%s: not loaded any more, its process %s", instance.identifier, how)
