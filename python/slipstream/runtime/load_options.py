"""How a load is configured: what a request says, over what the user's file says of the model, over the server's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.config import home
from slipstream.base.errors import InvalidRequestError, ModelLoadError
from slipstream.base.load_config import LoadConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EVERY_MODEL = "*"


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a load, where one is needed.

    Attributes:
        config: Fields of LoadConfig; those not in it are the defaults'. `draft_model` is a key of the store.
        ttl_s: Seconds the instance may be idle; None takes the settings' for a load on request, else for ever.
    """

    config: dict[str, Any] = {}
    ttl_s: float | None = None


NO_OPTIONS = LoadOptions()


class ModelDefaults:
    """The user's file of load settings by model key, `*` for every model; read at each load. Any thread.

    Args:
        path: Of the file; `model-defaults.json` in SLIPSTREAM_HOME if not given. It need not exist.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._given_path = path

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._given_path or home() / "model-defaults.json"

    @property
    def is_there(self) -> bool:
        """Whether there is a file."""
        return self.path.exists()

    def config(self, *keys: str) -> dict[str, Any]:
        """Return what the file says for a model.

        Args:
            keys: Its names, the most special one last: what that says counts.

        Raises:
            ModelLoadError: the file cannot be read or understood; loading with other settings would hide that.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error
        try:
            entries = msgspec.json.decode(text, type=dict[str, dict[str, Any]])
        except msgspec.DecodeError as error:
            raise self._refusal(str(error)) from error
        merged: dict[str, Any] = {}
        for key in (EVERY_MODEL, *keys):
            said = entries.get(key, {})
            try:
                make_config(LoadConfig(), said)
            except InvalidRequestError as error:
                cause = f"{key}: {error.message}"
                raise self._refusal(cause) from error
            merged |= said
        return merged

    def _refusal(self, cause: str) -> ModelLoadError:
        message = (
            f"the load settings in {self.path} cannot be used: {cause}; mend or delete the file"
        )
        return ModelLoadError(message, path=str(self.path))


def make_config(base: LoadConfig, *layers: Mapping[str, Any]) -> LoadConfig:
    """Return `base` with the fields of each layer over it, the last one on top.

    Raises:
        InvalidRequestError: a field there is not, or a value of another type or out of its range.
    """
    fields = msgspec.structs.asdict(base)
    for layer in layers:
        if "gpu_layers" in layer:  # two ways to say one thing: the layer on top decides
            fields["gpu_ratio"] = None
        for name, value in layer.items():
            if name not in fields:
                message = f"{name[:64]!r} is no load setting; there are {', '.join(fields)}"
                raise InvalidRequestError(message, param=name[:64])
            fields[name] = value
    try:
        return msgspec.convert(fields, LoadConfig)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, InvalidRequestError):
            raise cause from None
        raise InvalidRequestError(str(error)) from error
