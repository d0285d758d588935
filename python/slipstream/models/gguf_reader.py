"""Reads the header of a GGUF file: metadata and tensor descriptions. Knows the layout of the file, no model.

Everything a header says is checked against the file before it is believed, by the same rules as
ggml/src/gguf.cpp of the pinned llama.cpp, so that a file which passes here also parses there.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import struct
from typing import TYPE_CHECKING, NoReturn

from slipstream.models.gguf_types import (
    GGML_TYPES,
    MAX_KEPT_ITEMS,
    SCALAR_TYPES,
    GgufArray,
    GgufHeader,
    TensorInfo,
    Value,
    refuse,
)

if TYPE_CHECKING:
    from pathlib import Path

MIN_VERSION, MAX_VERSION = 2, 3
DEFAULT_ALIGNMENT = 32
MAX_STRING_BYTES = MAX_ARRAY_ITEMS = 1 << 30  # GGUF_MAX_STRING_LENGTH, GGUF_MAX_ARRAY_ELEMENTS
MAX_NAME_BYTES = 63  # GGML_MAX_NAME - 1
MAX_DIMS = 4
MAX_ELEMENTS = 1 << 63

_STRING, _ARRAY = 8, 9
_MIN_ENTRY_BYTES = 8 + 1 + 4 + 1  # key of one byte and a value of one byte
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8  # empty name, one dimension


def parse_gguf(path: Path, *, keep: frozenset[str] = frozenset()) -> GgufHeader:
    """Read a file's header. 50 ms for a vocabulary of 150 000 tokens, most of it the walk over the strings.

    Args:
        path: The file.
        keep: Keys of arrays whose items are kept however many they are.

    Raises:
        ModelLoadError: the file cannot be read or is no complete GGUF file.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            refuse(path, "it is a directory, not a GGUF file")
        if not stat.S_ISREG(status.st_mode):
            refuse(path, "it is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                refuse(path, "the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data, keep).parse()
    except FileNotFoundError:
        refuse(path, "there is no such file")
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        refuse(path, f"it cannot be read ({error})")


