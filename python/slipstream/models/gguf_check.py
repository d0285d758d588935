"""Checks hyperparameters and tensor types of a GGUF header against what llama.cpp asserts. Reads no file.

llama.cpp reports much of a bad header as an error by itself; the rules here are those it answers with
abort() or a division by zero (src/llama-model.cpp `load_hparams`, src/models/*.cpp, ggml/src/ggml.c),
and those whose own message would not tell a user what is wrong with the file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from slipstream.models.gguf_types import GgufArray, refuse

if TYPE_CHECKING:
    from slipstream.models.gguf_types import GgufHeader, Value

MAX_LAYERS, MAX_EXPERTS = 512, 1024  # llama-hparams.h
MAX_HEADS, MAX_HEAD_SIZE = 1 << 14, 1 << 14
MAX_EMBEDDING = 1 << 20
MAX_CONTEXT = (1 << 31) - 1
MAX_WINDOW = 1 << 24  # llama.cpp multiplies it with the number of sequences in 32 bits
MAX_POOLING_TYPE = 4  # enum llama_pooling_type
UNSPECIFIED = (1 << 32) - 1  # -1 as llama.cpp writes it
MMAP_ALIGNMENT = (
    32  # TENSOR_ALIGNMENT: ggml-cpu aborts on tensor data in memory that is aligned less
)

_OTHER_FILES = {
    "adapter": "a LoRA adapter, to be used with its base model",
    "mmproj": "the image or audio encoder of a multimodal model, to be used with that model",
    "imatrix": "an importance matrix for quantizing",
}
_ROPE_SCALING_TYPES = ("none", "linear", "yarn", "longrope")
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")
_DIVISORS = (
    "full_attention_interval",
    "wkv.head_size",
    "attention.key_length",
    "attention.value_length",
)
_DIVIDE_BY_GROUPS = ("mamba2", "falcon-h1", "nemotron_h", "nemotron_h_moe", "granitehybrid")
_DOUBLE_INNER = ("jamba",)
_NO_ROPE = ("glm5-next",)
# Encoders whose tensors all have embedding_length columns, so that no shape gives a wrong head size away
_FIXED_HEADS = ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3")
_OPTIONAL_EXPERTS = ("hunyuan-dense", "hunyuan_vl")  # llama.cpp ignores a single expert in these
_INTEGERS = ("i8", "i16", "i32", "i64")
NO_WEIGHTS = (*_INTEGERS, "f64", "q8_1", "q8_K")  # no matrix product of ggml takes these
# ggml-cpu adds and multiplies activations with f32 only; vectors and the tensors of these names get that
_F32_PARTS = ("norm.", "ssm_conv1d", "shortconv.conv", "ssm_a", "ssm_d.")


def check_model(header: GgufHeader, *, vocab_only: bool = False) -> None:
    """Check everything but the tokenizer.

    Args:
        header: Of the file, or of the first part of a split one.
        vocab_only: It need not hold tensors.

    Raises:
        ModelLoadError: llama.cpp would refuse this file, or die of it.
    """
    _check_kind(header)
    if not header.tensors and not vocab_only:
        refuse(header.path, "it holds no tensors, so it is no whole model")
    keys = _Keys(header)
    keys.integer("context_length", 1, MAX_CONTEXT, required=True)
    keys.integer("embedding_length", 1, MAX_EMBEDDING, required=True)
    num_layers = keys.integer("block_count", 1, MAX_LAYERS, required=True)
    keys.integer("nextn_predict_layers", 0, num_layers)
    for name in _DIVISORS:
        keys.integer(name, 1, MAX_CONTEXT)
    keys.finite()
    _check_attention(keys)
    _check_rope(keys)
    _check_experts(keys)
    _check_state_space(keys)
    pooling = keys.integer("pooling_type", 0, UNSPECIFIED)
    if MAX_POOLING_TYPE < pooling < UNSPECIFIED:
        keys.refuse("pooling_type", f"one of 0..{MAX_POOLING_TYPE}")


def check_tensor_types(header: GgufHeader) -> None:
    """Check that weights have types ggml can compute with, and lie where it can map them.

    Args:
        header: Of the file, or of one part of a split one.

    Raises:
        ModelLoadError: see above.
    """
    if header.tensors and header.data_offset % MMAP_ALIGNMENT:
        refuse(header.path, f"its tensor data is not aligned to {MMAP_ALIGNMENT} bytes")
    for name, tensor in header.tensors.items():
        weights = name.endswith((".weight", ".bias"))
        vector = len(tensor.shape) == 1 or any(part in name for part in _F32_PARTS)
        index_table = tensor.type_name in _INTEGERS and not weights
        if vector and tensor.type_name != "f32" and not index_table:
            refuse(header.path, f"tensor {name!r} has the type {tensor.type_name}; it must be f32")
        if weights and tensor.type_name in NO_WEIGHTS:
            refuse(
                header.path, f"tensor {name!r} has the type {tensor.type_name}, no type of weights"
            )


def _check_kind(header: GgufHeader) -> None:
    kind = header.metadata.get("general.type", "model")
    if isinstance(kind, str) and kind in _OTHER_FILES:
        refuse(header.path, f"it is {_OTHER_FILES[kind]}")
    if "general.architecture" not in header.metadata:
        refuse(header.path, "general.architecture is missing, so it is no model")
    if header.value_types["general.architecture"] != "str":
        kind = header.value_types["general.architecture"]
        refuse(header.path, f"general.architecture is {kind}, not a string")
    architecture = header.architecture
    if architecture == "clip":
        refuse(header.path, f"it is {_OTHER_FILES['mmproj']}")
    if not any(key.startswith(f"{architecture}.") for key in header.metadata):
        refuse(
            header.path,
            f"its architecture {architecture!r} is unknown, or all its values are missing",
        )


class _Keys:
    """Values of the model's architecture, by their name without it."""

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self._prefix = header.architecture + "."
        self.architecture = header.architecture

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._header.metadata

    def get(self, name: str) -> Value | None:
        """Return the value as it is, None when there is none."""
        return self._header.metadata.get(self._prefix + name)

    def refuse(self, name: str, needed: str) -> NoReturn:
        """Refuse the file for the value of `name`."""
        value = self.get(name)
        if isinstance(value, GgufArray):
            value = f"[{', '.join(map(str, (value.items or ())[:8]))}{', ...' * (value.count > 8)}]"
        refuse(self._header.path, f"{self._prefix}{name} is {value}; it must be {needed}")

    def integer(self, name: str, low: int, high: int, *, required: bool = False) -> int:
        """Return an u32 value in low..high, `low` when it is absent."""
        key = self._prefix + name
        if key not in self._header.metadata:
            if required:
                refuse(self._header.path, f"{key} is missing")
            return low
        value = self.get(name)
        if self._header.value_types[key] != "u32" or not isinstance(value, int):
            self.refuse(name, f"of type u32, not {self._header.value_types[key]}")
        if not low <= value <= high:
            self.refuse(name, f"between {low} and {high}")
        return value

    def per_layer(self, name: str, high: int) -> list[int]:
        """Return one integer in 0..high for each layer, [] when there are none."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, GgufArray):
            return [self.integer(name, 0, high)] * self._header.block_count
        if value.count != self._header.block_count or value.item_type not in ("u32", "i32"):
            self.refuse(
                name, f"one integer, or {self._header.block_count} of them, one for each layer"
            )
        items = [int(item) for item in value.items or ()]
        if not all(0 <= item <= high for item in items):
            self.refuse(name, f"between 0 and {high} in every layer")
        return items

    def finite(self) -> None:
        """Refuse NaN and infinite numbers anywhere in the architecture's values."""
        for key, value in self._header.metadata.items():
            if not key.startswith(self._prefix):
                continue
            items = value.items or () if isinstance(value, GgufArray) else (value,)
            if any(isinstance(item, float) and not math.isfinite(item) for item in items):
                self.refuse(key.removeprefix(self._prefix), "a finite number")

    def non_negative(self, name: str) -> None:
        """Refuse a number below 0."""
        value = self.get(name)
        if isinstance(value, int | float) and value < 0:
            self.refuse(name, "at least 0")


