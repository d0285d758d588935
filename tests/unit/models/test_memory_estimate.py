"""The memory estimate: how it follows the settings. tests/native compares it with what engines take."""

import numpy as np
import pytest

from slipstream.base import load_config
from slipstream.base.errors import ModelLoadError
from slipstream.base.load_config import LoadConfig
from slipstream.models import memory_estimate
from slipstream.models.memory_estimate import estimate_load
from tests.support.gguf_writer import gguf_bytes, to_q8_0
from tests.support.tiny_gguf import write_tiny_model
from tests.support.tiny_vision import write_projector


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


def test_a_projector_counts_where_it_is_used(tmp_path, path):
    alone = estimate_load(path, 0, LoadConfig())
    projector = write_projector(tmp_path / "mmproj-tiny.gguf")
    beside = estimate_load(path, 0, LoadConfig())
    assert beside.projector_bytes > 0.9 * projector.stat().st_size
    assert beside.total_bytes == alone.total_bytes + beside.projector_bytes
    assert estimate_load(path, 0, LoadConfig(projector="")).total_bytes == alone.total_bytes
    named = projector.rename(tmp_path / "vision.gguf")
    assert estimate_load(path, 0, LoadConfig()).total_bytes == alone.total_bytes
    assert estimate_load(path, 0, LoadConfig(projector=str(named))).projector_bytes > 0
    (tmp_path / "mmproj-broken.gguf").write_bytes(b"nothing")
    assert estimate_load(path, 0, LoadConfig()).total_bytes == alone.total_bytes
    with pytest.raises(ModelLoadError, match="mmproj-broken"):
        estimate_load(path, 0, LoadConfig(projector=str(tmp_path / "mmproj-broken.gguf")))


def test_what_lies_on_a_gpu_is_told_and_taken_from_the_machine_only_where_they_share(path):
    def on(backend, **config):
        return estimate_load(path, 0, LoadConfig(**config), backend)

    assert on("cpu").gpu_bytes == 0
    whole = on("cuda")
    assert whole.kv_bytes < whole.gpu_bytes < whole.kv_bytes + whole.weights_bytes
    assert whole.host_bytes == whole.total_bytes - whole.gpu_bytes
    assert on("metal").gpu_bytes == whole.gpu_bytes
    assert on("metal").host_bytes == on("metal").total_bytes == on("cpu").total_bytes
    assert on("vulkan", gpu_layers=0).gpu_bytes == 0
    assert on("vulkan", gpu_ratio=1.0).gpu_bytes == whole.gpu_bytes
    half, one = on("vulkan", gpu_ratio=0.5).gpu_bytes, on("vulkan", gpu_layers=1).gpu_bytes
    assert 0 < one <= half < whole.gpu_bytes
    apart = on("cuda", offload_kv_cache=False)
    assert apart.gpu_bytes == whole.gpu_bytes - whole.kv_bytes


def test_rearranged_weights_are_a_copy_beside_the_mapped_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_estimate, "machine", lambda: "aarch64")
    monkeypatch.setattr(load_config, "machine", lambda: "aarch64")
    metadata = [("general.architecture", "str", "llama"), ("llama.block_count", "u32", 1)]
    tensors = [("blk.0.ffn_up.weight", to_q8_0(np.zeros((64, 32))))]
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors))
    alone = estimate_load(path, 0, LoadConfig(parallel=1))
    assert alone.repacked_bytes == alone.weights_bytes > 0
    for config in (
        {"parallel": 2},
        {"parallel": 1, "repack": False},
        {"parallel": 1, "mmap": False},
    ):
        assert estimate_load(path, 0, LoadConfig(**config)).repacked_bytes == 0
    monkeypatch.setattr(memory_estimate, "machine", lambda: "x86_64")  # leaves this type alone
    assert estimate_load(path, 0, LoadConfig(parallel=1, repack=True)).repacked_bytes == 0


def test_a_file_that_is_no_model_is_told(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError):
        estimate_load(tmp_path / "x.gguf", 0, LoadConfig())
