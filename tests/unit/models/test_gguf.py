"""Split models are put together; two flipped header bytes never crash the check itself."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.models.gguf import check_adapter_file, check_model_file, read_gguf
from tests.support.gguf_writer import gguf_bytes, header_bytes
from tests.support.tiny_gguf import KINDS, tiny_parts, write_tiny_lora

NUM_MUTATIONS = 300


def write_split(folder, count=3, *, name="model", total=None):
    """Write a tiny model as `count` files and return the first one's path."""
    metadata, tensors = tiny_parts()
    total = len(tensors) if total is None else total
    step = -(-len(tensors) // count)
    paths = []
    for i in range(count):
        split = [("split.no", "u16", i), ("split.count", "u16", count)]
        split.append(("split.tensors.count", "i32", total))
        path = folder / f"{name}-{i + 1:05d}-of-{count:05d}.gguf"
        own = metadata + split if i == 0 else split
        path.write_bytes(gguf_bytes(own, tensors[i * step : (i + 1) * step]))
        paths.append(path)
    return paths


def test_a_split_model_is_checked_whole(tmp_path):
    paths = write_split(tmp_path)
    header = check_model_file(paths[0])
    assert len(header.tensors) == len(tiny_parts()[1])
    assert header.path == paths[0]


def test_a_missing_part_is_named(tmp_path):
    paths = write_split(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelLoadError, match=r"model-00002-of-00003.gguf is missing"):
        check_model_file(paths[0])


def test_a_later_part_names_the_first(tmp_path):
    paths = write_split(tmp_path)
    with pytest.raises(ModelLoadError, match=r"load model-00001-of-00003.gguf instead"):
        check_model_file(paths[1])


def test_a_renamed_part_is_refused(tmp_path):
    paths = write_split(tmp_path)
    other = paths[0].rename(tmp_path / "other.gguf")
    with pytest.raises(ModelLoadError, match=r"must be called NAME-00001-of-00003.gguf"):
        check_model_file(other)


def test_parts_in_the_wrong_order_are_refused(tmp_path):
    paths = write_split(tmp_path)
    third = paths[2].read_bytes()
    paths[2].write_bytes(paths[1].read_bytes())
    paths[1].write_bytes(third)
    with pytest.raises(ModelLoadError, match=r"split.no is 2, not 1") as caught:
        check_model_file(paths[0])
    assert caught.value.path == str(paths[1])


def test_a_cut_part_is_named(tmp_path):
    paths = write_split(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"00003-of-00003.gguf: the file is cut"):
        check_model_file(paths[0])


def test_the_same_tensor_in_two_parts_is_refused(tmp_path):
    paths = write_split(tmp_path)
    metadata = [("split.no", "u16", 1)]
    paths[1].write_bytes(gguf_bytes(metadata, [tiny_parts()[1][0]]))
    with pytest.raises(ModelLoadError, match=r"'token_embd.weight' is in an earlier part"):
        check_model_file(paths[0])


def test_a_wrong_total_is_refused(tmp_path):
    paths = write_split(tmp_path, total=5)
    with pytest.raises(ModelLoadError, match="tensors together, not 5"):
        check_model_file(paths[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_header_passes_or_is_refused_but_never_crashes(tmp_path, kind):
    metadata, tensors = tiny_parts(kind)
    raw, header_size = gguf_bytes(metadata, tensors), len(header_bytes(metadata, tensors))
    path = tmp_path / "model.gguf"
    source = random.Random(7)
    num_refused = 0
    for _ in range(NUM_MUTATIONS // len(KINDS)):
        mutated = bytearray(raw)
        for _ in range(source.randint(1, 4)):
            mutated[source.randrange(header_size)] = source.randrange(256)
        path.write_bytes(mutated)
        try:
            check_model_file(path)
            read_gguf(path)
        except ModelLoadError:
            num_refused += 1
    assert num_refused > NUM_MUTATIONS // len(KINDS) // 2


def write_lora_with(path, **changes):
    """Write the tiny adapter with other values: alpha=("str", "x")."""
    keys = {"kind": "general.type", "arch": "general.architecture", "alpha": "adapter.lora.alpha"}
    metadata = [("adapter.type", "str", "lora")]
    values = {"kind": ("str", "adapter"), "arch": ("str", "llama"), "alpha": ("f32", 8.0)}
    metadata += [(keys[name], *value) for name, value in {**values, **changes}.items()]
    path.write_bytes(gguf_bytes(metadata, [("blk.0.attn_q.weight.lora_a", np.ones((4, 64), "f4"))]))


def test_a_lora_adapter_passes(tmp_path):
    path = write_tiny_lora(tmp_path / "lora.gguf")
    assert check_adapter_file(path).architecture == "llama"
    write_lora_with(path)
    check_adapter_file(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": ("str", "model")},
        {"kind": ("u32", 1)},
        {"arch": ("u32", 1)},
        {"alpha": ("f64", 8.0)},
        {"alpha": ("f32", math.nan)},
    ],
)
def test_adapters_llama_cpp_would_die_of_are_refused(tmp_path, changes):
    path = tmp_path / "lora.gguf"
    write_lora_with(path, **changes)
    with pytest.raises(ModelLoadError):
        check_adapter_file(path)


def test_a_factor_of_one_dimension_is_refused(tmp_path):
    path = tmp_path / "lora.gguf"
    metadata = [("general.type", "str", "adapter"), ("general.architecture", "str", "llama")]
    path.write_bytes(gguf_bytes(metadata, [("a.lora_a", np.ones(4, "f4"))]))
    with pytest.raises(ModelLoadError, match=r"'a\.lora_a'.* is no LoRA factor"):
        check_adapter_file(path)


def test_a_vocabulary_alone_passes_only_as_that(tmp_path):
    path = tmp_path / "vocab.gguf"
    path.write_bytes(gguf_bytes(tiny_parts()[0], []))
    with pytest.raises(ModelLoadError, match="holds no tensors"):
        check_model_file(path)
    assert check_model_file(path, vocab_only=True).num_tokens == 300