def _check_attention(keys: _Keys) -> None:
    heads = keys.per_layer("attention.head_count", MAX_HEADS)
    heads_kv = keys.per_layer("attention.head_count_kv", MAX_HEADS)
    keys.per_layer("feed_forward_length", MAX_CONTEXT)
    for count, count_kv in zip(heads, heads_kv, strict=False):  # either may be absent
        if count_kv and count % count_kv:
            keys.refuse("attention.head_count_kv", f"a divisor of head_count ({count})")
    embedding = keys.integer("embedding_length", 1, MAX_EMBEDDING)
    if heads and heads[0] > embedding:
        keys.refuse("attention.head_count", f"at most embedding_length ({embedding})")
    if keys.architecture in _FIXED_HEADS and heads and heads[0]:
        if embedding % heads[0]:
            keys.refuse("attention.head_count", f"a divisor of embedding_length ({embedding})")
        for name in ("attention.key_length", "attention.value_length"):
            if keys.get(name) not in (None, embedding // heads[0]):
                keys.refuse(name, f"embedding_length / head_count ({embedding // heads[0]})")
    for name in _EPSILONS:
        keys.non_negative(f"attention.{name}")
    _check_window(keys)


def _check_window(keys: _Keys) -> None:
    """A model with a sliding window must use it in some layer (llama-model.cpp `create_memory`)."""
    window = keys.integer("attention.sliding_window", 0, MAX_WINDOW)
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, GgufArray):
        num_layers = keys.integer("block_count", 1, MAX_LAYERS)
        if window and not any((pattern.items or ())[:num_layers]):
            keys.refuse("attention.sliding_window_pattern", "true for some layer")
    elif window and pattern == 1:
        keys.refuse("attention.sliding_window_pattern", "0 or at least 2, with a window")


def _check_rope(keys: _Keys) -> None:
    scaling = keys.get("rope.scaling.type")
    if scaling is not None and scaling not in _ROPE_SCALING_TYPES:
        keys.refuse("rope.scaling.type", f"one of {', '.join(_ROPE_SCALING_TYPES)}")
    keys.non_negative("rope.freq_base")
    heads = keys.per_layer("attention.head_count", MAX_HEADS)
    if not heads or heads[0] == 0:
        return
    embedding = keys.integer("embedding_length", 1, MAX_EMBEDDING)
    head_size = embedding // heads[0]
    if "attention.key_length" in keys:
        head_size = keys.integer("attention.key_length", 1, MAX_HEAD_SIZE)
    for suffix in ("", "_swa"):
        if suffix and f"attention.key_length{suffix}" in keys:
            head_size = keys.integer(f"attention.key_length{suffix}", 1, MAX_HEAD_SIZE)
        name = f"rope.dimension_count{suffix}"
        lowest = 0 if keys.architecture in _NO_ROPE else 2  # ggml's rope never ends on 0
        if keys.integer(name, lowest, head_size) % 2:
            keys.refuse(name, "even")


def _check_experts(keys: _Keys) -> None:
    count = keys.integer("expert_count", 0, MAX_EXPERTS)
    if count <= 1 and keys.architecture in _OPTIONAL_EXPERTS:
        return
    used = max(keys.per_layer("expert_used_count", MAX_EXPERTS), default=0)
    groups = keys.integer("expert_group_count", 0, MAX_EXPERTS)
    if not (1 if count else 0) <= used <= count:
        keys.refuse(
            "expert_used_count" if used else "expert_count", f"in line: {used} of {count} used"
        )
    if groups > 0 and groups >= count:
        keys.refuse("expert_group_count", f"below expert_count ({count})")
    if groups > 1:
        if count % groups:
            keys.refuse("expert_group_count", f"a divisor of expert_count ({count})")
        keys.integer("expert_group_used_count", 1, groups - 1, required=True)


def _check_state_space(keys: _Keys) -> None:
    for name in ("conv_kernel", "inner_size", "state_size", "time_step_rank", "group_count"):
        keys.integer(f"ssm.{name}", 0, MAX_EMBEDDING)
    inner = keys.integer("ssm.inner_size", 0, MAX_EMBEDDING)
    groups = keys.integer("ssm.group_count", 0, MAX_EMBEDDING)
    if keys.architecture in _DIVIDE_BY_GROUPS and (groups == 0 or inner % groups):
        keys.refuse("ssm.group_count", f"a divisor of ssm.inner_size ({inner})")
    embedding = keys.integer("embedding_length", 1, MAX_EMBEDDING)
    if keys.architecture in _DOUBLE_INNER and inner != 2 * embedding:
        keys.refuse("ssm.inner_size", f"twice embedding_length ({embedding})")
    keys.integer("shortconv.l_cache", 2, MAX_EMBEDDING)
