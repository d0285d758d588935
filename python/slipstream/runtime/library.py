"""The models of the store as the event loop sees them: scans run in a thread, one for all who ask at the same time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from slipstream.base.errors import ModelNotFoundError
from slipstream.models.lookup import pick
from slipstream.models.store import ModelStore, describe_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from slipstream.models.model_info import ModelInfo

_FRESH_S = 1.0


class Library:
    """Belongs to the event loop. Files that come or go are seen a second later at most, new ones at once by name.

    Args:
        store: Where the models are.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, store: ModelStore | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store or ModelStore()
        self._clock = clock
        self._models: Sequence[ModelInfo] = ()
        self._scanned_s = -_FRESH_S
        self._scan: asyncio.Task[None] | None = None

    async def models(self, *, fresh: bool = False) -> Sequence[ModelInfo]:
        """Return every model of the folders, sorted by key, broken ones too.

        Args:
            fresh: Look at the folders even if that was done a moment ago.
        """
        if fresh or self._clock() - self._scanned_s >= _FRESH_S:
            if self._scan is None:
                self._scan = asyncio.create_task(self._look())
            await asyncio.shield(self._scan)
        return self._models

    async def find(self, name: str) -> ModelInfo:
        """Return the model a name means, with the variant selected that was asked for. See ModelStore.find.

        Raises:
            ModelNotFoundError: there is no such model, or several.
        """
        try:
            return await asyncio.to_thread(pick, await self.models(), name)
        except ModelNotFoundError:
            return await asyncio.to_thread(pick, await self.models(fresh=True), name)

    async def describe(self, path: Path) -> ModelInfo:
        """Return what the store says of a file, or the file itself if it lies elsewhere."""
        for model in await self.models():
            if model.path == str(path):
                return model
        return await asyncio.to_thread(describe_file, path)

    async def _look(self) -> None:
        try:
            self._models = await asyncio.to_thread(self._store.scan)
            self._scanned_s = self._clock()
        finally:
            self._scan = None


def instance_key(model: ModelInfo, models: Sequence[ModelInfo]) -> str:
    """Return the shortest name of a model with its selected variant: the key, if that means the same file."""
    same = next((other for other in models if other.key == model.key), model)
    return model.key if same.selected_variant == model.selected_variant else model.selected_variant
