"""Models that llama.cpp would die of are refused; the tiny models and their variations pass."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.models.gguf import check_model_file
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import KINDS, N_LAYER, tiny_parts, write_tiny_lora, write_tiny_model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def write_changed(path, kind="llama", *, drop=(), tensors=None, **changes):
    """Write a tiny model with some values changed: {"key in this architecture": (type, value)}."""
    metadata, own_tensors = tiny_parts(kind)
    named = {key.replace("__", "."): value for key, value in changes.items()}
    named = {k if k.startswith("general.") else f"{kind}.{k}": v for k, v in named.items()}
    kept = [entry for entry in metadata if entry[0] not in named and entry[0] not in drop]
    kept += [(key, *value) for key, value in named.items()]
    path.write_bytes(gguf_bytes(kept, own_tensors if tensors is None else tensors))


def refusal(path, *args, **kwargs):
    write_changed(path, *args, **kwargs)
    with pytest.raises(ModelLoadError) as caught:
        check_model_file(path)
    assert caught.value.path == str(path)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tiny_model_passes_and_is_small(path, kind):
    write_tiny_model(path, kind, seed=3)
    header = check_model_file(path)
    assert header.architecture == kind
    assert header.context_length == 512
    assert header.block_count == N_LAYER
    assert header.size_bytes < 300_000


def test_long_vocabularies_are_not_kept(path):
    write_tiny_model(path, n_vocab=2000)
    tokens = check_model_file(path).metadata["tokenizer.ggml.tokens"]
    assert (tokens.count, tokens.items) == (2000, None)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    write_tiny_model(one, seed=5)
    write_tiny_model(same, seed=5)
    write_tiny_model(other, seed=6)
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()


def test_an_adapter_is_named_as_such(path):
    write_tiny_lora(path)
    with pytest.raises(ModelLoadError, match="LoRA adapter"):
        check_model_file(path)


def test_a_projector_is_named_as_such(path):
    assert "image or audio encoder" in refusal(path, general__type=("str", "mmproj"))
    assert "image or audio encoder" in refusal(path, general__architecture=("str", "clip"))


def test_a_file_without_architecture_is_refused(path):
    assert "general.architecture is missing" in refusal(path, drop=("general.architecture",))


def test_an_architecture_that_is_no_string_is_refused(path):
    assert "general.architecture is u32" in refusal(path, general__architecture=("u32", 1))


def test_an_unknown_architecture_is_named(path):
    said = refusal(path, general__architecture=("str", "nonsense"))
    assert "architecture 'nonsense' is unknown" in said


def test_a_file_without_tensors_is_refused(path):
    assert "holds no tensors" in refusal(path, tensors=[])


@pytest.mark.parametrize("name", ["context_length", "embedding_length", "block_count"])
def test_what_every_model_has_must_be_there(path, name):
    assert f"llama.{name} is missing" in refusal(path, drop=(f"llama.{name}",))
    assert f"llama.{name} is 0" in refusal(path, **{name: ("u32", 0)})
    assert "of type u32, not str" in refusal(path, **{name: ("str", "512")})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("llama", "block_count", ("u32", 513)),
        ("llama", "context_length", ("u32", 2**32 - 1)),
        ("llama", "embedding_length", ("u32", 2**31)),
        ("llama", "nextn_predict_layers", ("u32", 3)),
        ("llama", "attention.head_count", ("u32", 2**20)),
        ("llama", "attention.head_count", ("u32", 65)),
        ("llama", "attention.head_count", ("[i32]", [2, 2, 2])),
        ("llama", "attention.head_count", ("[f32]", [2.0, 2.0])),
        ("llama", "attention.head_count_kv", ("u32", 3)),
        ("llama", "attention.head_count_kv", ("[i32]", [1, -1])),
        ("llama", "attention.key_length", ("u32", 0)),
        ("llama", "attention.layer_norm_rms_epsilon", ("f32", math.nan)),
        ("llama", "attention.layer_norm_rms_epsilon", ("f32", -1e-5)),
        ("llama", "rope.dimension_count", ("u32", 0)),
        ("llama", "rope.dimension_count", ("u32", 31)),
        ("llama", "rope.dimension_count", ("u32", 64)),
        ("llama", "rope.freq_base", ("f32", math.inf)),
        ("llama", "rope.freq_base", ("f32", -1.0)),
        ("llama", "rope.scaling.type", ("str", "quadratic")),
        ("llama", "expert_count", ("u32", 8)),
        ("llama", "expert_count", ("u32", 1025)),
        ("llama", "expert_used_count", ("u32", 2)),
        ("llama", "expert_group_count", ("u32", 1)),
        ("llama", "pooling_type", ("u32", 9)),
        ("llama", "full_attention_interval", ("u32", 0)),
        ("gemma3", "attention.sliding_window", ("u32", 2**31)),
        ("gemma3", "attention.sliding_window_pattern", ("[bool]", [])),
        ("gemma3", "attention.sliding_window_pattern", ("[bool]", [False, False])),
        ("gemma3", "attention.sliding_window_pattern", ("u32", 1)),
        ("lfm2", "shortconv.l_cache", ("u32", 1)),
        ("bert", "attention.key_length", ("u32", 8)),
        ("bert", "attention.head_count", ("u32", 3)),
    ],
)
def test_hyperparameters_llama_cpp_would_die_of_are_refused(path, kind, name, value):
    assert f"{kind}." in refusal(path, kind, **{name: value})


def test_experts_must_agree_with_their_groups(path):
    experts = {"expert_count": ("u32", 8), "expert_used_count": ("u32", 2)}
    write_changed(path, **experts)
    check_model_file(path)
    for groups, used in ((8, 1), (3, 1), (4, 0), (4, 4)):
        grouped = {"expert_group_count": ("u32", groups), "expert_group_used_count": ("u32", used)}
        assert "expert_group" in refusal(path, **experts, **grouped)
    write_changed(
        path, **experts, expert_group_count=("u32", 4), expert_group_used_count=("u32", 2)
    )
    check_model_file(path)


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "blk.0.attn_norm.weight"), ("mamba", "blk.0.ssm_conv1d.weight")]
)
def test_tensors_that_must_be_f32_are_checked(path, kind, name):
    _, tensors = tiny_parts(kind)
    halved = [(n, a.astype(np.float16) if n == name else a) for n, a in tensors]
    assert f"tensor '{name}' has the type f16" in refusal(path, kind, tensors=halved)


def test_weights_of_an_integer_type_are_refused(path):
    write_tiny_model(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 2 * 8
    raw[at] = 26  # i32: as many bytes as f32
    path.write_bytes(raw)
    with pytest.raises(ModelLoadError, match=r"attn_q\.weight' has the type i32"):
        check_model_file(path)
