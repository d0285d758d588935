"""Weights that are copied into huge pages while they are read."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from pathlib import Path

import pytest

from slipstream.base.errors import ClosedError
from slipstream.native import Context, Model, quantize

MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.slow


def has_huge_pages() -> bool:
    return MODES.is_file() and "[never]" not in MODES.read_text(encoding="utf-8")


@pytest.fixture(params=["packed", "moved"])
def weights(request: pytest.FixtureRequest, demo_model: Path, tmp_path: Path) -> Path:
    """Quantized ones are arranged for the kernels; those of a model without any are moved as they are."""
    if request.param == "packed":
        return demo_model
    path = tmp_path / "f16.gguf"
    quantize(demo_model, path, "f16", allow_requantize=True)
    return path


def test_tokens_are_the_same_before_while_and_after_it(weights: Path) -> None:
    model = Model(weights, repack=False)
    context = Context(model, n_ctx=512, n_threads=1)
    before = context.greedy_loop(1, 12)
    found = []
    for wait in (False, True):
        context.memory_clear()
        moved = model.use_huge_pages(wait)
        found.append(context.greedy_loop(1, 12))
    assert found == [before, before]
    if has_huge_pages():
        assert 0.9 * weights.stat().st_size < moved <= 1.05 * weights.stat().st_size
    assert model.use_huge_pages() == moved, "once is enough"


def test_weights_that_are_not_mapped_stay_where_they_are(demo_model: Path) -> None:
    assert Model(demo_model, repack=False, mmap=False).use_huge_pages(wait=True) == 0


@pytest.mark.skipif(not has_huge_pages(), reason="no huge pages here")
def test_a_closed_model_gives_the_copy_back(weights: Path) -> None:
    def own_bytes() -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("RssAnon:")[1].split()[0])

    model = Model(weights, repack=False)
    copied = model.use_huge_pages(wait=True)
    before = own_bytes()
    model.close()
    assert before - own_bytes() > 0.9 * copied > 0


def test_a_model_can_be_closed_meanwhile(demo_model: Path) -> None:
    for _ in range(5):
        model = Model(demo_model, repack=False)
        model.use_huge_pages()
        model.close()
        with pytest.raises(ClosedError):
            model.use_huge_pages()
    model = Model(demo_model, repack=False)

    def wait() -> None:
        with contextlib.suppress(ClosedError):  # if it comes too late
            model.use_huge_pages(wait=True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    context = Context(model, n_ctx=64, n_threads=1)
    model.close()
    waiting.join(60)
    assert not waiting.is_alive()
    assert len(context.greedy_loop(1, 3)) == 3, "contexts keep it alive"


@pytest.mark.skipif(platform.system() != "Linux", reason="fork")
def test_a_forked_child_can_leave(demo_model: Path) -> None:
    model = Model(demo_model, repack=False)
    model.use_huge_pages()
    child = os.fork()
    if child == 0:
        model.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    model.use_huge_pages(wait=True)
