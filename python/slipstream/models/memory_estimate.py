"""What loading a model will take of memory, from its header alone: arithmetic, nothing is loaded.

    weights   every tensor of the file; mapped or copied, they are there once
    KV cache  keys and values of each attention layer for every token of the context
    compute   attention masks and the widest of logits and feed-forward rows (llama-context.cpp `graph_reserve`)
    output    a row of logits for each sequence
    process   the interpreter, and about 130 bytes for each entry of the vocabulary (measured)

Recurrent layers keep a state of fixed size, which is small beside the rest; layers are taken as attention layers where
the header does not say otherwise. The second tier of the prefix cache comes on top as it fills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from slipstream.base.load_config import DEFAULT_CONTEXT_LENGTH
from slipstream.models.gguf import read_gguf
from slipstream.models.gguf_types import GGML_TYPES, GgufArray

if TYPE_CHECKING:
    from pathlib import Path

    from slipstream.base.load_config import LoadConfig
    from slipstream.models.gguf_types import GgufHeader

_PROCESS_BYTES = 52 << 20
_TOKEN_BYTES = 130
_F32 = 4
_CACHED_SEQS = 16  # sequences of the prefix cache beside those that run, see LlamaRunner
_MAX_SEQS = 64
_CELLS_PADDING = 256
_TYPES = {name: (block, size) for name, block, size in GGML_TYPES.values()}


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a loaded model will take.

    Attributes:
        weights_bytes: Of the tensors, the draft model's too.
        kv_bytes: Of the KV cache.
        compute_bytes: Of buffers for computing.
        process_bytes: Of the engine process itself.
        gpu_bytes: Of weights and cache, as far as they lie on the GPU; not in `total_bytes` of a machine without one.
        context_length: Tokens of context it was made for.
        is_mapped: The weights are pages of the file, which the system can share and drop.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    process_bytes: int
    gpu_bytes: int = 0
    context_length: int = 0
    is_mapped: bool = True

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.process_bytes


def estimate_load(path: Path, other_parts_bytes: int, config: LoadConfig) -> MemoryEstimate:
    """Estimate what loading a file takes. Reads its header: some milliseconds.

    Args:
        path: The file, the first one of a split model.
        other_parts_bytes: Size of the other files of a split model.
        config: How it is to be loaded.

    Raises:
        ModelLoadError: it cannot be read, or the draft model cannot.
    """
    header = read_gguf(path)
    main = _estimate(header, config, config.context_length)
    main = msgspec.structs.replace(main, weights_bytes=main.weights_bytes + other_parts_bytes)
    if config.draft_model is None:
        return main
    draft = _estimate(read_gguf(config.draft_model), config, main.context_length)
    return msgspec.structs.replace(
        main,
        weights_bytes=main.weights_bytes + draft.weights_bytes,
        kv_bytes=main.kv_bytes + draft.kv_bytes,
        compute_bytes=main.compute_bytes + draft.compute_bytes,
    )


def _estimate(header: GgufHeader, config: LoadConfig, context_length: int) -> MemoryEstimate:
    trained = header.context_length or DEFAULT_CONTEXT_LENGTH
    num_tokens = context_length or min(trained, DEFAULT_CONTEXT_LENGTH)
    num_cells = -(-num_tokens // _CELLS_PADDING) * _CELLS_PADDING
    num_rows = min(config.batch_size, num_tokens)
    num_seqs = max(config.parallel, min(config.parallel + _CACHED_SEQS, _MAX_SEQS))
    num_vocab = header.num_tokens
    widest = 2 * max(_numbers(header, "feed_forward_length") or [0]) + 2 * header.embedding_length
    logits = (config.parallel + 32) * num_vocab
    mask = num_cells * num_rows
    scores = mask * max(_numbers(header, "attention.head_count") or [0])
    compute = mask + max(logits, num_rows * widest) + num_seqs * num_vocab
    if config.flash_attention is False:
        compute += scores
    return MemoryEstimate(
        weights_bytes=sum(tensor.size_bytes for tensor in header.tensors.values()),
        kv_bytes=_kv_bytes(header, config.kv_type, num_cells),
        compute_bytes=compute * _F32,
        process_bytes=_PROCESS_BYTES + _TOKEN_BYTES * num_vocab,
        context_length=num_tokens,
        is_mapped=config.mmap,
    )


def _kv_bytes(header: GgufHeader, kv_type: str, num_cells: int) -> int:
    """Keys and values of every layer that has key heads; an encoder such as BERT's keeps none."""
    arch = header.architecture
    if header.metadata.get(f"{arch}.attention.causal") is False or not header.block_count:
        return 0
    num_heads = max(_numbers(header, "attention.head_count") or [1])
    head_size = header.embedding_length // max(num_heads, 1)
    key = (_numbers(header, "attention.key_length") or [head_size])[0]
    value = (_numbers(header, "attention.value_length") or [head_size])[0]
    heads = _numbers(header, "attention.head_count_kv") or [num_heads]
    layers = header.block_count  # of a damaged header a number no list may have
    num_kv_heads = sum(heads) if len(heads) == layers else heads[0] * layers
    every = (_numbers(header, "full_attention_interval") or [1])[0]  # of hybrids such as qwen3next
    num_elements = (key + value) * num_kv_heads // max(every, 1)
    block, size = _TYPES.get(kv_type, (1, 2))
    return num_cells * num_elements * size // block


def _numbers(header: GgufHeader, name: str) -> list[int]:
    """Return an integer of the architecture's metadata, or those of its layers; nothing when it is not there."""
    value = header.metadata.get(f"{header.architecture}.{name}")
    if isinstance(value, GgufArray):
        return [int(item) for item in value.items or () if not isinstance(item, bytes)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []
