"""Which models were loaded by hand, in a file of SLIPSTREAM_HOME, so that the next server loads them again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import StoreError
from slipstream.base.files import replace_file, set_aside

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


class KeptLoad(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that was loaded by hand.

    Attributes:
        identifier: What requests call it.
        model: Name of its model in the store.
        config: Fields of LoadConfig that were asked for.
        ttl_s: Seconds it may be idle, if that was said.
    """

    identifier: str
    model: str
    config: dict[str, Any] = {}
    ttl_s: float | None = None


class KeptLoads:
    """The file, which follows what is loaded. Event loop only; the disk is left to a thread.

    Args:
        path: Of the file; `loaded.json` in SLIPSTREAM_HOME if not given.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "loaded.json"
        self._loads: dict[str, KeptLoad] = {}
        self._writing: asyncio.Task[None] | None = None
        self._is_stale = False

    def take_over(self) -> list[KeptLoad]:
        """Read what the last server had loaded, and keep it until it is loaded or cannot be.

        A file that cannot be used is put aside, which is logged: a server without those models is better than none.
        """
        try:
            listed = msgspec.json.decode(self.path.read_bytes(), type=list[KeptLoad])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            try:
                told = f"it is now {set_aside(self.path)}"
            except StoreError as failed:
                told = failed.message
            _log.error(
                "%s cannot be used (%s), so nothing is loaded again; %s", self.path, error, told
            )
            return []
        self._loads = {load.identifier: load for load in listed}
        return list(self._loads.values())

    def add(self, load: KeptLoad) -> None:
        """Keep one more, or other options of one."""
        if self._loads.get(load.identifier) != load:
            self._loads[load.identifier] = load
            self._save()

    def drop(self, identifier: str) -> None:
        """Forget one; it need not be there."""
        if self._loads.pop(identifier, None) is not None:
            self._save()

    async def close(self) -> None:
        """Wait until the file says what was last told."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def _save(self) -> None:
        self._is_stale = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._is_stale:
            self._is_stale = False
            data = msgspec.json.format(msgspec.json.encode(list(self._loads.values())), indent=2)
            try:
                await asyncio.to_thread(replace_file, self.path, data + b"\n")
            except StoreError as error:
                _log.error("the next server will not load the same models: %s", error)
