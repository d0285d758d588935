"""Reads out of one GGUF file what the store keeps about it. Knows one file, no folder and no key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import ModelLoadError
from slipstream.models.gguf import GgufHeader, read_gguf

if TYPE_CHECKING:
    from pathlib import Path

# enum llama_ftype of the pinned include/llama.h
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
_POOLING_NONE, _POOLING_RANK = 0, 4  # enum llama_pooling_type
_ENCODERS = (
    "bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
    "modern-bert", "gemma-embedding", "t5encoder",
)  # fmt: skip
_TOOL_WORDS = ("tools", "tool_call")
_LEVEL_WORD = "reasoning_effort"
_REASONING_WORDS = (
    "<think>",
    "enable_thinking",
    "reasoning_content",
    _LEVEL_WORD,
    "<|channel>",
)


class FileFacts(msgspec.Struct, frozen=True, array_like=True):
    """What one file says about itself.

    Attributes:
        kind: "model", "mmproj", "adapter" or "broken"; the store lists models and broken files.
        architecture: llama.cpp's name of the family.
        name: The model's own name.
        num_params: Weights in this file.
        file_type: Quantization by the header.
        context_length: Tokens it was trained for, 0 when it does not say.
        num_parts: Files the model is split into.
        tool_use: Its chat template knows tools.
        reasoning: Its chat template knows thinking.
        reasoning_levels: It knows how much: low, medium, high.
        embedding: It gives vectors.
        rerank: It gives a relevance.
        num_experts: Experts a token is sent to, 0 for a model without.
        error: Why it is broken.
    """

    kind: str
    architecture: str = ""
    name: str = ""
    num_params: int = 0
    file_type: str = ""
    context_length: int = 0
    num_parts: int = 1
    tool_use: bool = False
    reasoning: bool = False
    reasoning_levels: bool = False
    embedding: bool = False
    rerank: bool = False
    num_experts: int = 0
    error: str | None = None


def read_facts(path: Path) -> FileFacts:
    """Read a file's header; one that cannot be read gives facts of the kind "broken"."""
    try:
        return _facts(read_gguf(path))
    except ModelLoadError as error:
        return FileFacts("broken", error=str(error).removeprefix(f"cannot load {path}: "))


def pooling_kind(header: GgufHeader) -> str:
    """Tell what a model gives instead of text: "vector", "rank" for a relevance, "" for a model of text."""
    pooling = header.metadata.get(f"{header.architecture}.pooling_type")
    if pooling == _POOLING_RANK:
        return "rank"
    is_pooled = isinstance(pooling, int) and pooling > _POOLING_NONE
    return "vector" if is_pooled or header.architecture in _ENCODERS else ""


def _facts(header: GgufHeader) -> FileFacts:
    metadata = header.metadata
    kind = metadata.get("general.type")
    if kind == "mmproj" or header.architecture == "clip":
        return FileFacts("mmproj", header.architecture, header.name)
    if kind == "adapter":
        return FileFacts("adapter", header.architecture, header.name)
    template = metadata.get("tokenizer.chat_template", "")
    text = template if isinstance(template, str) else ""
    pooling = pooling_kind(header)
    num_parts = metadata.get("split.count", 1)
    file_type = metadata.get("general.file_type")
    num_experts = metadata.get(f"{header.architecture}.expert_used_count")
    return FileFacts(
        kind="model",
        architecture=header.architecture,
        name=header.name,
        num_params=sum(math.prod(tensor.shape) for tensor in header.tensors.values()),
        file_type=_FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
        context_length=header.context_length,
        num_parts=max(num_parts, 1) if isinstance(num_parts, int) else 1,
        tool_use=any(word in text for word in _TOOL_WORDS),
        reasoning=any(word in text for word in _REASONING_WORDS),
        reasoning_levels=_LEVEL_WORD in text,
        embedding=pooling == "vector",
        rerank=pooling == "rank",
        num_experts=num_experts if isinstance(num_experts, int) else 0,
        error=None if header.architecture else "its header names no architecture",
    )
