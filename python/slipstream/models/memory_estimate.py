"""What loading a model will take of memory, from its header alone: arithmetic, nothing is loaded.

    weights   every tensor of the file; mapped or copied, they are there once
    repacked  a copy of the weights ggml re-arranges (repack.cpp), where it is asked to
    KV cache  keys and values of each attention layer for every token of the context
    compute   attention masks and the widest of logits and feed-forward rows (llama-context.cpp `graph_reserve`)
    output    a row of logits for each sequence
    projector its tensors, and buffers for an image of the size it was trained for (clip.cpp `warmup`)
    process   the interpreter, and about 130 bytes for each entry of the vocabulary (measured)

Recurrent layers keep a state of fixed size, which is small beside the rest; layers are taken as attention layers where
the header does not say otherwise. The second tier of the prefix cache comes on top as it fills.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from platform import machine
from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import ModelLoadError
from slipstream.base.load_config import DEFAULT_CONTEXT_LENGTH, with_layers
from slipstream.models.gguf import read_gguf
from slipstream.models.gguf_types import GGML_TYPES, GgufArray
from slipstream.models.projectors import find_projector

if TYPE_CHECKING:
    from slipstream.base.load_config import LoadConfig
    from slipstream.models.gguf_types import GgufHeader

_PROCESS_BYTES = 52 << 20
_TOKEN_BYTES = 130
_F32 = 4
_CELLS_PADDING = 256
# ggml_repack_get_optimal_repack_type of ggml-cpu/repack.cpp, with AVX2 (and AVX-512 for q2_K) or i8mm
_REPACKED = {
    "x86": {"q4_0", "q4_K", "q2_K", "iq4_nl", "mxfp4"},
    "arm": {"q4_0", "q4_K", "q5_K", "q6_K", "iq4_nl", "mxfp4", "q8_0"},
}
_REPACKED_ROWS = 8
_TYPES = {name: (block, size) for name, block, size in GGML_TYPES.values()}


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a loaded model will take.

    Attributes:
        weights_bytes: Of the tensors, the draft model's too.
        repacked_bytes: Of weights in another order for this CPU, beside the mapped ones.
        kv_bytes: Of the KV cache.
        compute_bytes: Of buffers for computing.
        process_bytes: Of the engine process itself.
        projector_bytes: Of the projector for images, with its buffers.
        gpu_bytes: Of weights and cache, as far as they lie on a GPU; a part of the others.
        is_gpu_apart: It has memory of its own.
        context_length: Tokens of context it was made for.
        is_mapped: The weights are pages of the file, which the system can share and drop.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    process_bytes: int
    repacked_bytes: int = 0
    projector_bytes: int = 0
    gpu_bytes: int = 0
    is_gpu_apart: bool = False
    context_length: int = 0
    is_mapped: bool = True

    @property
    def total_bytes(self) -> int:
        """All of it."""
        own = self.weights_bytes + self.kv_bytes + self.compute_bytes + self.process_bytes
        return own + self.repacked_bytes + self.projector_bytes

    @property
    def mapped_bytes(self) -> int:
        """Of that, pages of the file, which the system calls free."""
        on_gpu = self.gpu_bytes if self.is_gpu_apart else 0
        return max(self.weights_bytes - on_gpu, 0) if self.is_mapped else 0

    @property
    def host_bytes(self) -> int:
        """What it takes of the machine's own memory."""
        return self.total_bytes - (self.gpu_bytes if self.is_gpu_apart else 0)


def build_backend() -> str:
    """Return what the native core was built for (cpu, cuda, vulkan or metal), without loading it."""
    spec = find_spec("slipstream._core")
    if spec is None or spec.origin is None:
        return "cpu"
    try:
        return Path(spec.origin).with_name("_backend.txt").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "cpu"


def estimate_load(
    path: Path, other_parts_bytes: int, config: LoadConfig, backend: str | None = None
) -> MemoryEstimate:
    """Estimate what loading a file takes. Reads its header: some milliseconds.

    Args:
        path: The file, the first one of a split model.
        other_parts_bytes: Size of the other files of a split model.
        config: How it is to be loaded.
        backend: Of the build; asked for if not given. With another than cpu, a GPU is taken to be there.

    Raises:
        ModelLoadError: it cannot be read, or the draft model or the projector of the config cannot.
    """
    backend = backend or build_backend()
    header = read_gguf(path)
    main = _estimate(header, config, config.context_length, backend)
    main = msgspec.structs.replace(main, weights_bytes=main.weights_bytes + other_parts_bytes)
    projector = find_projector(str(path)) if config.projector is None else config.projector
    if projector:
        main = _with_projector(main, projector, required=config.projector is not None)
    if config.draft_model is None or not config.has_draft_model:
        return main
    draft = _estimate(read_gguf(config.draft_model), config, main.context_length, backend)
    return msgspec.structs.replace(
        main,
        weights_bytes=main.weights_bytes + draft.weights_bytes,
        repacked_bytes=main.repacked_bytes + draft.repacked_bytes,
        kv_bytes=main.kv_bytes + draft.kv_bytes,
        compute_bytes=main.compute_bytes + draft.compute_bytes,
        gpu_bytes=main.gpu_bytes + draft.gpu_bytes,
    )


