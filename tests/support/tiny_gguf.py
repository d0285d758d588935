"""Writes small random GGUF models that llama.cpp really loads and runs.

Every kind of llama.cpp memory has one (see KINDS), so tests of the native core need no download:

    kind     architecture  memory                      tokenizer
    llama    llama         plain KV cache              byte-level BPE, ChatML template
    gemma3   gemma3        sliding window (8) + full   byte-level BPE, ChatML template
    mamba    mamba         recurrent state             byte-level BPE, ChatML template
    lfm2     lfm2          recurrent + KV (hybrid)     byte-level BPE, ChatML template
    bert     bert          none: embeddings only       WordPiece
    qwen2vl  qwen2vl       plain KV cache, M-RoPE      byte-level BPE, ChatML template

The weights are seeded, so the same call always writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.support.gguf_writer import Metadata, Tensors, gguf_bytes
from tests.support.tiny_vocab import bpe_vocabulary, tokenizer_metadata, wordpiece_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

N_EMBD = 64
SMALL_N_EMBD = 32  # of mamba and bert, which would be above 300 KB otherwise
N_FF = 32
N_HEAD = 2
N_HEAD_KV = 1
HEAD_SIZE = N_EMBD // N_HEAD
N_LAYER = 2
SLIDING_WINDOW = 8
KINDS = ("llama", "gemma3", "mamba", "lfm2", "bert")


class Weights:
    """Collects random float32 tensors in file order."""

    def __init__(self, seed: int) -> None:
        self.tensors: Tensors = []
        self._random = np.random.default_rng(seed)

    def matrix(self, name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        """Add a matrix from `columns` inputs to `rows` outputs that about keeps their size."""
        values = self._random.normal(0.0, scale / columns**0.5, (rows, columns))
        self.tensors.append((name, values.astype(np.float32)))

    def vector(self, name: str, size: int, mean: float = 1.0, deviation: float = 0.1) -> None:
        """Add a vector, by default a norm's weights."""
        values = self._random.normal(mean, deviation, size)
        self.tensors.append((name, values.astype(np.float32)))

    def normal(self, name: str, shape: tuple[int, ...]) -> None:
        """Add an array of any shape whose sums over all but the first axis are about 1."""
        columns = int(np.prod(shape[1:]))
        values = self._random.normal(0.0, 1 / max(columns, 1) ** 0.5, shape)
        self.tensors.append((name, values.astype(np.float32)))

    def array(self, name: str, values: np.ndarray) -> None:
        """Add these values."""
        self.tensors.append((name, np.ascontiguousarray(values, dtype=np.float32)))


def tiny_parts(
    kind: str = "llama", seed: int = 0, *, n_vocab: int = 300, n_ctx_train: int = 512
) -> tuple[Metadata, Tensors]:
    """Return the metadata and tensors of a tiny model, for tests that change them before writing.

    Args:
        kind: One of KINDS, or qwen2vl.
        seed: Of the weights.
        n_vocab: Size of the vocabulary; bert ignores it and has its letters only.
        n_ctx_train: Context length it claims to be trained with.
    """
    weights = Weights(seed)
    n_embd = SMALL_N_EMBD if kind in ("mamba", "bert") else N_EMBD
    if kind == "bert":
        tokens, tokenizer = wordpiece_metadata()
    else:
        tokens = bpe_vocabulary(n_vocab)
        tokenizer = tokenizer_metadata(tokens)
    general: Metadata = [
        ("general.architecture", "str", kind),
        ("general.name", "str", f"Tiny {kind} {seed}"),
        ("general.file_type", "u32", 0),
        (f"{kind}.context_length", "u32", n_ctx_train),
        (f"{kind}.embedding_length", "u32", n_embd),
        (f"{kind}.block_count", "u32", N_LAYER),
        (f"{kind}.feed_forward_length", "u32", 0 if kind == "mamba" else N_FF),
    ]
    weights.matrix("token_embd.weight", len(tokens), n_embd, scale=n_embd**0.5)
    if kind not in ("bert", "lfm2"):
        # Random signs: near 1 the tied output layer would repeat the last token for ever.
        weights.vector("output_norm.weight", n_embd, mean=0.0, deviation=0.5)
    build = {
        "llama": _llama,
        "gemma3": _gemma3,
        "mamba": _mamba,
        "lfm2": _lfm2,
        "bert": _bert,
        "qwen2vl": _qwen2vl,
    }
    return general + build[kind](weights, n_ctx_train) + tokenizer, weights.tensors


