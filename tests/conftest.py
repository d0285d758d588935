"""Fixtures of every test: a home of its own for each test, and the models that `make test` has brought."""

import os
from pathlib import Path

import pytest

from slipstream.base.config import demo_model_path
from tests.support.minilm import MINILM

# Both as the user's environment says, found before a test changes it.
DEMO_MODEL = demo_model_path()
DEV_MODELS = os.environ.get("SLIPSTREAM_DEV_MODELS")


def pytest_collection_modifyitems(items):
    """Skip what needs the larger models where there are none."""
    if DEV_MODELS:
        return
    skip = pytest.mark.skip(reason="SLIPSTREAM_DEV_MODELS names no folder of models")
    for item in items:
        if item.get_closest_marker("dev_models"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def slipstream_home(tmp_path, monkeypatch):
    """A SLIPSTREAM_HOME that nothing else sees; subprocesses inherit it."""
    home = tmp_path / "slipstream-home"
    monkeypatch.setenv("SLIPSTREAM_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Path of the demo model."""
    if not DEMO_MODEL.is_file():
        pytest.fail(f"the demo model is not at {DEMO_MODEL}; `make demo` brings it")
    return DEMO_MODEL


@pytest.fixture(scope="session")
def minilm_model() -> Path:
    """Path of a real embedding model, all-MiniLM-L6-v2."""
    if not MINILM.is_file():
        pytest.fail(
            f"the embedding model is not at {MINILM}; `python -m tests.support.minilm` brings it"
        )
    return MINILM


@pytest.fixture(scope="session")
def dev_models() -> Path:
    """Folder of the larger models; for tests marked dev_models."""
    return Path(DEV_MODELS or "")
