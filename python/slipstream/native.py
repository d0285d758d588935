"""The low-level inference API: models, contexts, batches, memory, samplers, on numpy arrays. No server, no threads.

Everything here is `slipstream._core` with the file check of `slipstream.models` in front of loading. One thread at a
time may use a Context; a second one gets ContextBusyError. See docs/native.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream import _core
from slipstream._core import (
    Context,
    NgramIndex,
    Sampler,
    SamplerParams,
    VocabMap,
    build_info,
    default_threads,
    drain_log,
    quantize_types,
)
from slipstream.base.errors import InvalidRequestError, ModelLoadError, StoreError
from slipstream.base.limits import MAX_THREADS
from slipstream.engine.draft_model import check_memories, check_vocabularies
from slipstream.engine.sampler_params import to_native as sampler_params
from slipstream.models.gguf import check_adapter_file, check_model_file

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Context",
    "LoraAdapter",
    "Model",
    "NgramIndex",
    "Sampler",
    "SamplerParams",
    "VocabMap",
    "build_info",
    "compare_vocabularies",
    "default_threads",
    "drain_log",
    "load_state_file",
    "quantize",
    "quantize_types",
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
        num_experts: Experts a token is sent to, for a mixture of experts; 0 takes the file's.
        progress: Called on this thread with 0 to 1; returning False cancels.

    Raises:
        ModelLoadError: no usable model, or cancelled; names the file and the cause.
        InvalidRequestError: `num_experts` is more than the model has.
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
        num_experts: int = 0,
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
            num_experts=num_experts,
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


def compare_vocabularies(target: _core.Model, draft: _core.Model) -> VocabMap:
    """Compare the vocabularies of a pair, and check that one can draft for the other.

    Args:
        target: Loaded, its vocabulary at least.
        draft: Likewise.

    Raises:
        DraftModelError: it cannot; the message says why, with the first tokens that differ.
    """
    check_memories(target, draft)
    vocab_map = VocabMap(target, draft)
    check_vocabularies(vocab_map, target, draft)
    return vocab_map


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    type: str,
    *,
    threads: int = 0,
    allow_requantize: bool = False,
    keep_output: bool = False,
    pure: bool = False,
    progress: Callable[[float], bool | None] | None = None,
) -> None:
    """Write a model file with its weights in another type. The GIL is released; Ctrl-C works.

    The file appears whole or not at all. Types that need an importance matrix are not offered.

    Args:
        source: A .gguf file; of a split model its first part. The result is one file.
        target: The file to write; an existing one is replaced.
        type: One of quantize_types(), such as q4_0 or q4_k_m.
        threads: CPU threads; 0 takes the physical cores.
        allow_requantize: Start from weights that are quantized already, which loses twice.
        keep_output: Leave the output matrix as it is.
        pure: Every matrix in that type, rather than llama.cpp's mix by layer.
        progress: Called on this thread with 0 to 1; returning False cancels.

    Raises:
        ModelLoadError: the source is no usable model, cannot be quantized like that, or it was cancelled.
        InvalidRequestError: an unknown type, or a target that is the source.
        StoreError: the target cannot be written.
    """
    model, file = Path(source), Path(target)
    if type not in quantize_types():
        message = f"type is {type!r}; it must be {', '.join(quantize_types())}"
        raise InvalidRequestError(message, param="type")
    if not 0 <= threads <= MAX_THREADS:
        message = f"threads is {threads}; it must be 0 to {MAX_THREADS}"
        raise InvalidRequestError(message, param="threads")
    check_model_file(model)
    if file.exists() and file.samefile(model):
        message = f"{file} would be read and written at the same time; give the result another name"
        raise InvalidRequestError(message, param="target")
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.touch()
        _core.quantize(
            str(model), str(partial), type, n_threads=threads, allow_requantize=allow_requantize,
            keep_output=keep_output, pure=pure, progress=progress,
        )  # fmt: skip
        try:
            check_model_file(partial)  # llama.cpp does not notice every failing write
        except ModelLoadError as error:
            message = f"{file} cannot be written, the disk may be full: {error}"
            raise StoreError(message) from error
        partial.replace(file)
    except OSError as error:
        message = f"{file} cannot be written: {error}"
        raise StoreError(message) from error
    finally:
        partial.unlink(missing_ok=True)
