"""What a name and options make: the instance to load, with its whole configuration. Loads nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace as _replace

from slipstream.base.errors import ModelNotFoundError
from slipstream.base.load_config import LoadConfig
from slipstream.models.catalog import resolve_model
from slipstream.runtime.instance import Instance
from slipstream.runtime.load_options import make_config
from slipstream.runtime.served import ServedModel

if TYPE_CHECKING:
    from slipstream.models.model_info import ModelInfo
    from slipstream.runtime.instances import Instances
    from slipstream.runtime.library import Library
    from slipstream.runtime.load_options import LoadOptions, ModelDefaults


class LoadPlanner:
    """Plans loads. Event loop only.

    Args:
        instances: For what names mean.
        library: For draft models.
        defaults: The user's file of settings by model.
        config: What every configuration begins with.
    """

    def __init__(
        self, instances: Instances, library: Library, defaults: ModelDefaults, config: LoadConfig
    ) -> None:
        self._instances = instances
        self._library = library
        self._defaults = defaults
        self._config = config

    async def plan(
        self, name: str, options: LoadOptions
    ) -> tuple[ServedModel, ModelInfo, Instance | None]:
        """Find what a load by a name means.

        Args:
            name: Of an instance, or of the store.
            options: Over the defaults.

        Returns:
            What to load, what the store says of it, and the instance the name means if it does mean one.

        Raises:
            ModelNotFoundError: an unknown name.
            InvalidRequestError: a setting is out of its range.
            ModelLoadError: the user's file of settings cannot be used.
        """
        found = await self._instances.find(name)
        if isinstance(found, Instance):
            model, key, instance = await self._instances.describe(found), found.model.key, found
        else:
            model, key, instance = found, await self._instances.key_of(found), None
        config = await self.configure(key, model, options)
        return ServedModel(key=key, path=Path(model.path), config=config), model, instance

    async def configure(self, key: str, model: ModelInfo, options: LoadOptions) -> LoadConfig:
        """Return how a model is loaded: the options over the user's file over the server's own.

        Raises:
            ModelNotFoundError: the draft model is not there.
            InvalidRequestError: a setting is out of its range.
            ModelLoadError: the user's file of settings cannot be used.
        """
        said = await self._defaults_of(key, model)
        base = self._config if model.type == "llm" else _replace(self._config, draft_model=None)
        return make_config(base, said, await self.with_draft_path(options.config))

    async def configure_served(self, instance: Instance, options: dict[str, Any]) -> LoadConfig:
        """Return how a model of the command line is loaded: what that says over the user's file over the defaults.

        Args:
            instance: Of the model.
            options: What the command line says.

        Raises:
            ModelNotFoundError, InvalidRequestError, ModelLoadError: as `configure`.
        """
        said = {}
        if self._defaults.is_there:  # else there is no need to know its key
            model = await self._instances.describe(instance)
            said = await self._defaults_of(instance.model.key, model)
        return make_config(LoadConfig(), said, options)

    async def _defaults_of(self, key: str, model: ModelInfo) -> dict[str, Any]:
        """Return what the user's file says of a model, with the file of its draft model in place of a name."""
        names = (key, model.key, model.selected_variant)
        said = await asyncio.to_thread(self._defaults.config, *names)
        if said.get("draft_model"):  # it may name a path, too
            path = await asyncio.to_thread(resolve_model, said["draft_model"])
            said = {**said, "draft_model": str(path)}
        return said

    async def with_draft_path(self, config: dict[str, Any]) -> dict[str, Any]:
        """Put the file of the draft model in place of its key.

        Raises:
            ModelNotFoundError: the store has no such model.
        """
        if not config.get("draft_model"):
            return config
        try:
            model = await self._library.find(config["draft_model"])
        except ModelNotFoundError as error:
            raise ModelNotFoundError(error.message, param="draft_model") from None
        return {**config, "draft_model": model.path}