def write_tiny_model(
    path: str | Path,
    kind: str = "llama",
    seed: int = 0,
    *,
    n_vocab: int = 300,
    n_ctx_train: int = 512,
) -> Path:
    """Write a tiny random model, less than 300 KB with the default sizes.

    Args:
        path: Where to.
        kind: See `tiny_parts`, as for the other arguments.
        seed: Of the weights.
        n_vocab: Size of the vocabulary.
        n_ctx_train: Context length it claims.

    Returns:
        The path.
    """
    target = Path(path)
    target.write_bytes(
        gguf_bytes(*tiny_parts(kind, seed, n_vocab=n_vocab, n_ctx_train=n_ctx_train))
    )
    return target


def write_tiny_lora(
    path: str | Path, seed: int = 1, *, rank: int = 4, alpha: float = 64.0, arch: str = "llama"
) -> Path:
    """Write a LoRA adapter for the tiny llama model that changes its output a lot.

    Args:
        path: Where to.
        seed: Of the weights.
        rank: Of the two factors.
        alpha: Scale times rank.
        arch: Architecture it claims to be for.

    Returns:
        The path.
    """
    weights = Weights(seed)
    for layer in range(N_LAYER):
        for name, rows, columns in (
            ("attn_q", N_EMBD, N_EMBD),
            ("attn_v", HEAD_SIZE * N_HEAD_KV, N_EMBD),
            ("ffn_down", N_EMBD, N_FF),
        ):
            weights.matrix(f"blk.{layer}.{name}.weight.lora_a", rank, columns)
            weights.matrix(f"blk.{layer}.{name}.weight.lora_b", rows, rank)
    metadata: Metadata = [
        ("general.type", "str", "adapter"),
        ("general.architecture", "str", arch),
        ("adapter.type", "str", "lora"),
        ("adapter.lora.alpha", "f32", alpha),
    ]
    target = Path(path)
    target.write_bytes(gguf_bytes(metadata, weights.tensors))
    return target


def _attention(weights: Weights, block: str) -> None:
    weights.matrix(f"{block}.attn_q.weight", HEAD_SIZE * N_HEAD, N_EMBD)
    weights.matrix(f"{block}.attn_k.weight", HEAD_SIZE * N_HEAD_KV, N_EMBD)
    weights.matrix(f"{block}.attn_v.weight", HEAD_SIZE * N_HEAD_KV, N_EMBD)
    weights.matrix(f"{block}.attn_output.weight", N_EMBD, HEAD_SIZE * N_HEAD)


def _feed_forward(weights: Weights, block: str) -> None:
    for name in ("ffn_gate", "ffn_up"):
        weights.matrix(f"{block}.{name}.weight", N_FF, N_EMBD)
    weights.matrix(f"{block}.ffn_down.weight", N_EMBD, N_FF)


def _attention_keys(kind: str, n_head_kv: int | Sequence[int] = N_HEAD_KV) -> Metadata:
    scalar = isinstance(n_head_kv, int)
    return [
        (f"{kind}.attention.head_count", "u32", N_HEAD),
        (f"{kind}.attention.head_count_kv", "u32" if scalar else "[i32]", n_head_kv),
        (f"{kind}.rope.dimension_count", "u32", HEAD_SIZE),
        (f"{kind}.rope.freq_base", "f32", 10000.0),
    ]


def _rms_eps(kind: str) -> Metadata:
    return [(f"{kind}.attention.layer_norm_rms_epsilon", "f32", 1e-5)]


def _llama(weights: Weights, _n_ctx_train: int) -> Metadata:
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", N_EMBD)
        _attention(weights, block)
        weights.vector(f"{block}.ffn_norm.weight", N_EMBD)
        _feed_forward(weights, block)
    return _attention_keys("llama") + _rms_eps("llama")


def _gemma3(weights: Weights, _n_ctx_train: int) -> Metadata:
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", N_EMBD)
        _attention(weights, block)
        for name in ("attn_q_norm", "attn_k_norm"):
            weights.vector(f"{block}.{name}.weight", HEAD_SIZE)
        for name in ("post_attention_norm", "ffn_norm", "post_ffw_norm"):
            weights.vector(f"{block}.{name}.weight", N_EMBD)
        _feed_forward(weights, block)
    window: Metadata = [
        ("gemma3.attention.sliding_window", "u32", SLIDING_WINDOW),
        # one layer with the window, one without: both halves of the cache are used
        ("gemma3.attention.sliding_window_pattern", "[bool]", [True, False]),
        ("gemma3.attention.key_length", "u32", HEAD_SIZE),
        ("gemma3.attention.value_length", "u32", HEAD_SIZE),
    ]
    return _attention_keys("gemma3") + _rms_eps("gemma3") + window


