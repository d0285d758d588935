"""Names of models: what lies below the models folder, and which file a name means. Opens no file."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from slipstream.base.config import DEMO_MODEL, demo_model_path, models_folder
from slipstream.base.errors import ModelNotFoundError

DEMO_NAME = "demo"
_LATER_PART = re.compile(r".+-(?!00001)\d{5}-of-\d{5}\.gguf")
_SHOWN_NAMES = 10


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model below the models folder.

    Attributes:
        key: "publisher/model", or "publisher/model/file.gguf" where a folder holds several models.
        path: Its file, the first one of a split model.
        size_bytes: Of the file, of a split model of all its files.
    """

    key: str
    path: Path
    size_bytes: int


def list_models() -> list[CatalogEntry]:
    """Return the models laid out as publisher/model/file.gguf below the models folder, sorted by key."""
    entries = []
    for folder in sorted(models_folder().glob("*/*/")):
        files = _model_files(folder)
        for path in files:
            short = f"{folder.parent.name}/{folder.name}"
            key = short if len(files) == 1 else f"{short}/{path.name}"
            entries.append(CatalogEntry(key, path, _size_bytes(path)))
    return entries


def resolve_model(name: str) -> Path:
    """Find the file a user means. For names from the network use `resolve_key`.

    Args:
        name: A path to a .gguf file, "demo", or a key (see `resolve_key`).

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
    except ValueError:  # a null byte
        looks_like_a_path = False
    if looks_like_a_path:
        message = f"there is no model file {name!r}"
        raise ModelNotFoundError(message, param="model")
    return resolve_key(name)


def resolve_key(name: str) -> Path:
    """Find a model below the models folder, and nothing outside of it.

    Args:
        name: "demo", "publisher/model" where that folder holds one model, or "publisher/model/file.gguf".

    Returns:
        The absolute path of its file.

    Raises:
        ModelNotFoundError: there is no such model, or several; the message says what to do.
    """
    if name in (DEMO_NAME, DEMO_MODEL):
        path = demo_model_path()
        if path.is_file():
            return path.absolute()
        message = (
            f"the demo model is not there yet ({path}); "
            "`make run` or `python -m slipstream.models.demo` brings it"
        )
        raise ModelNotFoundError(message, param="model")
    parts = name.split("/")
    safe = all(part not in ("", ".", "..") and not set(part) & set("\0\\:") for part in parts)
    if safe and len(parts) in (2, 3):
        path = models_folder().joinpath(*parts)
        if len(parts) == 3 and path.is_file():
            return path.absolute()
        files = _model_files(path) if len(parts) == 2 else []
        if len(files) == 1:
            return files[0].absolute()
        if files:
            names = ", ".join(f"{name}/{file.name}" for file in files)
            message = f"{name!r} holds {len(files)} models; name one of them: {names}"
            raise ModelNotFoundError(message, param="model")
    raise ModelNotFoundError(_unknown(name), param="model")


def _unknown(name: str) -> str:
    keys = [entry.key for entry in list_models()]
    close = difflib.get_close_matches(name, keys, n=3)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif keys:
        more = f" and {len(keys) - _SHOWN_NAMES} more" if len(keys) > _SHOWN_NAMES else ""
        hint = f"there are: {', '.join(keys[:_SHOWN_NAMES])}{more}"
    else:
        hint = "there are none yet; `make run` brings the demo model"
    return (
        f"no model {name[:200]!r}: it is no .gguf file and no key below {models_folder()}; {hint}"
    )


def _model_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are models of their own: no projectors, no later parts."""
    return sorted(
        path
        for path in folder.glob("*.gguf")
        if path.is_file()
        and not path.name.startswith("mmproj")
        and not _LATER_PART.fullmatch(path.name)
    )


def _size_bytes(path: Path) -> int:
    first = re.fullmatch(r"(.+)-00001-of-(\d{5})\.gguf", path.name)
    if first is None:
        return path.stat().st_size
    return sum(
        part.stat().st_size
        for part in path.parent.glob(f"{_escaped(first[1])}-*-of-{first[2]}.gguf")
    )


def _escaped(text: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", text)
