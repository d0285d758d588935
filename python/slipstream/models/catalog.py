"""What a name on the command line means: a file as it is, or a key of the store. Opens no model file."""

from __future__ import annotations

from pathlib import Path

from slipstream.base.errors import ModelNotFoundError
from slipstream.models.lookup import DEMO_NAME
from slipstream.models.store import ModelStore

__all__ = ["DEMO_NAME", "resolve_key", "resolve_model"]


def resolve_model(name: str) -> Path:
    """Find the file a user means. For names from the network use `resolve_key`.

    Args:
        name: A path to a .gguf file, "demo", or a key (see `ModelStore.find`).

    Returns:
        The absolute path. Whether the file is a model is for `gguf.check_model_file` to say.

    Raises:
        ModelNotFoundError: there is no such model; the message says what to do.
    """
    path = Path(name).expanduser()
    looks_like_a_path = path.is_absolute() or name.startswith(("./", "../", "~")) or not path.name
    try:
        if name and (path.is_file() or (looks_like_a_path and path.exists())):
            return path.absolute()
    except (ValueError, OSError):  # a null byte, a name too long
        looks_like_a_path = False
    if looks_like_a_path:
        message = f"there is no model file {name!r}"
        raise ModelNotFoundError(message, param="model")
    return resolve_key(name)


def resolve_key(name: str) -> Path:
    """Find the file of a model of the store, and nothing outside of it.

    Args:
        name: "demo" or a key, see `ModelStore.find`.

    Returns:
        The absolute path of its file.

    Raises:
        ModelNotFoundError: there is no such model, or several; the message says what to do.
    """
    return Path(ModelStore().find(name).path).absolute()
