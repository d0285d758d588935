"""What a GGUF file consists of: value types, tensor types and the parts of a header. Reads nothing.

Layout: ggml/include/gguf.h of the pinned llama.cpp; block sizes: `type_traits` in ggml/src/ggml.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from slipstream.base.errors import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path

# value type -> (name, struct code); 8 is a string, 9 an array
SCALAR_TYPES = {
    0: ("u8", "B"),
    1: ("i8", "b"),
    2: ("u16", "H"),
    3: ("i16", "h"),
    4: ("u32", "I"),
    5: ("i32", "i"),
    6: ("f32", "f"),
    7: ("bool", "?"),
    10: ("u64", "Q"),
    11: ("i64", "q"),
    12: ("f64", "d"),
}

# ggml type -> (name, elements in a block, bytes of a block)
GGML_TYPES = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_K", 256, 84),
    11: ("q3_K", 256, 110),
    12: ("q4_K", 256, 144),
    13: ("q5_K", 256, 176),
    14: ("q6_K", 256, 210),
    15: ("q8_K", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
    42: ("q2_0", 64, 18),
}


MAX_KEPT_ITEMS = 1024  # longer arrays are counted, not kept: vocabularies, above all


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of the metadata.

    Attributes:
        item_type: "str", "u32", "f32", ...
        count: Number of items.
        items: The items, or None when they were too many to keep. Strings are bytes.
    """

    item_type: str
    count: int
    items: tuple[int | float | bool | bytes, ...] | None = None


Value = int | float | bool | str | GgufArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies and what it is.

    Attributes:
        name: Unique in the file.
        shape: ggml's order: the first dimension is contiguous.
        type_name: ggml type, e.g. "q4_K".
        offset: From the start of the file, in bytes.
        size_bytes: Of its data.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        path: The file.
        size_bytes: Of the file.
        version: Of the format.
        metadata: Key to value; arrays of more than MAX_KEPT_ITEMS items come without them.
        value_types: Key to the type of its value: "u32", "str", "array", ...
        tensors: Name to description, in file order.
        data_offset: Where the tensor data starts.
    """

    path: Path
    size_bytes: int
    version: int
    metadata: dict[str, Value]
    value_types: dict[str, str]
    tensors: dict[str, TensorInfo] = field(repr=False)
    data_offset: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model family, empty when the file has none."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""

    @property
    def name(self) -> str:
        """The model's own name, empty when the file has none."""
        value = self.metadata.get("general.name")
        return value if isinstance(value, str) else ""

    @property
    def context_length(self) -> int:
        """Tokens the model was trained for, 0 when the file does not say."""
        return self._number("context_length")

    @property
    def embedding_length(self) -> int:
        """Width of the model, 0 when the file does not say."""
        return self._number("embedding_length")

    @property
    def block_count(self) -> int:
        """Number of layers, 0 when the file does not say."""
        return self._number("block_count")

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, 0 when the file has none."""
        value = self.metadata.get("tokenizer.ggml.tokens")
        return value.count if isinstance(value, GgufArray) else 0

    def _number(self, name: str) -> int:
        value = self.metadata.get(f"{self.architecture}.{name}")
        return value if isinstance(value, int) and not isinstance(value, bool) else 0


def refuse(path: Path, cause: str) -> NoReturn:
    """Raise the ModelLoadError for this file and cause."""
    message = f"cannot load {path}: {cause}"
    raise ModelLoadError(message, path=str(path))
