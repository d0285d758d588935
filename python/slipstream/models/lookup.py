"""Which model of a list a name means. Opens no file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace as _replace

from slipstream.base.config import demo_model_path, models_folder
from slipstream.base.errors import ModelNotFoundError
from slipstream.models.names import MAX_NAME_CHARS, key_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.models.model_info import ModelInfo, ModelVariant

DEMO_NAME = "demo"
_SHOWN_NAMES = 10


def pick(models: Sequence[ModelInfo], key: str) -> ModelInfo:
    """Return the one of `models`, as `ModelStore.scan` gave them, that a name means; see `ModelStore.find`."""
    if not key or len(key) > MAX_NAME_CHARS or "\0" in key:
        message = (
            f"no model {key[:80]!r}: a model key has 1 to {MAX_NAME_CHARS} characters, no null"
        )
        raise ModelNotFoundError(message, param="model")
    if key == DEMO_NAME:
        return _demo(models)
    found = _matches(models, key)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(model.key for model in found[:_SHOWN_NAMES])
        message = f"{key!r} holds {len(found)} models; name one of them: {names}"
    else:
        message = _unknown(key, models)
    raise ModelNotFoundError(message, param="model")


def _selected(model: ModelInfo, variant: ModelVariant) -> ModelInfo:
    return _replace(
        model,
        path=variant.path,
        size_bytes=variant.size_bytes,
        quantization=variant.quantization,
        num_params=variant.num_params,
        selected_variant=variant.key,
        state="broken" if variant.error else "ready",
        error=variant.error,
    )


def _demo(models: Sequence[ModelInfo]) -> ModelInfo:
    path = str(demo_model_path())
    for model in models:
        for variant in model.variants:
            if variant.path == path:
                return _selected(model, variant)
    message = (
        f"the demo model is not there yet ({path}); `slipstream get demo` or `make run` brings it"
    )
    raise ModelNotFoundError(message, param="model")


def _matches(models: Sequence[ModelInfo], name: str) -> list[ModelInfo]:
    """Return the models a name may mean: the exact key first, then a file, then what begins or ends like it."""
    base, at, quant = name.partition("@")
    wanted = "/".join(key_part(part) for part in base.split("/"))
    exact = [model for model in models if model.key == wanted]
    if not exact and name.lower().endswith(".gguf"):
        return _of_file(models, base)
    below = exact or [model for model in models if model.key.startswith(wanted + "/")]
    found = below or [model for model in models if model.key.endswith("/" + wanted)]
    if not at:
        return found
    return [
        _selected(model, variant)
        for model in found
        for variant in model.variants
        if variant.key.partition("@")[2] == quant.lower()
    ]


def _of_file(models: Sequence[ModelInfo], name: str) -> list[ModelInfo]:
    folder, _, filename = name.rpartition("/")
    wanted = "/".join(key_part(part) for part in folder.split("/"))
    return [
        _selected(model, variant)
        for model in models
        for variant in model.variants
        if Path(variant.path).name == filename
        and (
            not folder or model.key == wanted or model.key.startswith((wanted + "/", wanted + "~"))
        )
    ]


def _unknown(name: str, models: Sequence[ModelInfo]) -> str:
    keys = [model.key for model in models]
    close = difflib.get_close_matches(name.lower(), keys, n=3)
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif keys:
        more = f" and {len(keys) - _SHOWN_NAMES} more" if len(keys) > _SHOWN_NAMES else ""
        hint = f"there are: {', '.join(keys[:_SHOWN_NAMES])}{more}"
    else:
        hint = "there are none yet; `slipstream get demo` or `make run` brings the demo model"
    return (
        f"no model {name[:200]!r}: it is no .gguf file and no key below {models_folder()}; {hint}"
    )
