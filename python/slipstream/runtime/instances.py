"""The table of instances, and which of them, or which model of the store, a name means. Loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError, ModelNotFoundError
from slipstream.models.names import MAX_NAME_CHARS
from slipstream.runtime.instance import Instance
from slipstream.runtime.library import instance_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from slipstream.models.model_info import ModelInfo
    from slipstream.runtime.library import Library
    from slipstream.runtime.served import ServedModel


class Instances:
    """What is loaded or named on the command line, by identifier. Event loop only.

    Args:
        models: Named on the command line; keys must be distinct.
        library: The store.
    """

    def __init__(self, models: Iterable[ServedModel], library: Library) -> None:
        self._library = library
        self._table: dict[str, Instance] = {}
        self._names: dict[str, str] = {}  # names of the store by which instances were found
        for model in models:
            if model.key in self._table:
                message = f"two served models have the key {model.key!r}"
                raise ValueError(message)
            self._table[model.key] = Instance(model.key, model, is_pinned=True)

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self._table.values()))

    def get(self, identifier: str) -> Instance:
        """Return an instance.

        Raises:
            ModelNotFoundError: there is none of that identifier.
        """
        instance = self._table.get(identifier)
        if instance is None:
            message = f"there is no instance {identifier[:200]!r}; loaded or served: {self._known_names()}"
            raise ModelNotFoundError(message, param="instance_id")
        return instance

    def add(self, instance: Instance) -> None:
        """Take a new instance in."""
        assert instance.identifier not in self._table
        self._table[instance.identifier] = instance

    def remove(self, instance: Instance) -> None:
        """Forget an instance, unless the command line named it. Idempotent."""
        if not instance.is_pinned and self._table.get(instance.identifier) is instance:
            del self._table[instance.identifier]
            self._names = {n: i for n, i in self._names.items() if i != instance.identifier}

    def known(self, name: str | None) -> Instance | None:
        """Return the instance a name means without a look at the store: an identifier, an alias, a name found before.

        An empty name means the first loaded instance, else the first of the command line. O(1) for an identifier.

        Raises:
            ModelNotFoundError: an empty name, and there is no instance.
        """
        table = self._table
        if not name:
            for instance in table.values():
                if instance.living_engine() is not None:
                    return instance
            for instance in table.values():
                return instance
            message = "no model is loaded; name one of GET /v1/models"
            raise ModelNotFoundError(message, param="model")
        found = table.get(name) or table.get(self._names.get(name, ""))
        if found is not None:
            return found
        return next((one for one in table.values() if name in one.model.aliases), None)

    async def find(self, name: str) -> Instance | ModelInfo:
        """Return the instance a name means, or the model of the store that none is an instance of.

        Raises:
            ModelNotFoundError: neither.
        """
        known = self.known(name)
        if known is not None:
            return known
        try:
            model = await self._library.find(name)
        except ModelNotFoundError as error:
            message = f"there is no model {name[:200]!r} here; served models: {self._known_names()}; {error.message}"
            raise ModelNotFoundError(message, param="model") from None
        for instance in self._table.values():
            if str(instance.model.path) == model.path:
                self._names[name] = instance.identifier
                return instance
        return model

    async def key_of(self, model: ModelInfo) -> str:
        """Return what an instance of a model is called if nothing is said."""
        return instance_key(model, await self._library.models())

    async def describe(self, instance: Instance) -> ModelInfo:
        """Return what the store says of an instance's model; asked once."""
        if instance.info is None:
            instance.info = await self._library.describe(Path(instance.model.path))
        return instance.info

    async def models(self) -> Sequence[ModelInfo]:
        """Return what can be loaded: models of the store that are not broken, then instances of other files."""
        found = [model for model in await self._library.models() if model.error is None]
        known = {variant.path for model in found for variant in model.variants}
        for instance in self:
            path = str(instance.model.path)
            if path not in known:
                known.add(path)
                found.append(await self.describe(instance))
        return found

    def free_identifier(self, key: str, wanted: str | None) -> str:
        """Return what a new instance is called: as wanted, or the key, with ":2" and so on if that is taken.

        Raises:
            InvalidRequestError: what is wanted is taken, or cannot be one.
        """
        if wanted is None:
            identifier, number = key, 1
            while identifier in self._table:
                number += 1
                identifier = f"{key}:{number}"
            return identifier
        if wanted in self._table:
            message = (
                f"the identifier {wanted[:80]!r} is taken; choose another, or unload that instance"
            )
            raise InvalidRequestError(message, param="identifier")
        if not 1 <= len(wanted) <= MAX_NAME_CHARS or not wanted.isprintable():
            message = f"identifier is {wanted[:80]!r}; it must be 1 to {MAX_NAME_CHARS} printable characters"
            raise InvalidRequestError(message, param="identifier")
        return wanted

    def _known_names(self) -> str:
        return ", ".join(list(self._table)[:20]) or "none"
