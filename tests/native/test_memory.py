"""KV cache operations and saved states, on every kind of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from slipstream.base.errors import InvalidBatchError, InvalidRequestError, StateError
from slipstream.native import Context, Model, load_state_file, save_state_file
from tests.support.native import KINDS, ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = np.arange(30, 46, dtype=np.int32)


def next_logits(context: Context, token: int, seq_id: int) -> np.ndarray:
    context.decode(ids(token), None, ids(seq_id))
    return context.logits(0)


def test_positions_follow_what_was_decoded(context: Context) -> None:
    assert (context.seq_pos_min(0), context.seq_pos_max(0)) == (-1, -1)
    context.decode(TOKENS)
    assert (context.seq_pos_min(0), context.seq_pos_max(0)) == (0, 15)


def test_trimmed_tokens_can_be_computed_again_with_the_same_result(context: Context) -> None:
    context.decode(TOKENS)
    expected = context.logits(15)
    assert context.seq_rm(0, 8, -1)
    assert context.seq_pos_max(0) == 7
    context.decode(TOKENS[8:])
    np.testing.assert_allclose(context.logits(7), expected, rtol=1e-4, atol=1e-4)


def test_recurrent_memory_refuses_to_trim_and_clears(tiny: Callable[[str], Model]) -> None:
    context = Context(tiny("mamba"), n_ctx=64, n_threads=1)
    context.decode(TOKENS)
    assert not context.seq_rm(0, 8, -1)
    assert context.seq_pos_max(0) == 15
    assert context.seq_rm(0)
    assert context.seq_pos_max(0) == -1


@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_sequence_goes_on_like_its_source(tiny: Callable[[str], Model], kind: str) -> None:
    context = Context(tiny(kind), n_ctx=128, n_seq_max=2, n_threads=1)
    context.decode(TOKENS)
    context.seq_cp(0, 1)
    assert context.seq_pos_max(1) == 15
    np.testing.assert_allclose(
        next_logits(context, 99, 1), next_logits(context, 99, 0), rtol=1e-4, atol=1e-4
    )


def test_a_copied_prefix_is_shared_not_moved(context: Context) -> None:
    context.decode(TOKENS)
    context.seq_cp(0, 1, 0, 8)
    assert context.seq_pos_max(1) == 7
    assert context.seq_pos_max(0) == 15
    with pytest.raises(InvalidRequestError, match="not empty"):
        context.seq_cp(0, 1)


def test_keep_removes_the_others(context: Context) -> None:
    context.decode(ids(1, 2, 3), None, ids(0, 1, 2))
    context.seq_keep(1)
    assert [context.seq_pos_max(s) for s in range(3)] == [-1, 0, -1]


def test_shifting_moves_positions_and_never_below_zero(context: Context) -> None:
    assert context.can_shift
    context.decode(TOKENS)
    assert context.seq_rm(0, 0, 4)
    context.seq_add(0, 4, -1, -4)
    assert (context.seq_pos_min(0), context.seq_pos_max(0)) == (0, 11)
    with pytest.raises(InvalidRequestError, match="below 0"):
        context.seq_add(0, 0, -1, -1)
    context.decode(ids(99))


def test_memory_that_cannot_shift_says_so(tiny: Callable[[str], Model]) -> None:
    context = Context(tiny("llama"), n_ctx=64, n_threads=1)
    with pytest.raises(InvalidBatchError, match="out of range"):
        context.seq_add(3, 0, -1, 1)


@pytest.mark.parametrize("seq_id", [-1, 4, 256])
def test_sequence_ids_out_of_range_are_refused(context: Context, seq_id: int) -> None:
    for call in (context.seq_rm, context.seq_keep, context.seq_pos_max, context.state_save):
        with pytest.raises(InvalidBatchError, match="out of range"):
            call(seq_id)
    with pytest.raises(InvalidBatchError, match="out of range"):
        context.seq_cp(0, seq_id)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_state_goes_on_like_the_original(
    tiny: Callable[[str], Model], kind: str
) -> None:
    context = Context(tiny(kind), n_ctx=128, n_seq_max=2, n_threads=1)
    context.decode(TOKENS)
    state = context.state_save(0, TOKENS.tolist())
    expected = next_logits(context, 99, 0)
    other = Context(tiny(kind), n_ctx=128, n_seq_max=2, n_threads=1)
    assert other.state_load(state, 1) == TOKENS.tolist()
    np.testing.assert_allclose(next_logits(other, 99, 1), expected, rtol=1e-4, atol=1e-4)


def test_state_files_are_written_and_read(context: Context, model: Model, tmp_path: Path) -> None:
    context.decode(TOKENS)
    save_state_file(context, tmp_path / "a.state", 0, TOKENS.tolist())
    other = Context(model, n_ctx=256, n_seq_max=4, n_threads=1)
    assert load_state_file(other, tmp_path / "a.state", 2) == TOKENS.tolist()
    assert other.seq_pos_max(2) == 15
    assert [p.name for p in tmp_path.iterdir()] == ["a.state"]


def test_states_of_other_models_layouts_and_damaged_ones_are_refused(
    context: Context, tiny: Callable[[str], Model]
) -> None:
    context.decode(TOKENS)
    state = context.state_save(0, [])
    with pytest.raises(StateError, match="another model"):
        Context(tiny("gemma3"), n_ctx=128, n_threads=1).state_load(state, 0)
    with pytest.raises(StateError, match="other KV types"):
        Context(tiny("llama"), n_ctx=128, type_k="f32", n_threads=1).state_load(state, 0)
    with pytest.raises(StateError, match="too short"):
        context.state_load(b"short", 1)
    with pytest.raises(StateError, match="no state"):
        context.state_load(b"x" * 100, 1)
    with pytest.raises(StateError, match="cut or damaged"):
        context.state_load(state[:-1], 1)
    other_build = bytearray(state)
    other_build[24] ^= 1
    with pytest.raises(StateError, match="another build"):
        context.state_load(bytes(other_build), 1)
    for offset in range(56, len(state), 97):
        damaged = bytearray(state)
        damaged[offset] ^= 0x40
        with pytest.raises(StateError, match="cut or damaged"):
            context.state_load(bytes(damaged), 1)
    assert context.seq_pos_max(0) == 15


def test_a_state_larger_than_the_room_is_refused(tiny: Callable[[str], Model]) -> None:
    large = Context(tiny("llama"), n_ctx=512, n_batch=512, n_threads=1)
    large.decode(np.full(400, 9, dtype=np.int32))
    small = Context(tiny("llama"), n_ctx=256, n_threads=1)
    with pytest.raises(StateError, match="does not fit"):
        small.state_load(large.state_save(0, []), 0)
    assert small.seq_pos_max(0) == -1
    small.decode(ids(1, 2))
