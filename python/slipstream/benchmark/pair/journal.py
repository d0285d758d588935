"""The log of a run: one JSON line for each thing measured, so that a run can end anywhere and go on later."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "run.jsonl"
_SCHEMA = 2

Key = tuple[str, ...]


class Journal:
    """Records by key, in a file that only grows. One thread.

    A line that was cut by a power failure is dropped; a file of another run is refused.

    Args:
        folder: Made if it is not there.
        identity: What the run is made of: models, prompts, settings. Records only go with an equal one.
        resume: Go on with what is there. Otherwise a run that is there is replaced.

    Raises:
        InvalidRequestError: there is nothing to go on with, or it is another run's.
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, resume: bool = False) -> None:
        self.path = folder / NAME
        self._records: dict[Key, Any] = {}
        identity = json.loads(json.dumps(identity))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if resume:
                end = self._read(identity)
                os.truncate(self.path, end)
                self._file = self.path.open("a", encoding="utf-8")
            else:
                self._file = self.path.open("w", encoding="utf-8")
                self._write({"schema": _SCHEMA, "identity": identity})
        except OSError as error:
            message = f"{self.path} cannot be written: {error}"
            raise StoreError(message) from error

    def __contains__(self, key: Key) -> bool:
        return key in self._records

    def get(self, key: Key) -> Any:
        """Return a record, None if it is not there."""
        return self._records.get(key)

    def items(self, kind: str) -> list[tuple[Key, Any]]:
        """Return the records whose key begins with `kind`, in the order they were added."""
        return [(key, value) for key, value in self._records.items() if key[0] == kind]

    def add(self, key: Key, record: Any) -> None:
        """Keep a record of JSON values.

        Raises:
            StoreError: the disk is full, or the file is gone.
        """
        try:
            self._write({"key": key, "value": record})
        except OSError as error:
            message = f"{self.path} cannot be written: {error}"
            raise StoreError(message) from error
        self._records[key] = record

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def _write(self, line: Any) -> None:
        self._file.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self._file.flush()

    def _read(self, identity: dict[str, Any]) -> int:
        """Read the file and return where its last whole line ends."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError as error:
            message = f"there is no {self.path} to go on with; run without --resume first"
            raise InvalidRequestError(message, param="resume") from error
        end = 0
        for number, line in enumerate(raw.splitlines(keepends=True)):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                break
            if number == 0:
                self._check(entry, identity)
            else:
                self._records[tuple(entry["key"])] = entry["value"]
            end += len(line)
        if not end:
            message = f"{self.path} is no log of a pair benchmark; run without --resume"
            raise InvalidRequestError(message, param="resume")
        return end

    def _check(self, entry: dict[str, Any], identity: dict[str, Any]) -> None:
        found = entry.get("identity")
        if entry.get("schema") != _SCHEMA or not isinstance(found, dict):
            message = f"{self.path} is of another version; run without --resume"
            raise InvalidRequestError(message, param="resume")
        if changed := _first_change(found, identity):
            name, was, now = changed
            message = (
                f"{self.path} belongs to another run: {name} was {_short(was)} and is {_short(now)}; "
                "run without --resume"
            )
            raise InvalidRequestError(message, param="resume")


def _first_change(was: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """Return the path of the first value that is another one, what it was, and what it is; None if all are equal."""
    for name in sorted(was.keys() | now.keys()):
        before, after = was.get(name), now.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _first_change(before, after)
            assert inner is not None
            return (f"{name}.{inner[0]}", *inner[1:])
        return (name, before, after)
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:97] + "..."
