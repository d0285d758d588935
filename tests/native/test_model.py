"""Model: loading, metadata, vocabulary, and its errors."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from slipstream.base.errors import ClosedError, InvalidRequestError, ModelLoadError
from slipstream.native import Context, Model, build_info
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import tiny_parts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.gguf_writer import Metadata, Tensors


def test_metadata_and_sizes_come_from_the_file(model: Model) -> None:
    assert model.metadata()["general.architecture"] == "llama"
    assert model.n_vocab == 300
    assert model.n_layer == 2
    assert model.has_decoder
    assert not model.is_recurrent


def test_text_survives_tokenize_and_detokenize(model: Model) -> None:
    text = "Grüße, 世界! 🎈\n\ttabs"
    tokens = model.tokenize(text, add_special=False)
    assert model.detokenize(tokens).decode() == text
    assert b"".join(model.token_to_piece(t) for t in tokens).decode() == text


def test_special_tokens_in_text_are_parsed_only_when_asked(model: Model) -> None:
    name = model.token_text(model.special_tokens["eos"])
    assert model.special_tokens["eos"] in model.tokenize(name, parse_special=True)
    assert model.special_tokens["eos"] not in model.tokenize(name, add_special=False)


def test_control_tokens_have_no_text_unless_asked(model: Model) -> None:
    eos = model.special_tokens["eos"]
    assert model.is_eog(eos)
    assert model.is_control(eos)
    assert model.token_to_piece(eos) == b""
    assert model.token_to_piece(eos, special=True) != b""


@pytest.mark.parametrize("token", [-1, 300, 2**31 - 1])
def test_token_ids_out_of_range_are_refused(model: Model, token: int) -> None:
    with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
        model.token_to_piece(token)
    with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
        model.detokenize([token])


def test_progress_is_reported_and_false_cancels(tiny_path: Callable[[str], Path]) -> None:
    seen: list[float] = []
    Model(tiny_path("llama"), progress=seen.append)
    assert seen[-1] == pytest.approx(1.0)
    with pytest.raises(ModelLoadError, match="cancelled"):
        Model(tiny_path("llama"), progress=lambda _fraction: False)


def test_an_exception_in_progress_cancels_and_comes_out(tiny_path: Callable[[str], Path]) -> None:
    def progress(_fraction: float) -> None:
        raise KeyError("from the callback")

    with pytest.raises(KeyError, match="from the callback"):
        Model(tiny_path("llama"), progress=progress)


def test_vocab_only_tokenizes_and_refuses_a_context(tiny_path: Callable[[str], Path]) -> None:
    model = Model(tiny_path("llama"), vocab_only=True)
    assert model.tokenize("hello")
    with pytest.raises(Exception, match="vocab_only"):
        Context(model, n_ctx=64)


def test_a_closed_model_refuses_but_its_contexts_live_on(tiny_path: Callable[[str], Path]) -> None:
    model = Model(tiny_path("llama"))
    context = Context(model, n_ctx=64, n_threads=1)
    model.close()
    model.close()
    assert model.is_closed
    with pytest.raises(ClosedError):
        model.tokenize("x")
    with pytest.raises(ClosedError):
        Context(model, n_ctx=64)
    assert context.n_ctx >= 64


def test_fingerprints_tell_models_apart(tiny: Callable[[str], Model]) -> None:
    assert tiny("llama").fingerprint != tiny("gemma3").fingerprint
    assert tiny("llama").fingerprint == Model(tiny("llama").path).fingerprint


def test_tokenizing_works_from_many_threads_at_once(model: Model) -> None:
    expected = model.tokenize("the same text for everyone " * 20)
    barrier = threading.Barrier(4)
    results: list[list[int]] = []

    def work() -> None:
        barrier.wait(10)
        for _ in range(20):
            results.append(model.tokenize("the same text for everyone " * 20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 80
    assert all(result == expected for result in results)


def test_build_info_names_the_pinned_llama_cpp() -> None:
    info = build_info()
    assert len(info["llama_cpp_commit"]) == 40
    assert info["ggml_version"]
    assert info["backend"] == "cpu"
    assert any(name == "CPU" for name, _description in info["devices"])
    assert info["cpu_features"]


def test_the_fingerprint_is_of_the_whole_header(tmp_path: Path) -> None:
    metadata, tensors = tiny_parts("llama", n_vocab=20_000)
    prints = set()
    for changed in (None, 5_001, 10_001, 15_001, 19_001):
        parts = [(key, kind, value) for key, kind, value in metadata]
        for i, (key, kind, value) in enumerate(parts):
            if key == "tokenizer.ggml.tokens" and changed is not None:
                value = [*value[:changed], value[changed][:-1] + "~", *value[changed + 1 :]]
                parts[i] = (key, kind, value)
        path = tmp_path / f"{changed}.gguf"
        path.write_bytes(gguf_bytes(parts, tensors))
        prints.add(Model(str(path), vocab_only=True).fingerprint)
    assert len(prints) == 5


def test_the_fingerprint_is_of_every_file_of_a_split_model(tmp_path: Path) -> None:
    metadata, tensors = tiny_parts("llama")

    def fingerprint(name: str, last_tensors: Tensors) -> int:
        def path(number: int) -> Path:
            return tmp_path / f"{name}-{number:05}-of-00002.gguf"

        def split(number: int) -> Metadata:
            return [
                ("split.no", "u16", number),
                ("split.count", "u16", 2),
                ("split.tensors.count", "i32", len(tensors)),
            ]

        path(1).write_bytes(gguf_bytes(metadata + split(0), tensors[:3]))
        path(2).write_bytes(gguf_bytes(split(1), last_tensors))
        return Model(str(path(1))).fingerprint

    other = [*tensors[3:-1], (tensors[-1][0], tensors[-1][1] + 1)]
    assert fingerprint("a", tensors[3:]) == fingerprint("b", tensors[3:])
    assert fingerprint("a", tensors[3:]) != fingerprint("c", other)