class _Parser:
    """One pass over a header; `_at` is the position in the file."""

    def __init__(self, path: Path, data: mmap.mmap, keep: frozenset[str]) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._keep = keep
        self._at = 0
        self._what = "the header"

    def parse(self) -> GgufHeader:
        """Read everything, in file order."""
        version, num_tensors, num_entries = self._preamble()
        metadata: dict[str, Value] = {}
        value_types: dict[str, str] = {}
        for i in range(num_entries):
            self._what = f"metadata entry {i}"
            key = self._text("key")
            if not key or key in metadata:
                self._refuse(
                    f"metadata key {key!r} appears twice" if key else f"{self._what} has no key"
                )
            self._what = f"metadata {key}"
            value_types[key], metadata[key] = self._value(key)
        alignment = self._alignment(metadata, value_types)
        described = self._tensors(num_tensors)
        data_offset = self._at + -self._at % alignment
        tensors = self._placed(described, data_offset, alignment)
        return GgufHeader(
            self._path, self._size, version, metadata, value_types, tensors, data_offset
        )

    def _refuse(self, cause: str) -> NoReturn:
        refuse(self._path, cause)

    def _preamble(self) -> tuple[int, int, int]:
        magic = self._data[:4]
        if magic != b"GGUF":
            self._refuse(f"it is no GGUF file (it starts with {magic!r}, not b'GGUF')")
        self._at = 4
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0:
            self._refuse("it is a big-endian GGUF file; this machine needs the little-endian one")
        if not MIN_VERSION <= version <= MAX_VERSION:
            self._refuse(f"GGUF version {version} is not one of {MIN_VERSION}..{MAX_VERSION}")
        num_tensors, num_entries = self._unpack("QQ")
        left = self._size - self._at
        if num_entries * _MIN_ENTRY_BYTES + num_tensors * _MIN_TENSOR_BYTES > left:
            self._refuse(
                f"the header claims {num_entries} metadata entries and {num_tensors} tensors, "
                f"more than a file of {self._size} bytes can hold"
            )
        return version, num_tensors, num_entries

    def _unpack(self, form: str) -> tuple[int, ...]:
        end = self._at + struct.calcsize("<" + form)
        if end > self._size:
            self._cut(end)
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at = end
        return values

    def _cut(self, end: int) -> NoReturn:
        self._refuse(
            f"the file is cut or damaged: {self._what} needs bytes up to {end}, "
            f"the file has {self._size}"
        )

    def _bytes(self, what: str) -> bytes:
        (length,) = self._unpack("Q")
        if length > MAX_STRING_BYTES:
            self._refuse(f"{self._what}: the {what} claims {length} bytes")
        start, self._at = self._at, self._at + length
        if self._at > self._size:
            self._cut(self._at)
        return self._data[start : self._at]

    def _text(self, what: str) -> str:
        raw = self._bytes(what)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self._refuse(f"{self._what}: the {what} {raw[:80]!r} is not UTF-8 text")
        if "\0" in text:
            self._refuse(f"{self._what}: the {what} {text[:80]!r} holds a null character")
        return text

    def _value(self, key: str) -> tuple[str, Value]:
        (code,) = self._unpack("I")
        if code == _STRING:
            # Free text of the author may be in any encoding; what the loader reads may not.
            if key.startswith("general.") and key != "general.architecture":
                return "str", self._bytes("value").decode(errors="replace")
            return "str", self._text("value")
        if code == _ARRAY:
            return "array", self._array(key)
        if code not in SCALAR_TYPES:
            self._refuse(f"{self._what} has the unknown value type {code}")
        name, form = SCALAR_TYPES[code]
        return name, self._unpack(form)[0]

    def _array(self, key: str) -> GgufArray:
        code, count = self._unpack("IQ")
        if code == _ARRAY or (code != _STRING and code not in SCALAR_TYPES):
            kind = "arrays" if code == _ARRAY else f"the unknown type {code}"
            self._refuse(f"{self._what} is an array of {kind}")
        name, form = SCALAR_TYPES.get(code, ("str", "Q"))  # a string has at least its length
        end = self._at + count * struct.calcsize(form)
        if count > MAX_ARRAY_ITEMS or end > self._size:
            self._cut(end)
        keep = count <= MAX_KEPT_ITEMS or key in self._keep
        if code == _STRING:
            return GgufArray(name, count, self._strings(count, keep=keep))
        items = struct.unpack_from(f"<{count}{form}", self._data, self._at) if keep else None
        self._at = end
        return GgufArray(name, count, items)

    def _strings(self, count: int, *, keep: bool) -> tuple[bytes, ...] | None:
        """Walk over strings; the hot loop of the reader, so the end of the file is found by exception."""
        data, at = self._data, self._at
        length_at = struct.Struct("<Q").unpack_from
        items: list[bytes] = []
        try:
            for _ in range(count):
                (length,) = length_at(data, at)
                start = at + 8
                at = start + length
                if keep:
                    items.append(data[start:at])
        except (struct.error, OverflowError):
            self._cut(at + 8)
        if at > self._size:
            self._cut(at)
        self._at = at
        return tuple(items) if keep else None

    def _alignment(self, metadata: dict[str, Value], value_types: dict[str, str]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if value_types.get("general.alignment", "u32") != "u32" or not isinstance(alignment, int):
            self._refuse(f"general.alignment is {value_types['general.alignment']}, not u32")
        if alignment == 0 or alignment & (alignment - 1):
            self._refuse(f"general.alignment is {alignment}, not a power of two")
        return alignment

    def _tensors(self, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
        """Read name -> (shape, type, offset from the start of the tensor data)."""
        described: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for i in range(count):
            self._what = f"tensor description {i}"
            name = self._text("name")
            self._what = f"the description of tensor {name}"
            if len(name.encode()) > MAX_NAME_BYTES:
                self._refuse(f"tensor name {name!r} is longer than {MAX_NAME_BYTES} bytes")
            if name in described:
                self._refuse(f"tensor {name!r} appears twice")
            (num_dims,) = self._unpack("I")
            if not 1 <= num_dims <= MAX_DIMS:
                self._refuse(f"tensor {name!r} has {num_dims} dimensions, not 1..{MAX_DIMS}")
            shape = self._unpack(f"{num_dims}Q")
            code, offset = self._unpack("IQ")
            described[name] = (shape, code, offset)
        return described

    def _placed(
        self,
        described: dict[str, tuple[tuple[int, ...], int, int]],
        data_offset: int,
        alignment: int,
    ) -> dict[str, TensorInfo]:
        """Check shapes, and that the tensors follow one another without a gap up to the file's end."""
        tensors: dict[str, TensorInfo] = {}
        expected = 0
        for name, (shape, code, offset) in described.items():
            if code not in GGML_TYPES:
                self._refuse(f"tensor {name!r} has the unknown type {code}")
            type_name, block, block_bytes = GGML_TYPES[code]
            if 0 in shape or shape[0] % block:
                self._refuse(
                    f"tensor {name!r} has the shape {shape}; {type_name} needs positive dimensions, "
                    f"the first a multiple of {block}"
                )
            num_elements = math.prod(shape)
            if num_elements >= MAX_ELEMENTS:
                self._refuse(f"tensor {name!r} claims {num_elements} elements (shape {shape})")
            if offset != expected:
                self._refuse(f"tensor {name!r} is said to start at {offset}, not at {expected}")
            size_bytes = num_elements // block * block_bytes
            start = data_offset + offset
            if start + size_bytes > self._size:
                self._refuse(
                    f"the file is cut: tensor {name} needs bytes up to {start + size_bytes}, "
                    f"the file has {self._size}"
                )
            tensors[name] = TensorInfo(name, shape, type_name, start, size_bytes)
            expected += size_bytes + -size_bytes % alignment
        return tensors
