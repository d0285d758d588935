"""Seeded damage to GGUF files: bytes of the header, or values in a header that stays well formed. Knows no model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.gguf_writer import Metadata, Tensors, gguf_bytes, header_bytes

if TYPE_CHECKING:
    import random

_INTEGERS = (
    0,
    1,
    2,
    3,
    5,
    8,
    17,
    33,
    64,
    128,
    513,
    1025,
    2**16,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
_FLOATS = (0.0, -1.0, 1.0, 1e-45, 1e38, math.nan, math.inf, -math.inf)


def mutated_file(metadata: Metadata, tensors: Tensors, source: random.Random) -> bytes:
    """Return the file with 1 to 4 faults: half of the time in bytes of the header, else in its values."""
    num_faults = source.randint(1, 4)
    if source.random() < 0.5:
        raw = bytearray(gguf_bytes(metadata, tensors))
        size = len(header_bytes(metadata, tensors))
        for _ in range(num_faults):
            at = source.randrange(size)
            raw[at] = source.choice((raw[at] ^ 1 << source.randrange(8), source.randrange(256), 0))
        return bytes(raw)
    metadata, tensors = list(metadata), list(tensors)
    for _ in range(num_faults):
        if source.random() < 0.75:
            _change_value(metadata, source)
        else:
            _change_tensor(tensors, source)
    return gguf_bytes(metadata, tensors)


def _change_value(metadata: Metadata, source: random.Random) -> None:
    i = source.randrange(len(metadata))
    key, kind, value = metadata[i]
    what = source.randrange(8)
    if what == 0:
        del metadata[i]
    elif what == 1:
        metadata[i] = (key, "str", "x")
    elif kind.startswith("["):
        metadata[i] = (key, kind, _changed_array(kind, value, source))
    else:
        metadata[i] = (key, kind, _changed_scalar(kind, value, source))


def _changed_scalar(kind: str, value: Any, source: random.Random) -> Any:
    if kind == "u32":
        near = source.choice((value + 1, max(value - 1, 0), value * 2, value // 2))
        return source.choice((*_INTEGERS, near, near, near))
    if kind == "f32":
        return source.choice(_FLOATS)
    if kind == "bool":
        return not value
    return source.choice(("", value[1:], value + "x", "llama", "gpt2", "bert", "none"))


def _changed_array(kind: str, value: list[Any], source: random.Random) -> list[Any]:
    if not value or source.random() < 0.1:
        return []
    items = list(value)
    at = source.randrange(len(items))
    what = source.randrange(3)
    if what == 0:
        del items[at]
    elif what == 1:
        items[at] = items[source.randrange(len(items))]
    elif kind == "[str]":
        items[at] = source.choice((b"", b"\xff", b"a\0b", b"<0x41>", b" "))
    elif kind == "[bool]":
        items[at] = not items[at]
    else:
        items[at] = source.choice((0, 1, 2, 3, 4, 5, 6, -1, 1000))
    return items


def _change_tensor(tensors: Tensors, source: random.Random) -> None:
    i = source.randrange(len(tensors))
    name, array = tensors[i]
    what = source.randrange(6)
    if what == 0:
        del tensors[i]
    elif what == 1:
        tensors[i] = (name, array.astype(np.float16))
    elif what == 2:
        tensors[i] = (name, np.ascontiguousarray(array.T))
    elif what == 3:
        tensors[i] = (name, array[:-1].copy())
    elif what == 4:
        tensors[i] = (name + "x", array)
    else:
        tensors[i] = (name, np.full_like(array, source.choice(_FLOATS)))
