"""Writes small random vision models: a text model of tiny_gguf and the projector beside it. And images for them.

kind      text model   projector        an image of 16 x 16 pixels
llama     llama        mlp (LLaVA)      4 tokens, 4 positions
gemma3    gemma3       gemma3           4 tokens, computed at once, each sees all
qwen2vl   qwen2vl      qwen2vl_merger   w/16 * h/16 tokens (8 at least), as many positions as the longer side: M-RoPE
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from tests.support.gguf_writer import Metadata, gguf_bytes
from tests.support.tiny_gguf import N_EMBD, Weights, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("llama", "gemma3", "qwen2vl")
EMBD, FF, LAYERS = 32, 48, 2
_TYPES = {"llama": "mlp", "gemma3": "gemma3", "qwen2vl": "qwen2vl_merger"}
_IMAGE_SIZE, _PATCH = (
    {"llama": 16, "gemma3": 16, "qwen2vl": 64},
    {"llama": 8, "gemma3": 4, "qwen2vl": 8},
)


def write_tiny_vision(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """Write a text model and its projector into a folder; return the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_projector(folder / "mmproj-tiny.gguf", kind, seed)
    return write_tiny_model(folder / "tiny.gguf", kind, seed)


def write_projector(path: Path, kind: str = "llama", seed: int = 0, n_out: int = N_EMBD) -> Path:
    """Write a projector for a text model with embeddings of `n_out` numbers."""
    weights = Weights(seed + 100)
    metadata: Metadata = [
        ("general.architecture", "str", "clip"),
        ("general.type", "str", "mmproj"),
        ("clip.has_vision_encoder", "bool", True),
        ("clip.projector_type", "str", _TYPES[kind]),
        ("clip.use_gelu", "bool", True),
        ("clip.vision.image_size", "u32", _IMAGE_SIZE[kind]),
        ("clip.vision.patch_size", "u32", _PATCH[kind]),
        ("clip.vision.embedding_length", "u32", EMBD),
        ("clip.vision.feed_forward_length", "u32", FF),
        ("clip.vision.block_count", "u32", LAYERS),
        ("clip.vision.projection_dim", "u32", n_out),
        ("clip.vision.attention.head_count", "u32", 2),
        ("clip.vision.attention.layer_norm_epsilon", "f32", 1e-5),
        ("clip.vision.image_mean", "[f32]", [0.5, 0.5, 0.5]),
        ("clip.vision.image_std", "[f32]", [0.5, 0.5, 0.5]),
    ]
    num_patches = (_IMAGE_SIZE[kind] // _PATCH[kind]) ** 2
    kernel = (EMBD, 3, _PATCH[kind], _PATCH[kind])
    weights.normal("v.patch_embd.weight", kernel)
    for layer in range(LAYERS):
        _layer(weights, f"v.blk.{layer}")
    if kind == "llama":
        weights.normal("v.class_embd", (EMBD,))
        weights.matrix("v.position_embd.weight", num_patches + 1, EMBD)
        _linear(weights, "mm.0", n_out, EMBD)
        _linear(weights, "mm.2", n_out, n_out)
    elif kind == "gemma3":
        metadata.append(("clip.vision.projector.scale_factor", "u32", 2))
        weights.normal("v.patch_embd.bias", (EMBD,))
        weights.matrix("v.position_embd.weight", num_patches, EMBD)
        _norm(weights, "v.post_ln", EMBD)
        weights.matrix("mm.input_projection.weight", EMBD, n_out, scale=30.0)
        weights.vector("mm.soft_emb_norm.weight", EMBD)
    else:
        weights.normal("v.patch_embd.weight.1", kernel)
        _norm(weights, "v.post_ln", EMBD)
        _linear(weights, "mm.0", 4 * EMBD, 4 * EMBD)
        _linear(weights, "mm.2", n_out, 4 * EMBD)
    path.write_bytes(gguf_bytes(metadata, weights.tensors))
    return path


def png(width: int = 16, height: int = 16, seed: int = 0) -> bytes:
    """Return a PNG file of blocks of 16 x 16 pixels in random colours, which survive being made smaller."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8)
    pixels = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _layer(weights: Weights, block: str) -> None:
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        _linear(weights, f"{block}.{name}", EMBD, EMBD)
    _norm(weights, f"{block}.ln1", EMBD)
    _norm(weights, f"{block}.ln2", EMBD)
    _linear(weights, f"{block}.ffn_up", FF, EMBD)
    _linear(weights, f"{block}.ffn_down", EMBD, FF)


def _linear(weights: Weights, name: str, rows: int, columns: int) -> None:
    weights.matrix(f"{name}.weight", rows, columns)
    weights.vector(f"{name}.bias", rows, mean=0.0)


def _norm(weights: Weights, name: str, size: int) -> None:
    weights.vector(f"{name}.weight", size)
    weights.vector(f"{name}.bias", size, mean=0.0)
