"""Everything a damaged or foreign file can be is refused with its path and the cause."""

from __future__ import annotations

import os
import random
import struct

import numpy as np
import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.models.gguf import GgufArray, read_gguf
from tests.support.gguf_writer import gguf_bytes, header_bytes
from tests.support.tiny_gguf import tiny_parts

ONES = np.ones((2, 32), np.float32)
ARCHITECTURE = ("general.architecture", "str", "llama")


def refusal(path, raw):
    path.write_bytes(raw)
    with pytest.raises(ModelLoadError) as caught:
        read_gguf(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def test_a_header_is_read_whole(path):
    metadata = [
        ARCHITECTURE,
        ("llama.context_length", "u32", 512),
        ("an.f32", "f32", 0.5),
        ("an.i64", "i64", -5),
        ("a.bool", "bool", True),
        ("short", "[i32]", [1, -2]),
        ("words", "[str]", ["a", "ü"]),
        ("long", "[u8]", [7] * 2000),
        ("tokenizer.ggml.tokens", "[str]", ["t"] * 2000),
    ]
    tensors = [("a.weight", ONES), ("b.weight", ONES.astype(np.float16))]
    path.write_bytes(gguf_bytes(metadata, tensors))
    header = read_gguf(path)
    assert (header.version, header.architecture, header.context_length) == (3, "llama", 512)
    assert header.metadata["an.f32"] == 0.5
    assert header.metadata["an.i64"] == -5
    assert header.metadata["a.bool"] is True
    assert header.metadata["short"] == GgufArray("i32", 2, (1, -2))
    assert header.metadata["words"] == GgufArray("str", 2, (b"a", "ü".encode()))
    assert header.metadata["long"] == GgufArray("u8", 2000, None)
    assert header.num_tokens == 2000
    assert [t.type_name for t in header.tensors.values()] == ["f32", "f16"]
    assert header.tensors["b.weight"].shape == (32, 2)
    assert header.tensors["b.weight"].offset + 128 == header.size_bytes


def test_version_2_is_read(path):
    path.write_bytes(gguf_bytes([ARCHITECTURE], [("a", ONES)], version=2))
    assert read_gguf(path).version == 2


def test_descriptions_in_a_foreign_encoding_are_kept_readable(path):
    path.write_bytes(gguf_bytes([("general.author", "str", b"Andr\xe9")], []))
    assert read_gguf(path).metadata["general.author"] == "Andr\ufffd"


def test_a_missing_file_is_refused(path):
    with pytest.raises(ModelLoadError, match="no such file") as caught:
        read_gguf(path)
    assert caught.value.path == str(path)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="is a directory"):
        read_gguf(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(ModelLoadError, match="not a regular file"):
        read_gguf(path)


def test_an_unreadable_file_is_refused(path, monkeypatch):
    path.write_bytes(b"GGUF")

    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    with pytest.raises(ModelLoadError, match="Permission denied"):
        read_gguf(path)


def test_a_path_with_a_null_byte_is_refused():
    with pytest.raises(ModelLoadError, match="null byte"):
        read_gguf("a\0b")


def test_an_empty_file_is_refused(path):
    assert "the file is empty" in refusal(path, b"")


def test_random_bytes_are_refused(path):
    assert "no GGUF file" in refusal(path, random.Random(1).randbytes(5000))


def test_a_big_endian_file_is_named_as_such(path):
    assert "big-endian" in refusal(path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


@pytest.mark.parametrize("version", [1, 4, 77])
def test_other_versions_are_refused(path, version):
    assert f"version {version}" in refusal(path, gguf_bytes([ARCHITECTURE], [], version=version))


@pytest.mark.parametrize("tenth", range(10))
def test_a_file_cut_at_any_tenth_is_refused(path, tenth):
    whole = gguf_bytes(*tiny_parts())
    said = refusal(path, whole[: len(whole) * tenth // 10])
    assert "empty" in said if tenth == 0 else "cut" in said


def test_a_file_cut_anywhere_in_its_header_is_refused(path):
    metadata, tensors = tiny_parts()
    header = header_bytes(metadata, tensors)
    for length in range(4, len(header), 97):
        refusal(path, header[:length])


def test_a_cut_tensor_is_named_with_the_bytes_it_needs(path):
    whole = gguf_bytes([ARCHITECTURE], [("a.weight", ONES)])
    said = refusal(path, whole[:-1])
    assert f"tensor a.weight needs bytes up to {len(whole)}, the file has {len(whole) - 1}" in said


@pytest.mark.parametrize("counts", [(2**63, 0), (0, 2**63), (2**64 - 1, 2**64 - 1), (0, 1000)])
def test_absurd_header_counts_are_refused(path, counts):
    raw = b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(100)
    assert "more than a file of" in refusal(path, raw)


def test_duplicate_keys_are_refused(path):
    said = refusal(path, gguf_bytes([ARCHITECTURE, ARCHITECTURE], []))
    assert "'general.architecture' appears twice" in said


def test_an_empty_key_is_refused(path):
    assert "has no key" in refusal(path, gguf_bytes([("", "u32", 1)], []))


def test_a_key_that_is_no_text_is_refused(path):
    assert "not UTF-8" in refusal(path, gguf_bytes([(b"\xff\xfe", "u32", 1)], []))


def test_a_key_with_a_null_character_is_refused(path):
    assert "null character" in refusal(path, gguf_bytes([("a\0b", "u32", 1)], []))


def _entry(key, tail):
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key + tail


@pytest.mark.parametrize(
    ("tail", "cause"),
    [
        (struct.pack("<I", 13), "unknown value type 13"),
        (struct.pack("<IIQ", 9, 9, 1), "array of arrays"),
        (struct.pack("<IIQ", 9, 99, 1), "array of the unknown type 99"),
        (struct.pack("<IIQ", 9, 4, 2**40), "cut or damaged"),
        (struct.pack("<IIQ", 9, 8, 2**60), "cut or damaged"),
        (struct.pack("<IIQQ", 9, 8, 1, 2**63), "cut or damaged"),
        (struct.pack("<IQ", 8, 2**62), "claims 4611686018427387904 bytes"),
        (struct.pack("<IQ", 8, 500), "cut or damaged"),
    ],
)
def test_values_that_cannot_be_are_refused(path, tail, cause):
    said = refusal(path, _entry(b"some.key", tail + bytes(16)))
    assert cause in said
    assert "some.key" in said


@pytest.mark.parametrize(("kind", "value"), [("u32", 0), ("u32", 24), ("u64", 32), ("str", "32")])
def test_a_wrong_alignment_is_refused(path, kind, value):
    assert "general.alignment" in refusal(
        path, gguf_bytes([("general.alignment", kind, value)], [])
    )


def test_another_alignment_is_followed(path):
    metadata = [("general.alignment", "u32", 256)]
    path.write_bytes(gguf_bytes(metadata, [("a", ONES), ("b", ONES[:1])], alignment=256))
    header = read_gguf(path)
    assert [t.offset % 256 for t in header.tensors.values()] == [0, 0]


def test_duplicate_tensors_are_refused(path):
    assert "'a' appears twice" in refusal(path, gguf_bytes([], [("a", ONES), ("a", ONES)]))


def test_a_long_tensor_name_is_refused(path):
    assert "longer than 63" in refusal(path, gguf_bytes([], [("n" * 64, ONES)]))


def _tensor(shape, code=0, offset=0):
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t"
    return head + dims + struct.pack("<IQ", code, offset) + bytes(4096)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (_tensor(()), "has 0 dimensions"),
        (_tensor((1, 1, 1, 1, 1)), "has 5 dimensions"),
        (_tensor((4, 0)), "positive dimensions"),
        (_tensor((33,), code=2), "q4_0 needs positive dimensions, the first a multiple of 32"),
        (_tensor((2**32, 2**31)), "claims 9223372036854775808 elements"),
        (_tensor((2**64 - 1,)), "claims 18446744073709551615 elements"),
        (_tensor((4,), code=4), "unknown type 4"),
        (_tensor((4,), code=43), "unknown type 43"),
        (_tensor((4,), offset=32), "said to start at 32, not at 0"),
        (_tensor((2000,)), "the file is cut"),
    ],
)
def test_tensor_descriptions_that_cannot_be_are_refused(path, raw, cause):
    assert cause in refusal(path, raw)
