"""Tiny random models of every memory kind, loaded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipstream.native import Context, Model
from tests.support.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a kind to the path of a tiny model of it."""
    folder = tmp_path_factory.mktemp("tiny")

    def path(kind: str) -> Path:
        file = folder / f"{kind}.gguf"
        return file if file.exists() else write_tiny_model(file, kind)

    return path


@pytest.fixture(scope="session")
def tiny(tiny_path: Callable[[str], Path]) -> Callable[[str], Model]:
    """Return a function from a kind to a loaded model."""
    models: dict[str, Model] = {}

    def model(kind: str) -> Model:
        return models.setdefault(kind, Model(tiny_path(kind)))

    return model


@pytest.fixture
def model(tiny: Callable[[str], Model]) -> Model:
    """Return the tiny llama model."""
    return tiny("llama")


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    """Return a context of four sequences on the tiny llama model."""
    context = Context(model, n_ctx=256, n_batch=64, n_seq_max=4, n_threads=1)
    yield context
    context.close()
