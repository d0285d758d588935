"""The index cache: facts of files that have not changed since they were last read. Losing it costs time only."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from slipstream.base.config import home
from slipstream.models.facts import FileFacts, read_facts

if TYPE_CHECKING:
    from slipstream.models.layouts import FoundFile

logger = logging.getLogger(__name__)

_FORMAT = 2  # of the file; raise it when FileFacts or what it says changes


class _Entry(msgspec.Struct, array_like=True, frozen=True):
    size_bytes: int
    mtime_ns: int
    facts: FileFacts


class _Index(msgspec.Struct, array_like=True):
    format: int
    entries: dict[str, _Entry]


class FactsIndex:
    """Facts by path, size and time of change, kept at SLIPSTREAM_HOME/cache/models.index."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or home() / "cache" / "models.index"
        self._entries = self._read()
        self._changed = False

    def _read(self) -> dict[str, _Entry]:
        try:
            index = msgspec.msgpack.decode(self._path.read_bytes(), type=_Index)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            logger.debug("reading model headers anew: %s", error)
            return {}
        return index.entries if index.format == _FORMAT else {}

    def facts(self, file: FoundFile) -> FileFacts:
        """Return what a file says about itself, from the index when size and time are those of then."""
        known = self._entries.get(file.path)
        if known and known.size_bytes == file.size_bytes and known.mtime_ns == file.mtime_ns:
            return known.facts
        facts = read_facts(Path(file.path))
        self._entries[file.path] = _Entry(file.size_bytes, file.mtime_ns, facts)
        self._changed = True
        return facts

    def save(self) -> None:
        """Keep what is new for the next process. A full disk only makes that one slower."""
        if not self._changed:
            return
        self._changed = False
        gone = [path for path in self._entries if not os.path.exists(path)]  # noqa: PTH110 - hot
        for path in gone:
            del self._entries[path]
        raw = msgspec.msgpack.encode(_Index(_FORMAT, self._entries))
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".models.index-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(raw)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)
