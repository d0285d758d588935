"""The settings a user keeps, in a JSON file of SLIPSTREAM_HOME: read live, changed as a whole, mended where broken.

The file holds what differs from the defaults, under the names of ServerSettings, and may be edited by hand.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import InvalidRequestError, StoreError
from slipstream.base.files import WatchedFile, locked, replace_file, set_aside
from slipstream.runtime.settings import ServerSettings
from slipstream.runtime.tokens import TokenStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)
SETTINGS = tuple(field.name for field in msgspec.structs.fields(ServerSettings))


class SettingsStore:
    """The file, and what one run of the server puts above it.

    Args:
        path: Of the file; `settings.json` in SLIPSTREAM_HOME if not given. Made with the first change.
        overrides: Settings of this run only, as options of the command line give them.

    Raises:
        InvalidRequestError: an override that is no setting or out of its range.
    """

    def __init__(
        self, path: Path | None = None, overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path or home() / "settings.json"
        self._overrides = dict(overrides or {})
        self._good = _settings_of(self._overrides)
        self._file = WatchedFile(self.path, self._parse)

    def current(self) -> ServerSettings:
        """Return the settings as the file says now; the last good ones while it is broken, which is logged once."""
        try:
            self._good = self._file.read()
        except OSError as error:
            _log.error("%s cannot be read, the settings stay as they are: %s", self.path, error)
        return self._good

    def kept(self) -> dict[str, Any]:
        """Return what the file says, by name, without what is wrong in it."""
        values, _, _ = _values_of(self._bytes())
        return values

    def change(self, changes: Mapping[str, Any]) -> ServerSettings:
        """Keep new values.

        Args:
            changes: Name to value, as JSON gives them.

        Returns:
            The settings with them.

        Raises:
            InvalidRequestError: there is no such setting, or the value is not allowed; nothing is changed.
            StoreError: the file cannot be written.
        """
        for name, value in changes.items():
            _settings_of({name: value})
        return self._edit(lambda values: values | dict(changes))

    def reset(self, names: Iterable[str]) -> ServerSettings:
        """Go back to the defaults of some settings.

        Raises:
            InvalidRequestError: there is no such setting.
            StoreError: the file cannot be written.
        """
        unwanted = set(names)
        for name in unwanted:
            check_name(name)
        return self._edit(
            lambda values: {name: value for name, value in values.items() if name not in unwanted}
        )

    def mend(self) -> Path | None:
        """Put a broken file aside and keep what is good of it, before a server starts with it.

        Where the word on tokens is lost, they are required if there are any: a typing error must not open a server.

        Returns:
            Where the broken file is now; None if nothing was broken.

        Raises:
            StoreError: a file cannot be read or written.
        """
        with self._locked():
            data = self._bytes()
            values, problems, others = _values_of(data)
            for name in others:
                _log.warning("%s: there is no setting %r", self.path, name)
            if not problems:
                return None
            if "require_auth" not in values:
                values["require_auth"] = _has_tokens()
            target = set_aside(self.path)
            self._write(values | others)
        _log.error(
            "%s is broken (%s): it is now %s, and what was good of it is kept; require_auth is %s",
            self.path,
            "; ".join(problems),
            target,
            values["require_auth"],
        )
        return target

    def _edit(self, work: Any) -> ServerSettings:
        self.mend()
        with self._locked():
            values, _, others = _values_of(self._bytes())
            values = work(values)
            self._write(values | others)
        return _settings_of(values | self._overrides)

    def _locked(self) -> Any:
        return locked(self.path.with_suffix(".lock"))

    def _write(self, values: Mapping[str, Any]) -> None:
        replace_file(self.path, msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n")

    def _bytes(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            message = f"{self.path} cannot be read: {error.strerror or error}"
            raise StoreError(message) from error

    def _parse(self, data: bytes | None) -> ServerSettings:
        values, problems, _ = _values_of(data)
        if problems:
            _log.error("%s is broken, the settings stay as they are: %s", self.path, problems[0])
            return self._good
        return _settings_of(values | self._overrides)


def check_name(name: str) -> None:
    """Raise InvalidRequestError if there is no setting of this name."""
    if name not in SETTINGS:
        message = f"there is no setting {name[:100]!r}; there are: {', '.join(SETTINGS)}"
        raise InvalidRequestError(message, param="name")


def _settings_of(values: Mapping[str, Any]) -> ServerSettings:
    for name in values:
        check_name(name)
    try:
        return msgspec.convert(dict(values), ServerSettings)
    except msgspec.ValidationError as error:
        message = f"{', '.join(values)}: {error}"
        raise InvalidRequestError(message, param=next(iter(values), None)) from error


def _values_of(data: bytes | None) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Return (what is good, what is wrong with the rest, entries that are no settings)."""
    if data is None:
        return {}, [], {}
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        return {}, [str(error)], {}
    values, problems = {}, []
    for name in SETTINGS:
        if name in found:
            try:
                _settings_of({name: found[name]})
                values[name] = found[name]
            except InvalidRequestError as error:
                problems.append(str(error))
    others = {name: value for name, value in found.items() if name not in SETTINGS}
    return values, problems, others


def _has_tokens() -> bool:
    try:
        return bool(TokenStore().list())
    except StoreError:
        return True
