"""Loads that somebody asks for: with progress, their own identifiers and options, and kept for the next server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace as _replace

from slipstream.base.errors import (
    InsufficientMemoryError,
    InvalidRequestError,
    ModelNotFoundError,
    SlipstreamError,
)
from slipstream.runtime.instance import Instance
from slipstream.runtime.kept_loads import KeptLoad
from slipstream.runtime.load_options import NO_OPTIONS, LoadOptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from slipstream.models.memory_estimate import MemoryEstimate
    from slipstream.runtime.instances import Instances
    from slipstream.runtime.kept_loads import KeptLoads
    from slipstream.runtime.lifetimes import Lifetimes
    from slipstream.runtime.load_planner import LoadPlanner
    from slipstream.runtime.loader import Loader
    from slipstream.runtime.settings import ServerSettings

_log = logging.getLogger(__name__)


class HandLoads:
    """A part of ModelManager, which makes it. Event loop only.

    Args:
        instances: All there are.
        planner: Says how a model is loaded.
        loader: Knows what fits.
        lifetimes: Ends what is given up.
        begin: Starts the load of an instance.
        current: The settings of the moment.
        kept: Remembers what is loaded, for the next server; None for nobody.
    """

    def __init__(
        self,
        instances: Instances,
        planner: LoadPlanner,
        loader: Loader,
        lifetimes: Lifetimes,
        begin: Callable[..., None],
        current: Callable[[], ServerSettings],
        kept: KeptLoads | None,
    ) -> None:
        self._instances = instances
        self._planner = planner
        self._loader = loader
        self._lifetimes = lifetimes
        self._begin = begin
        self._current = current
        self._kept = kept
        self._restoring: asyncio.Task[None] | None = None
        self._is_closed = False
        lifetimes.on_drop = self._forget

    async def load(
        self,
        name: str,
        options: LoadOptions = NO_OPTIONS,
        *,
        identifier: str | None = None,
        force: bool = False,
    ) -> AsyncGenerator[tuple[str, float], None]:
        """Load another instance of a model, which stays until it is unloaded. Closing this early cancels the load.

        Args:
            name: See `ModelManager.resolve`; that of an instance means its model.
            options: How to load it, and how long it may be idle.
            identifier: What requests call it; by default the model's key, with ":2" and so on if that is taken.
            force: Whatever the guardrails say.

        Yields:
            (identifier, fraction done); the fractions rise to 1.0.

        Raises:
            ModelNotFoundError: an unknown name.
            InvalidRequestError: the identifier is taken, or a setting is out of its range.
            ModelLoadError: the load failed; nothing is left of it.
        """
        served, model, found = await self._planner.plan(name, options)
        if found is not None and found.is_free and identifier is None:
            instance = found
            instance.model = _replace(found.model, config=served.config, options=None)
            instance.ttl_s = options.ttl_s
        else:
            identifier = self._instances.free_identifier(served.key, identifier)
            instance = Instance(identifier, served, model, ttl_s=options.ttl_s)
            self._instances.add(instance)
        self._begin(instance, force=force)
        waiter = instance.waiter()
        try:
            async for fraction in instance.follow():
                yield instance.identifier, fraction
            await waiter
            self._keep(instance, options)
        except (GeneratorExit, asyncio.CancelledError):
            if instance.load is not None and instance.num_waiters <= 1:  # nobody but this call
                self._lifetimes.drop(instance, "the load was cancelled")
            raise

    async def estimate(
        self, name: str, options: LoadOptions = NO_OPTIONS
    ) -> tuple[str, MemoryEstimate, str | None]:
        """Return what a load would take: the model's key, the estimate, and why guardrails would refuse it, if so.

        Raises:
            ModelNotFoundError, InvalidRequestError: as `load`.
            ModelLoadError: its file cannot be read.
        """
        served, model, _found = await self._planner.plan(name, options)
        instance = Instance(served.key, served, model)
        wanted = await self._loader.estimate(instance)
        try:
            self._loader.check(instance, wanted, self._current())
        except InsufficientMemoryError as error:
            return instance.model.key, wanted, error.message
        return instance.model.key, wanted, None

    def take_over(self, *, restore: bool = True) -> None:
        """Go on from what was loaded by hand when the last server ended.

        Args:
            restore: Begin to load it, one after another; else it is only remembered for the next server.
        """
        loads = self._kept.take_over() if self._kept is not None else []
        if loads and restore:
            self._restoring = asyncio.get_running_loop().create_task(self._restore(loads))

    async def close(self) -> None:
        """Stop restoring and forget nothing from here on; wait for the file. Idempotent."""
        self._is_closed = True
        if self._restoring is not None:
            self._restoring.cancel()
        if self._kept is not None:
            await self._kept.close()

    async def _restore(self, loads: Sequence[KeptLoad]) -> None:
        for load in loads:
            there = self._instances.known(load.identifier)
            if there is not None:  # a request was faster
                there.is_jit, there.ttl_s = False, load.ttl_s
                continue
            options = LoadOptions(config=load.config, ttl_s=load.ttl_s)
            try:
                async for _ in self.load(load.model, options, identifier=load.identifier):
                    pass
            except SlipstreamError as error:
                _log.error("%s is not loaded again: %s", load.identifier, error)
                # What may pass, such as memory that others hold just now, costs this server the model, not the next.
                is_lasting = isinstance(error, (ModelNotFoundError, InvalidRequestError))
                if self._kept is not None and is_lasting:
                    self._kept.drop(load.identifier)

    def _keep(self, instance: Instance, options: LoadOptions) -> None:
        """Have the next server load an instance again, if its model has a name there."""
        is_there = self._instances.known(instance.identifier) is instance
        if self._kept is None or instance.is_pinned or instance.info is None or not is_there:
            return
        load = KeptLoad(
            identifier=instance.identifier,
            model=instance.model.key,
            config=options.config,
            ttl_s=options.ttl_s,
        )
        self._kept.add(load)

    def _forget(self, instance: Instance) -> None:
        if not instance.is_jit and not self._is_closed:
            self.forget(instance)

    def forget(self, instance: Instance) -> None:
        """Have the next server load an instance no more, whoever loaded it here."""
        if self._kept is not None and not instance.is_pinned:
            self._kept.drop(instance.identifier)
