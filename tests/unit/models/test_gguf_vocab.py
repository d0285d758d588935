"""Tokenizers that llama.cpp would die of are refused, those it puts up with are not."""

from __future__ import annotations

import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.models.gguf import check_model_file
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import tiny_parts
from tests.support.tiny_vocab import wordpiece_metadata

PREFIX = "tokenizer.ggml."


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def write_changed(path, kind="llama", *, drop=(), **changes):
    """Write a tiny model with changes to its tokenizer: tokens=("[str]", [...])."""
    metadata, tensors = tiny_parts(kind)
    gone = {PREFIX + name for name in (*drop, *changes)}
    kept = [entry for entry in metadata if entry[0] not in gone]
    kept += [(PREFIX + name, *value) for name, value in changes.items()]
    path.write_bytes(gguf_bytes(kept, tensors))


def refusal(path, *args, **kwargs):
    write_changed(path, *args, **kwargs)
    with pytest.raises(ModelLoadError) as caught:
        check_model_file(path)
    return str(caught.value)


def tokens(**replaced):
    """Return the tiny vocabulary with tokens replaced: t17=b"text"."""
    metadata, _ = tiny_parts()
    items = next(list(value) for key, _, value in metadata if key == PREFIX + "tokens")
    for name, text in replaced.items():
        items[int(name[1:])] = text
    return ("[str]", items)


def test_a_missing_tokenizer_is_refused(path):
    assert "tokenizer.ggml.model is missing" in refusal(path, drop=("model",))
    assert "tokenizer.ggml.tokens is missing" in refusal(path, drop=("tokens",))


def test_a_model_that_has_no_vocabulary_on_purpose_passes(path):
    write_changed(path, drop=("tokens",), model=("str", "none"))
    check_model_file(path)


def test_tokens_that_are_no_strings_are_refused(path):
    assert "must be an array of strings" in refusal(path, tokens=("[i32]", [1, 2]))


def test_an_empty_vocabulary_is_refused(path):
    assert "is empty" in refusal(path, tokens=("[str]", []))


def test_a_vocabulary_of_another_size_than_the_embedding_is_refused(path):
    kind, items = tokens()
    said = refusal(path, tokens=(kind, items[:-1]))
    assert "299 tokens, token_embd.weight has 300 rows" in said


def test_duplicate_tokens_are_refused(path):
    assert "tokens 17 and 250 are both 'x1'" in refusal(path, tokens=tokens(t17="x1", t250="x1"))


def test_tokens_that_are_equal_up_to_a_null_are_refused(path):
    # llama.cpp takes them as C strings
    assert "are both 'x1'" in refusal(path, tokens=tokens(t17=b"x1\0a", t18=b"x1\0b"))


def test_empty_tokens_get_names_and_pass(path):
    write_changed(path, tokens=tokens(t290="", t291=""))
    check_model_file(path)


def test_a_token_with_the_name_of_an_empty_one_is_refused(path):
    assert "[EMPTY_290]" in refusal(path, tokens=tokens(t290="", t291="[EMPTY_290]"))


def test_tokens_that_are_no_utf8_pass(path):
    write_changed(path, tokens=tokens(t290=b"\xff\xfe"))
    check_model_file(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token_type", ("[i32]", [1, 2])),
        ("token_type", ("[f32]", [1.0] * 300)),
        ("token_type", ("u32", 1)),
        ("scores", ("[f32]", [1.0])),
        ("scores", ("[str]", ["1"] * 300)),
        ("merges", ("[i32]", [1])),
        ("bos_token_id", ("u32", 300)),
        ("eos_token_id", ("u32", 70000)),
        ("eos_token_id", ("i32", 2)),
        ("eot_token_id", ("u32", 300)),
    ],
)
def test_arrays_and_ids_that_do_not_fit_the_vocabulary_are_refused(path, name, value):
    assert PREFIX + name in refusal(path, **{name: value})


def test_byte_tokens_in_a_wordpiece_vocabulary_are_refused(path):
    num_tokens = len(wordpiece_metadata()[0])
    assert "byte tokens" in refusal(path, "bert", token_type=("[i32]", [6] * num_tokens))


@pytest.mark.parametrize("value", [300, 2**32 - 1])
def test_a_padding_token_out_of_range_passes_as_in_many_real_models(path, value):
    write_changed(path, padding_token_id=("u32", value))
    check_model_file(path)


def test_an_absent_bos_passes_unless_it_is_to_be_added(path):
    write_changed(path, "bert", bos_token_id=("u32", 102))  # id 101 is in the vocabulary
    check_model_file(path)
    none = ("u32", 2**32 - 1)
    write_changed(path, model=("str", "gemma4"), bos_token_id=("u32", 1))
    check_model_file(path)
    said = refusal(path, model=("str", "gemma4"), bos_token_id=none, add_bos_token=("bool", True))
    assert "adds tokenizer.ggml.bos_token_id" in said
