"""Has models loaded that requests name, and unloads what nobody uses. Knows no HTTP.

by hand     loaded by `load`, or named on the command line: stays until it is unloaded, or for a TTL of its own
on request  (just in time) loaded because a request named it: goes when it was idle for the TTL, and when another
one is loaded so
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as _replace

from slipstream.base.errors import (
    ClosedError,
    EngineDiedError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnloadedError,
)
from slipstream.base.load_config import LoadConfig
from slipstream.runtime.hand_loads import HandLoads
from slipstream.runtime.instance import Instance
from slipstream.runtime.instances import Instances
from slipstream.runtime.library import Library
from slipstream.runtime.lifetimes import Lifetimes
from slipstream.runtime.load_options import NO_OPTIONS, LoadOptions, ModelDefaults, make_config
from slipstream.runtime.load_planner import LoadPlanner
from slipstream.runtime.loader import Loader
from slipstream.runtime.served import ModelState, ModelStatus, ServedModel, served_models
from slipstream.runtime.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slipstream.engine.client import EngineClient
    from slipstream.engine.stats import EngineStats
    from slipstream.models.model_info import ModelInfo
    from slipstream.runtime.kept_loads import KeptLoads

__all__ = ["ModelManager", "ModelState", "ModelStatus", "ServedModel", "served_models"]

_STATS_S = 1.0
_CLOSE_S = 3.5


class ModelManager:
    """Loads models into engine processes and hands out their clients. Event loop only.

    Attributes:
        by_hand: Loads that somebody asks for by themselves.

    Args:
        models: Named on the command line, in the order given; keys must be distinct.
        current: The settings of the moment; the defaults if not given.
        config: What loads of other models begin with.
        library: The store; its models are loaded on request.
        defaults: The user's file of settings by model.
        kept: Remembers what is loaded by hand, for the next server.
        clock: Seconds, monotonic.
        loader: Arguments of Loader; tests put other programs and machines there.
    """

    def __init__(
        self,
        models: Iterable[ServedModel] = (),
        *,
        current: Callable[[], ServerSettings] = ServerSettings,
        config: LoadConfig | None = None,
        library: Library | None = None,
        defaults: ModelDefaults | None = None,
        kept: KeptLoads | None = None,
        clock: Callable[[], float] = time.monotonic,
        **loader: Any,
    ) -> None:
        self._current = current
        library = library or Library()
        self._instances = Instances(models, library)
        self._planner = LoadPlanner(
            self._instances, library, defaults or ModelDefaults(), config or LoadConfig()
        )
        self._loader = Loader(self._instances, **loader)
        self._lifetimes = Lifetimes(self._instances, self._loader, lambda: self.settings, clock)
        self.by_hand = HandLoads(
            self._instances,
            self._planner,
            self._loader,
            self._lifetimes,
            self._begin,
            lambda: self.settings,
            kept,
        )
        self._is_closed = False

    @property
    def settings(self) -> ServerSettings:
        """The settings of the moment."""
        return self._current()

    # --- what there is ------------------------------------------------------------------------------------------

    def list(self) -> list[ModelStatus]:
        """Return every instance: those of the command line in their order, then the others."""
        return [instance.status() for instance in self._instances]

    def status(self, identifier: str) -> ModelStatus:
        """Return one instance.

        Raises:
            ModelNotFoundError: there is none of that identifier.
        """
        return self._instances.get(identifier).status()

    async def models(self) -> Sequence[ModelInfo]:
        """Return what can be loaded: models of the store that are not broken, then instances of other files."""
        return await self._instances.models()

    async def describe(self, name: str) -> ModelInfo:
        """Return what the store says of the model a name means.

        Raises:
            ModelNotFoundError: an unknown name.
        """
        found = await self._instances.find(name)
        return await self._instances.describe(found) if isinstance(found, Instance) else found

    async def resolve(self, name: str | None) -> str:
        """Return the identifier of the instance that answers for the model name of a request.

        An empty or missing name means the first loaded instance, or the first one of the command line while none is
        loaded. Any other name must be an identifier, an alias, or a name of the store (`ModelStore.find`), which need
        not be loaded: an answer from another model than the one asked for helps nobody.

        Raises:
            ModelNotFoundError: an unknown name, or a model that is not loaded while loading on request is off.
        """
        found = self._instances.known(name) or await self._instances.find(name or "")
        if isinstance(found, Instance):
            if not (found.is_wanted or self.settings.jit):
                raise _not_loaded(found.identifier)
            return found.identifier
        key = await self._instances.key_of(found)
        if not self.settings.jit:
            raise _not_loaded(key)
        return key

    # --- loading ------------------------------------------------------------------------------------------------

    async def client(self, name: str | None, options: LoadOptions = NO_OPTIONS) -> EngineClient:
        """Return the engine of a model, loading it first if needed; calls at the same time share one load.

        Cancelling a call leaves the load running: others may wait for it, or the next request will. The engine counts
        as used from here on for a moment only: submit to it without an await between.

        Args:
            name: See `resolve`.
            options: For a load. An instance loaded on request with less context than they say, or another draft model,
                is loaded again if it is idle.

        Raises:
            ModelNotFoundError: see `resolve`.
            ModelLoadError: the load failed; the next call tries again.
            InvalidRequestError: the instance was loaded otherwise than `options` say.
            ClosedError: after close(); ModelUnloadedError: it was unloaded meanwhile.
        """
        instance = self._instances.known(name)
        if instance is None or options.config or instance.living_engine() is None:
            instance = await self._ready(name, options)
        engine = instance.living_engine()
        if engine is None:
            message = f"{instance.identifier} was unloaded just now; send the request again"
            raise ModelUnloadedError(message)
        self._lifetimes.touch(instance)
        return engine.client

    async def load_all(self, progress: Callable[[str, float], None] | None = None) -> None:
        """Load every model of the command line, one after another.

        Args:
            progress: Called with the identifier and the fraction done, on the event loop.

        Raises:
            ModelLoadError: the first one that fails; the rest is left for the first request.
        """
        for instance in self._instances:
            await self._configure(instance)
            self._begin(instance)
            waiter = instance.waiter()
            async for fraction in instance.follow():
                if progress is not None:
                    progress(instance.identifier, fraction)
            await waiter

    async def unload(self, name: str) -> str:
        """End an instance, or the load of it; its running requests fail. Returns its identifier.

        Raises:
            ModelNotFoundError: there is none of that identifier or alias.
        """
        instance = self._instances.known(name) if name else None
        if instance is None:
            instance = self._instances.get(name)
        self.by_hand.forget(instance)
        await asyncio.shield(self._lifetimes.drop(instance, "unloaded"))
        return instance.identifier

    def unload_idle(self) -> None:
        """Unload what was idle for too long; a timer does it, too."""
        self._lifetimes.unload_idle()

    async def stats(self) -> dict[str, EngineStats]:
        """Return the figures of each loaded engine by identifier; one that does not answer within 1 s is left out."""
        engines = {one.identifier: one.living_engine() for one in self._instances}
        asked = [(name, engine.client) for name, engine in engines.items() if engine is not None]
        answers = await asyncio.gather(*(_stats_of(client) for _, client in asked))
        return {name: stats for (name, _), stats in zip(asked, answers, strict=True) if stats}

    async def close(self) -> None:
        """Cancel loads, end every engine process. Takes at most about 4 s; idempotent."""
        self._is_closed = True
        self._lifetimes.close()
        await self.by_hand.close()
        engines = [one.engine for one in self._instances if one.engine is not None]
        stops = [self._loader.end(instance) for instance in self._instances]
        if not stops:
            return
        _, late = await asyncio.wait(stops, timeout=_CLOSE_S)
        for stop in late:
            stop.cancel()
        for engine in engines:
            engine.kill()

    # --- inside -------------------------------------------------------------------------------------------------

    async def _ready(self, name: str | None, options: LoadOptions) -> Instance:
        """Return an instance for a request, loaded as `options` say."""
        found = self._instances.known(name) or await self._instances.find(name or "")
        if not isinstance(found, Instance):
            found = await self._jit_instance(name or "", found, options)
        elif found.living_engine() is None and found.load is None:
            if not (found.is_wanted or self.settings.jit):
                raise _not_loaded(found.identifier)
            await self._configure(found)
            self._begin(found)
        if found.living_engine() is None:
            await found.wait()
        if options.config:
            await self._adapt(found, options)
        return found

    async def _jit_instance(self, name: str, model: ModelInfo, options: LoadOptions) -> Instance:
        if not self.settings.jit:
            raise _not_loaded(model.key)
        key = await self._instances.key_of(model)
        config = await self._planner.configure(key, model, options)
        known = self._instances.known(key) or await self._instances.find(name)
        if isinstance(known, Instance):  # somebody was faster
            if known.living_engine() is None and known.load is None:
                await self._configure(known)
                self._begin(known)
            return known
        served = ServedModel(key=key, path=Path(model.path), config=config)
        instance = Instance(key, served, model, is_jit=True, ttl_s=options.ttl_s)
        self._instances.add(instance)
        if self.settings.auto_evict:
            self._lifetimes.make_room(instance)
        self._begin(instance)
        return instance

    async def _adapt(self, instance: Instance, options: LoadOptions) -> None:
        """Load an instance again if a request needs what it was not loaded with."""
        config, engine = instance.model.config, instance.living_engine()
        wanted = await self._planner.with_draft_path(options.config)
        context_length = wanted.get("context_length", 0)
        others = {name: v for name, v in wanted.items() if name != "context_length"}
        has_context = engine is not None and engine.info.context_length >= context_length
        if has_context and all(getattr(config, name) == value for name, value in others.items()):
            return
        if instance.is_busy or not instance.is_jit:
            name = "context_length" if not has_context else next(iter(others))
            message = (
                f"{instance.identifier} is loaded with {name} {_loaded_with(instance, name)} and this request asks for "
                f"{wanted[name]}; unload it first, or load another instance so"
            )
            raise InvalidRequestError(message, param=name)
        self._loader.end(instance)
        instance.model = _replace(instance.model, config=make_config(config, wanted))
        self._begin(instance)
        await instance.wait()

    async def _configure(self, instance: Instance) -> None:
        """Put the user's file of the moment under what the command line says of an instance, before its load."""
        options = instance.model.options
        if options is None or instance.load is not None or instance.living_engine() is not None:
            return
        config = await self._planner.configure_served(instance, options)
        is_as_before = instance.model.options is options and instance.load is None
        if is_as_before and instance.living_engine() is None:
            instance.model = _replace(instance.model, config=config)

    def _begin(self, instance: Instance, *, force: bool = False) -> None:
        """Start the load of an instance, if it is neither loaded nor loading."""
        if self._is_closed:
            message = "the server is shutting down"
            raise ClosedError(message)
        if instance.living_engine() is None and instance.load is None:
            done = partial(self._load_ended, instance)
            self._loader.begin(instance, self.settings, force=force, done=done)

    def _load_ended(self, instance: Instance) -> None:
        engine = instance.living_engine()
        if engine is not None:
            self._lifetimes.watch(instance)
        elif not instance.num_loads:
            self._instances.remove(instance)  # it never was there


def _not_loaded(identifier: str) -> ModelNotFoundError:
    message = (
        f"{identifier} is not loaded and loading on request is off; load it with POST /api/v1/models/load, or switch "
        "loading on request on"
    )
    return ModelNotFoundError(message, param="model")


def _loaded_with(instance: Instance, name: str) -> object:
    engine = instance.living_engine()
    if name == "context_length" and engine is not None:
        return engine.info.context_length
    return getattr(instance.model.config, name)


async def _stats_of(client: EngineClient) -> EngineStats | None:
    try:
        return await asyncio.wait_for(client.stats(), _STATS_S)
    except (EngineDiedError, ModelUnloadedError, TimeoutError):
        return None
