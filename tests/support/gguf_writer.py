"""Writes GGUF files of any shape, broken ones included. Knows the file format, no model.

Layout: ggml/include/gguf.h of the pinned llama.cpp.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

Metadata = list[tuple[str, str, Any]]  # (key, type, value); see `gguf_bytes` for the types
Tensors = list[tuple[str, np.ndarray]]  # (name, array); rows first, as numpy counts

_SCALARS = {
    "u8": (0, "<B"),
    "i8": (1, "<b"),
    "u16": (2, "<H"),
    "i16": (3, "<h"),
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "u64": (10, "<Q"),
    "i64": (11, "<q"),
    "f64": (12, "<d"),
}
_STRING, _ARRAY = 8, 9
Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", (32,))])  # a block of 32 numbers
_GGML_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, Q8_0: 8}


def gguf_bytes(
    metadata: Metadata, tensors: Tensors, *, alignment: int = 32, version: int = 3
) -> bytes:
    """Return a GGUF file made of these parts, exactly as they are: nothing is checked.

    Args:
        metadata: (key, type, value) in order. A type is "u32", "f32", "bool", "str", ... or one of
            these in brackets for an array: "[str]".
        tensors: (name, array) in order, float32, float16 or Q8_0.
        alignment: Of the tensor data; other than 32 it belongs into the metadata as well.
        version: Of the format.
    """
    return header_bytes(metadata, tensors, alignment=alignment, version=version) + b"".join(
        _padded(array.tobytes(), alignment) for _, array in tensors
    )


def header_bytes(
    metadata: Metadata, tensors: Tensors, *, alignment: int = 32, version: int = 3
) -> bytes:
    """Return what comes before the tensor data, padded to the alignment. See `gguf_bytes`."""
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    parts += [_string(key) + _value(kind, value) for key, kind, value in metadata]
    offset = 0
    for name, array in tensors:
        *rows, columns = array.shape
        columns *= 32 if array.dtype == Q8_0 else 1
        dims = struct.pack(f"<I{array.ndim}Q", array.ndim, columns, *reversed(rows))
        parts.append(_string(name) + dims + struct.pack("<IQ", _GGML_TYPES[array.dtype], offset))
        offset += -(-array.nbytes // alignment) * alignment
    return _padded(b"".join(parts), alignment)


def to_q8_0(values: np.ndarray) -> np.ndarray:
    """Quantize the last axis, a multiple of 32, as ggml's quantize_row_q8_0_ref does."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    d = np.abs(blocks).max(axis=-1) / 127
    quantized = np.zeros(d.shape, dtype=Q8_0)
    quantized["d"] = d
    quantized["qs"] = np.round(blocks / np.where(d == 0, 1, d)[..., None])
    return quantized


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: str, value: Any) -> bytes:
    if kind == "str":
        return struct.pack("<I", _STRING) + _string(value)
    if kind == "[str]":
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    code, form = _SCALARS[kind.strip("[]")]
    if kind.startswith("["):
        items = b"".join(struct.pack(form, item) for item in value)
        return struct.pack("<IIQ", _ARRAY, code, len(value)) + items
    return struct.pack("<I", code) + struct.pack(form, value)


def _padded(raw: bytes, alignment: int) -> bytes:
    return raw + bytes(-len(raw) % alignment)
