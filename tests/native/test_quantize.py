"""Quantize: another type of weights in a file that works, whole or not at all."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slipstream.base.errors import InvalidRequestError, ModelLoadError, StoreError
from slipstream.models.gguf import check_model_file
from slipstream.native import Context, Model, quantize, quantize_types
from tests.support.native import ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def types_of(path: Path) -> set[str]:
    """Types of the matrices whose rows are whole blocks of every type."""
    tensors = check_model_file(path).tensors
    return {t.type_name.lower() for name, t in tensors.items() if name.endswith("attn_q.weight")}


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "iq4_nl", "f16"])
def test_a_quantized_model_has_that_type_and_runs(
    tiny_path: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    target = tmp_path / "small.gguf"
    quantize(tiny_path("llama"), target, name, threads=1)
    assert types_of(target) == {name}
    context = Context(Model(target), n_ctx=64, n_threads=1)
    context.decode(ids(40, 41, 42))
    assert context.logits(2).shape == (300,)
    assert list(tmp_path.iterdir()) == [target]


def test_progress_rises_to_one_and_false_cancels(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    seen: list[float] = []
    quantize(tiny_path("llama"), tmp_path / "a.gguf", "q8_0", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(ModelLoadError, match="cancelled"):
        quantize(tiny_path("llama"), tmp_path / "b.gguf", "q8_0", progress=lambda _: False)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


def test_what_the_callback_raises_comes_out_and_nothing_is_left(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    def fail(_fraction: float) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        quantize(tiny_path("llama"), tmp_path / "c.gguf", "q8_0", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_other_threads_run_meanwhile(tiny_path: Callable[[str], Path], tmp_path: Path) -> None:
    done = threading.Event()
    threading.Thread(target=done.set).start()
    quantize(
        tiny_path("llama"), tmp_path / "d.gguf", "q8_0", progress=lambda _: done.wait(timeout=10)
    )
    assert done.is_set()


def test_quantized_weights_are_quantized_again_only_when_asked(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "q8.gguf", tmp_path / "q4.gguf"
    quantize(tiny_path("llama"), first, "q8_0")
    with pytest.raises(ModelLoadError, match="allow_requantize"):
        quantize(first, second, "q4_0")
    assert not second.exists()
    quantize(first, second, "q4_0", allow_requantize=True)
    assert types_of(second) == {"q4_0"}


def test_what_cannot_be_done_is_refused_by_name(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tiny_path("llama")
    with pytest.raises(InvalidRequestError, match="q4_k_m") as refused:
        quantize(model, tmp_path / "x.gguf", "q17")
    assert refused.value.param == "type"
    with pytest.raises(InvalidRequestError, match="another name"):
        quantize(model, model, "q8_0")
    with pytest.raises(InvalidRequestError, match="threads"):
        quantize(model, tmp_path / "x.gguf", "q8_0", threads=-1)
    with pytest.raises(StoreError, match="cannot be written"):
        quantize(model, tmp_path / "no" / "folder.gguf", "q8_0")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model.read_bytes()[:2000])
    with pytest.raises(ModelLoadError):
        quantize(damaged, tmp_path / "x.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == [damaged]


def test_types_come_smallest_first() -> None:
    assert quantize_types()[0] == "q2_k"
    assert quantize_types()[-1] == "f32"