def _qwen2vl(weights: Weights, _n_ctx_train: int) -> Metadata:
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", N_EMBD)
        _attention(weights, block)
        for name, heads in (("attn_q", N_HEAD), ("attn_k", N_HEAD_KV), ("attn_v", N_HEAD_KV)):
            weights.vector(f"{block}.{name}.bias", HEAD_SIZE * heads, mean=0.0)
        weights.vector(f"{block}.ffn_norm.weight", N_EMBD)
        _feed_forward(weights, block)
    sections: Metadata = [("qwen2vl.rope.dimension_sections", "[i32]", [4, 6, 6, 0])]
    return _attention_keys("qwen2vl") + _rms_eps("qwen2vl") + sections


def _mamba(weights: Weights, _n_ctx_train: int) -> Metadata:
    inner, state, rank, kernel = 2 * SMALL_N_EMBD, 8, 4, 4  # llama.cpp wants inner = 2 * embedding
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", SMALL_N_EMBD)
        weights.matrix(f"{block}.ssm_in.weight", 2 * inner, SMALL_N_EMBD)
        weights.matrix(f"{block}.ssm_conv1d.weight", inner, kernel, scale=1.0)
        weights.vector(f"{block}.ssm_conv1d.bias", inner, mean=0.0)
        weights.matrix(f"{block}.ssm_x.weight", rank + 2 * state, inner)
        weights.matrix(f"{block}.ssm_dt.weight", inner, rank)
        weights.vector(f"{block}.ssm_dt.bias", inner, mean=0.0)
        weights.array(f"{block}.ssm_a", -np.tile(np.arange(1.0, state + 1.0), (inner, 1)))
        weights.vector(f"{block}.ssm_d", inner)
        weights.matrix(f"{block}.ssm_out.weight", SMALL_N_EMBD, inner)
    keys: Metadata = [
        ("mamba.attention.head_count", "u32", 0),
        ("mamba.ssm.conv_kernel", "u32", kernel),
        ("mamba.ssm.inner_size", "u32", inner),
        ("mamba.ssm.state_size", "u32", state),
        ("mamba.ssm.time_step_rank", "u32", rank),
    ]
    return keys + _rms_eps("mamba")


def _lfm2(weights: Weights, _n_ctx_train: int) -> Metadata:
    kernel = 3
    weights.vector("token_embd_norm.weight", N_EMBD, mean=0.0, deviation=0.5)
    for layer, recurrent in enumerate((True, False)):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", N_EMBD)
        if recurrent:
            weights.matrix(f"{block}.shortconv.conv.weight", N_EMBD, kernel)
            weights.matrix(f"{block}.shortconv.in_proj.weight", 3 * N_EMBD, N_EMBD)
            weights.matrix(f"{block}.shortconv.out_proj.weight", N_EMBD, N_EMBD)
        else:
            _attention(weights, block)
            for name in ("attn_q_norm", "attn_k_norm"):
                weights.vector(f"{block}.{name}.weight", HEAD_SIZE)
        weights.vector(f"{block}.ffn_norm.weight", N_EMBD)
        _feed_forward(weights, block)
    return (
        _attention_keys("lfm2", n_head_kv=[0, N_HEAD_KV])
        + _rms_eps("lfm2")
        + [("lfm2.shortconv.l_cache", "u32", kernel)]
    )


def _bert(weights: Weights, n_ctx_train: int) -> Metadata:
    weights.matrix("token_types.weight", 2, SMALL_N_EMBD)
    weights.matrix("position_embd.weight", n_ctx_train, SMALL_N_EMBD)
    _layer_norm(weights, "token_embd_norm")
    for layer in range(N_LAYER):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights.matrix(f"{block}.{name}.weight", SMALL_N_EMBD, SMALL_N_EMBD)
            weights.vector(f"{block}.{name}.bias", SMALL_N_EMBD, mean=0.0)
        _layer_norm(weights, f"{block}.attn_output_norm")
        weights.matrix(f"{block}.ffn_up.weight", N_FF, SMALL_N_EMBD)
        weights.matrix(f"{block}.ffn_down.weight", SMALL_N_EMBD, N_FF)
        _layer_norm(weights, f"{block}.layer_output_norm")
    return [
        ("bert.attention.head_count", "u32", N_HEAD),
        ("bert.attention.layer_norm_epsilon", "f32", 1e-12),
        ("bert.attention.causal", "bool", False),
        ("bert.pooling_type", "u32", 1),
    ]


def _layer_norm(weights: Weights, name: str) -> None:
    weights.vector(f"{name}.weight", SMALL_N_EMBD)
    weights.vector(f"{name}.bias", SMALL_N_EMBD, mean=0.0)
