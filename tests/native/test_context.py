"""Context: decoding, outputs, preconditions, threads."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slipstream.base.errors import (
    ClosedError,
    ContextBusyError,
    ContextCreateError,
    DecodeAborted,
    InvalidBatchError,
    InvalidRequestError,
    ModelLoadError,
    NoKVSlotError,
)
from slipstream.native import Context, LoraAdapter, Model
from tests.support.native import KINDS, ids
from tests.support.tiny_gguf import write_tiny_lora

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_last_token_of_each_sequence_is_an_output_by_default(context: Context) -> None:
    context.decode(ids(5, 6, 7, 8, 9), None, ids(0, 0, 1, 1, 1))
    assert context.outputs == [1, 4]
    assert context.all_logits().shape == (2, 300)
    np.testing.assert_array_equal(context.all_logits()[1], context.logits(4))


def test_outputs_can_be_chosen(context: Context) -> None:
    wanted = np.array([True, False, True])
    context.decode(ids(5, 6, 7), outputs=wanted)
    assert context.outputs == [0, 2]
    with pytest.raises(InvalidBatchError, match="no output"):
        context.logits(1)


def test_a_batch_of_sequences_computes_what_each_gives_alone(context: Context) -> None:
    context.decode(ids(5, 6, 7, 8, 9, 10), None, ids(0, 0, 0, 1, 1, 1))
    together = context.logits(2), context.logits(5)
    context.memory_clear()
    for row, tokens in zip(together, (ids(5, 6, 7), ids(8, 9, 10)), strict=True):
        context.memory_clear()
        context.decode(tokens)
        np.testing.assert_allclose(context.logits(2), row, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_token_by_token_equals_all_at_once(tiny: Callable[[str], Model], kind: str) -> None:
    context = Context(tiny(kind), n_ctx=128, n_threads=1)
    tokens = np.arange(20, 36, dtype=np.int32)
    context.decode(tokens)
    at_once = context.logits(15)
    context.memory_clear()
    for token in tokens:
        context.decode(ids(token))
    np.testing.assert_allclose(context.logits(0), at_once, rtol=2e-3, atol=2e-3)


def test_a_view_shows_the_logits_without_a_copy_and_is_read_only(context: Context) -> None:
    context.decode(ids(5, 6))
    view = context.logits_view(1)
    np.testing.assert_array_equal(view, context.logits(1))
    assert not view.flags.writeable
    assert not view.flags.owndata
    copy = context.logits(1)
    copy[0] = 42.0
    assert view[0] != 42.0


@pytest.mark.parametrize(
    ("tokens", "positions", "seq_ids", "what"),
    [
        ((), None, None, "0 tokens"),
        (tuple([1] * 65), None, None, "65 tokens"),
        ((300,), None, None, "vocabulary"),
        ((-1,), None, None, "vocabulary"),
        ((1,), (5,), None, "goes on at 0"),
        ((1, 2), (0, 2), None, "goes on at 1"),
        ((1, 2), (0,), None, "must be equal"),
        ((1,), None, (4,), "out of range"),
        ((1,), None, (-1,), "out of range"),
    ],
)
def test_bad_batches_are_refused_and_change_nothing(
    context: Context,
    tokens: tuple[int, ...],
    positions: tuple[int, ...] | None,
    seq_ids: tuple[int, ...] | None,
    what: str,
) -> None:
    with pytest.raises(InvalidBatchError, match=what):
        context.decode(
            ids(*tokens),
            None if positions is None else ids(*positions),
            None if seq_ids is None else ids(*seq_ids),
        )
    assert context.seq_pos_max(0) == -1


def test_too_many_outputs_are_refused(model: Model) -> None:
    context = Context(model, n_ctx=64, n_outputs_max=2, n_threads=1)
    with pytest.raises(InvalidBatchError, match="3 outputs"):
        context.decode(ids(1, 2, 3), outputs=np.ones(3, dtype=bool))


def test_a_full_cache_raises_and_keeps_memory(model: Model) -> None:
    context = Context(model, n_ctx=256, n_batch=256, n_seq_max=2, n_threads=1)
    context.decode(np.full(250, 7, dtype=np.int32))
    with pytest.raises(NoKVSlotError, match="no room in the KV cache of 256"):
        context.decode(np.full(20, 7, dtype=np.int32), None, np.ones(20, dtype=np.int32))
    assert context.seq_pos_max(0) == 249
    assert context.seq_pos_max(1) == -1
    context.decode(ids(7))


@pytest.mark.parametrize(
    "options",
    [
        {"n_seq_max": 0},
        {"n_seq_max": 257},
        {"n_batch": 0},
        {"n_threads": -1},
        {"n_ctx": 2**31 - 1},
        {"type_k": "q8_0", "type_v": "q8_0", "flash_attention": False},
    ],
)
def test_impossible_contexts_are_refused(model: Model, options: dict[str, int]) -> None:
    with pytest.raises(ContextCreateError):
        Context(model, **options)


def test_unknown_type_names_are_refused(model: Model) -> None:
    with pytest.raises(InvalidRequestError, match="f16"):
        Context(model, n_ctx=64, type_k="float16")
    with pytest.raises(InvalidRequestError, match="pooling"):
        Context(model, n_ctx=64, pooling="max")


def test_abort_stops_a_running_decode(demo_model: Path) -> None:
    context = Context(Model(demo_model), n_ctx=2048, n_batch=2048, n_threads=1)
    tokens = np.full(2000, 100, dtype=np.int32)
    started = threading.Event()

    def stop() -> None:
        started.wait(10)
        while not done.is_set():
            context.abort()

    done = threading.Event()
    thread = threading.Thread(target=stop)
    thread.start()
    started.set()
    try:
        with pytest.raises(DecodeAborted):
            context.decode(tokens)
    finally:
        done.set()
        thread.join(10)


@pytest.mark.parametrize("call", ["decode", "greedy_loop"])
def test_ctrl_c_stops_a_running_call(model: Model, call: str) -> None:
    context = Context(model, n_ctx=1 << 15, n_batch=1 << 14, n_ubatch=64, n_threads=1)
    arguments = {"decode": (np.full(1 << 14, 7, dtype=np.int32),), "greedy_loop": (7, 30_000)}

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            getattr(context, call)(*arguments[call])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    context.memory_clear()
    context.decode(ids(1))


def test_a_second_thread_in_one_context_gets_busy_error(demo_model: Path) -> None:
    context = Context(Model(demo_model), n_ctx=2048, n_batch=2048, n_threads=1)
    errors: list[BaseException] = []
    done = threading.Event()

    def intrude() -> None:
        while not done.is_set() and not errors:
            try:
                context.seq_pos_max(0)
            except ContextBusyError as error:
                errors.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    context.decode(np.full(600, 100, dtype=np.int32))
    done.set()
    thread.join(10)
    assert errors, "the other thread was let in during a decode"


def test_a_closed_context_refuses(model: Model) -> None:
    context = Context(model, n_ctx=64, n_threads=1)
    context.close()
    context.close()
    with pytest.raises(ClosedError):
        context.decode(ids(1))


def test_threads_can_be_changed(context: Context) -> None:
    context.set_threads(2, 2)
    assert (context.n_threads, context.n_threads_batch) == (2, 2)
    context.decode(ids(1, 2, 3))
    logits = context.logits(2).copy()
    context.memory_clear()
    context.set_threads(1, 1)  # the other one sleeps
    context.decode(ids(1, 2, 3))
    np.testing.assert_array_equal(context.logits(2), logits)
    with pytest.raises(InvalidRequestError):
        context.set_threads(0, 1)


def test_a_forked_child_is_told_and_survives(context: Context) -> None:
    context.decode(ids(1))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            context.decode(ids(1))
        except ClosedError:
            code = 0
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_lora_changes_logits_and_taking_it_off_restores_them(model: Model, tmp_path: Path) -> None:
    context = Context(model, n_ctx=64, n_threads=1)
    context.decode(ids(5, 6, 7))
    plain = context.logits(2)
    adapter = LoraAdapter(model, write_tiny_lora(tmp_path / "lora.gguf"))
    context.set_lora([(adapter, 1.0)])
    context.memory_clear()
    context.decode(ids(5, 6, 7))
    assert np.abs(context.logits(2) - plain).max() > 1e-3
    context.set_lora([])
    context.memory_clear()
    context.decode(ids(5, 6, 7))
    np.testing.assert_array_equal(context.logits(2), plain)


def test_a_file_that_is_no_adapter_is_refused(model: Model, tmp_path: Path) -> None:
    file = tmp_path / "noise.gguf"
    file.write_bytes(b"noise" * 100)
    with pytest.raises(ModelLoadError):
        LoraAdapter(model, file)
    with pytest.raises(ModelLoadError):
        LoraAdapter(model, model.path)


def test_an_embedding_model_gives_pooled_embeddings(tiny: Callable[[str], Model]) -> None:
    context = Context(
        tiny("bert"), n_ctx=64, n_seq_max=2, embeddings=True, pooling="mean", n_threads=1
    )
    with pytest.raises(InvalidBatchError, match="encode"):
        context.decode(ids(2, 12))
    context.encode(ids(2, 12, 13, 2, 14), None, ids(0, 0, 0, 1, 1))
    first, second = context.sequence_embedding(0), context.sequence_embedding(1)
    assert first.shape == (tiny("bert").n_embd,)
    assert np.isfinite(first).all()
    assert not np.allclose(first, second)


def test_a_decoder_gives_token_embeddings(model: Model) -> None:
    context = Context(model, n_ctx=64, embeddings=True, pooling="none", n_threads=1)
    context.decode(ids(1, 2, 3))
    assert context.outputs == [0, 1, 2]
    assert context.embeddings(0).shape == (model.n_embd,)


def test_the_bare_loop_generates_what_decode_and_argmax_do(model: Model, context: Context) -> None:
    tokens = context.greedy_loop(7, 10)
    context.memory_clear()
    expected: list[int] = []
    while len(expected) < 10:
        context.decode(ids(*(expected[-1:] or [7])))
        expected.append(int(context.logits(0).argmax()))
    assert tokens == expected
    with pytest.raises(NoKVSlotError):
        context.greedy_loop(7, 10_000)
    with pytest.raises(InvalidBatchError):
        context.greedy_loop(model.n_vocab, 1)
