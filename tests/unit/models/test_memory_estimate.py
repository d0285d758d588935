"""The memory estimate: how it follows the settings. tests/native compares it with what engines take."""

import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.base.load_config import LoadConfig
from slipstream.models.memory_estimate import estimate_load
from tests.support.tiny_gguf import write_tiny_model


@pytest.fixture
def path(tmp_path):
    return write_tiny_model(tmp_path / "tiny.gguf", "llama")


def test_the_cache_grows_with_the_context_and_shrinks_with_its_type(path):
    short, long = (
        estimate_load(path, 0, LoadConfig(context_length=n)).kv_bytes for n in (1024, 4096)
    )
    assert long == 4 * short
    small = estimate_load(path, 0, LoadConfig(context_length=1024, kv_type="q8_0")).kv_bytes
    assert small == pytest.approx(short * 34 / 64, rel=0.01)


def test_without_a_context_length_it_is_the_models_own(path):
    assert estimate_load(path, 0, LoadConfig()).context_length == 512
    assert estimate_load(path, 0, LoadConfig(context_length=100)).context_length == 100


def test_weights_are_those_of_all_files_and_of_the_draft_model(path):
    alone = estimate_load(path, 0, LoadConfig())
    assert estimate_load(path, 1000, LoadConfig()).weights_bytes == alone.weights_bytes + 1000
    both = estimate_load(path, 0, LoadConfig(draft_model=str(path)))
    assert both.weights_bytes == 2 * alone.weights_bytes
    assert both.kv_bytes == 2 * alone.kv_bytes


def test_attention_without_flash_needs_room_for_its_scores(path):
    with_flash = estimate_load(path, 0, LoadConfig(flash_attention=True))
    without = estimate_load(path, 0, LoadConfig(flash_attention=False))
    assert without.compute_bytes > with_flash.compute_bytes


def test_a_file_that_is_no_model_is_told(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError):
        estimate_load(tmp_path / "x.gguf", 0, LoadConfig())
