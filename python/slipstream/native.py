"""The low-level inference API: models, contexts, batches, memory, samplers, on numpy arrays. No server, no threads.

Everything here is `slipstream._core` with the file check of `slipstream.models` in front of loading. One thread at a
time may use a Context; a second one gets ContextBusyError. See docs/native.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream import _core
from slipstream._core import Context, Sampler, SamplerParams, build_info, default_threads, drain_log
from slipstream.engine.sampler_params import to_native as sampler_params
from slipstream.models.gguf import check_adapter_file, check_model_file

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Context",
    "LoraAdapter",
    "Model",
    "Sampler",
    "SamplerParams",
    "build_info",
    "default_threads",
    "drain_log",
    "load_state_file",
    "sampler_params",
    "save_state_file",
]


class Model(_core.Model):
    """A loaded GGUF model; `slipstream._core.Model` with the file's header checked first.

    Args:
        path: A .gguf file; of a split model, its first part.
        gpu_layers: Layers on the GPU; -1 means all.
        mmap: Map the file rather than read it.
        mlock: Keep it in memory.
        repack: Let ggml re-arrange weights for this CPU (a copy of them).
        vocab_only: Load the vocabulary and no weights.
        check_tensors: Look for invalid numbers in every tensor.
        progress: Called on this thread with 0 to 1; returning False cancels.

    Raises:
        ModelLoadError: no usable model, or cancelled; names the file and the cause.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        gpu_layers: int = -1,
        mmap: bool = True,
        mlock: bool = False,
        repack: bool = True,
        vocab_only: bool = False,
        check_tensors: bool = False,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        file = os.fspath(path)
        check_model_file(file, vocab_only=vocab_only)
        super().__init__(
            file,
            gpu_layers=gpu_layers,
            mmap=mmap,
            mlock=mlock,
            repack=repack,
            vocab_only=vocab_only,
            check_tensors=check_tensors,
            progress=progress,
        )


class LoraAdapter(_core.LoraAdapter):
    """A LoRA adapter of one model, for Context.set_lora().

    Args:
        model: The model it was made for. No other thread may use it while the adapter loads.
        path: The adapter's .gguf file.

    Raises:
        ModelLoadError: no adapter, or for another model.
    """

    def __init__(self, model: _core.Model, path: str | os.PathLike[str]) -> None:
        file = os.fspath(path)
        check_adapter_file(file)
        super().__init__(model, file)


def save_state_file(
    context: Context, path: str | os.PathLike[str], seq_id: int, tokens: list[int]
) -> None:
    """Write one sequence's state to a file, atomically.

    Args:
        context: Whose memory is saved.
        path: The file; replaced if it exists.
        seq_id: The sequence.
        tokens: Its token ids, given back by load_state_file().

    Raises:
        StateError: llama.cpp could not save it.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(context.state_save(seq_id, tokens))
    partial.replace(target)


def load_state_file(context: Context, path: str | os.PathLike[str], seq_id: int) -> list[int]:
    """Read a sequence's state from a file into `seq_id`, whatever that held before.

    Returns:
        The token ids given to save_state_file().

    Raises:
        StateError: saved from another model or layout, or damaged.
    """
    return context.state_load(Path(path).read_bytes(), seq_id)