def _estimate(
    header: GgufHeader, config: LoadConfig, context_length: int, backend: str
) -> MemoryEstimate:
    trained = header.context_length or DEFAULT_CONTEXT_LENGTH
    num_tokens = context_length or min(trained, DEFAULT_CONTEXT_LENGTH)
    num_cells = -(-num_tokens // _CELLS_PADDING) * _CELLS_PADDING
    num_rows = min(config.batch_size, num_tokens)
    num_vocab = header.num_tokens
    widest = 2 * max(_numbers(header, "feed_forward_length") or [0]) + 2 * header.embedding_length
    logits = (config.parallel + 32) * num_vocab
    mask = num_cells * num_rows
    scores = mask * max(_numbers(header, "attention.head_count") or [0])
    compute = mask + max(logits, num_rows * widest) + config.num_seqs * num_vocab
    if config.flash_attention is False:
        compute += scores
    kv_bytes = _kv_bytes(header, config.kv_type, num_cells)
    return MemoryEstimate(
        weights_bytes=sum(tensor.size_bytes for tensor in header.tensors.values()),
        repacked_bytes=_repacked_bytes(header) if config.is_repacked and config.mmap else 0,
        kv_bytes=kv_bytes,
        compute_bytes=compute * _F32,
        process_bytes=_PROCESS_BYTES + _TOKEN_BYTES * num_vocab,
        context_length=num_tokens,
        gpu_bytes=0 if backend == "cpu" else _gpu_bytes(header, config, kv_bytes),
        is_gpu_apart=backend == "cuda",  # what Vulkan finds is often the processor's own graphics
        is_mapped=config.mmap,
    )


def _repacked_bytes(header: GgufHeader) -> int:
    """The copy of what is re-arranged for this CPU; without a map of the file there is no other."""
    types = _REPACKED["arm" if machine() in ("arm64", "aarch64") else "x86"]
    return sum(
        tensor.size_bytes
        for name, tensor in header.tensors.items()
        if tensor.type_name in types
        and name.endswith(".weight")
        and name.startswith(("blk.", "output."))
        and len(tensor.shape) > 1
        and tensor.shape[1] % _REPACKED_ROWS == 0
    )


def _gpu_bytes(header: GgufHeader, config: LoadConfig, kv_bytes: int) -> int:
    """Weights and cache on the GPU: of the last layers, the output counting as the very last (llama-model.cpp)."""
    num_blocks = header.block_count
    num_layers = with_layers(config, num_blocks).gpu_layers
    if num_layers < 0:
        num_layers = num_blocks + 1
    first = max(num_blocks + 1 - num_layers, 0)
    weights = 0
    for name, tensor in header.tensors.items():
        parts = name.split(".", 2)
        is_block = len(parts) > 1 and parts[0] == "blk" and parts[1].isdecimal()
        if first <= (int(parts[1]) if is_block else num_blocks) and parts[0] != "token_embd":
            weights += tensor.size_bytes
    if not config.offload_kv_cache or not num_blocks:
        return weights
    return weights + kv_bytes * (num_blocks - min(first, num_blocks)) // num_blocks


def _with_projector(main: MemoryEstimate, path: str, *, required: bool) -> MemoryEstimate:
    """Add a projector, which is read rather than mapped. One that only lies beside a model is not needed."""
    try:
        header = read_gguf(path)
    except ModelLoadError:
        if required:
            raise
        return main

    def number(name: str) -> int:
        value = header.metadata.get(f"clip.vision.{name}")
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    # Square images of square patches; wider ones are brought to about so many.
    num_patches = (number("image_size") // max(number("patch_size"), 1)) ** 2
    a_patch = 2 * number("feed_forward_length") + 4 * number("embedding_length")
    scores = number("attention.head_count") * num_patches
    weights = sum(tensor.size_bytes for tensor in header.tensors.values())
    return msgspec.structs.replace(
        main,
        projector_bytes=weights + num_patches * (a_patch + scores) * _F32,
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
