"""Finds and checks the projector of a model: the file (mmproj) that turns images into what the model computes."""

from __future__ import annotations

from pathlib import Path

from slipstream.base.errors import ModelLoadError
from slipstream.models.gguf import read_gguf
from slipstream.models.names import is_projector


def find_projector(model: str) -> str | None:
    """Return the projector that lies in the folder of a model file, the first by name; None without one."""
    folder = Path(model).parent
    try:
        found = sorted(str(path) for path in folder.glob("*.gguf") if is_projector(path.stem))
    except OSError:
        return None
    return found[0] if found else None


def check_projector_file(path: str) -> None:
    """Check that a file is a whole GGUF file and a projector.

    Raises:
        ModelLoadError: it is not.
    """
    header = read_gguf(path)
    if header.architecture != "clip" and header.metadata.get("general.type") != "mmproj":
        what = f"a model of the architecture {header.architecture!r}"
        message = f"cannot load {path}: it is no projector for images, but {what}"
        raise ModelLoadError(message, path=path)
