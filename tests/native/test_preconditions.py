"""What llama.cpp answers with abort() or worse: each is an error here, and the process lives on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slipstream import _core
from slipstream.base.errors import (
    ClosedError,
    ContextBusyError,
    ContextCreateError,
    GrammarError,
    InvalidBatchError,
    InvalidRequestError,
    StateError,
)
from slipstream.base.sampling import SamplingParams
from slipstream.native import Context, Model, Sampler, SamplerParams, sampler_params
from tests.support.gguf_writer import gguf_bytes
from tests.support.native import KINDS, ids
from tests.support.tiny_gguf import tiny_parts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def grammar_sampler(model: Model, grammar: str) -> Sampler:
    return Sampler(model, sampler_params(SamplingParams(grammar=grammar, seed=1)))


# --- contexts and batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_models_without_an_encoder_do_not_encode(tiny: Callable[[str], Model], kind: str) -> None:
    with pytest.raises(InvalidBatchError, match="no encoder"):
        Context(tiny(kind), n_ctx=64, n_threads=1).encode(ids(1, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kv_unified", [True, False])
def test_batches_and_outputs_may_be_fewer_than_sequences(
    tiny: Callable[[str], Model], kind: str, kv_unified: bool
) -> None:
    for n_batch, n_outputs_max in ((1, 0), (2, 1), (3, 100)):
        context = Context(
            tiny(kind),
            n_ctx=64,
            n_batch=n_batch,
            n_seq_max=4,
            n_outputs_max=n_outputs_max,
            kv_unified=kv_unified,
            n_threads=1,
        )
        context.decode(ids(5), None, ids(3))
        assert context.logits(0).shape == (300,)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "rank"])
@pytest.mark.parametrize(
    ("n_batch", "n_ubatch", "n_seq_max", "n_outputs_max"),
    [(64, 7, 3, 100), (2048, 2048, 2, 5), (2048, 2048, 3, 0), (64, 64, 5, 1)],
)
def test_pooled_batches_need_not_be_multiples_of_anything(
    tiny: Callable[[str], Model],
    pooling: str,
    n_batch: int,
    n_ubatch: int,
    n_seq_max: int,
    n_outputs_max: int,
) -> None:
    context = Context(
        tiny("llama"),
        n_ctx=64,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        n_seq_max=n_seq_max,
        n_outputs_max=n_outputs_max,
        embeddings=True,
        pooling=pooling,
        n_threads=1,
    )
    context.decode(ids(5))
    assert context.n_ubatch % n_seq_max == 0
    with pytest.raises(InvalidBatchError):
        context.decode(np.full(context.n_ubatch + 1, 5, dtype=np.int32))


def test_embeddings_need_a_token_per_sequence(tiny: Callable[[str], Model]) -> None:
    with pytest.raises(ContextCreateError, match="n_ubatch is 2; embeddings of 4"):
        Context(tiny("bert"), n_ctx=64, n_batch=2, n_seq_max=4, embeddings=True, n_threads=1)


def test_learned_positions_end_where_training_did(tiny: Callable[[str], Model]) -> None:
    context = Context(tiny("bert"), n_ctx=1024, n_batch=1024, embeddings=True, n_threads=1)
    assert context.n_ctx_seq == 512
    context.encode(np.full(512, 12, dtype=np.int32))
    with pytest.raises(InvalidBatchError, match="positions 0 to 511"):
        context.encode(np.full(513, 12, dtype=np.int32))


def test_a_file_can_switch_causal_attention_off(tmp_path: Path) -> None:
    metadata, tensors = tiny_parts("llama")
    file = tmp_path / "bidirectional.gguf"
    file.write_bytes(gguf_bytes([*metadata, ("llama.attention.causal", "bool", False)], tensors))
    context = Context(Model(file), n_ctx=256, n_batch=64, n_ubatch=8, n_threads=1)
    with pytest.raises(InvalidBatchError, match="takes 1 to 8"):
        context.decode(np.full(9, 5, dtype=np.int32))
    context.decode(np.full(8, 5, dtype=np.int32))


def test_a_closed_context_has_no_results(tiny: Callable[[str], Model]) -> None:
    context = Context(tiny("bert"), n_ctx=64, embeddings=True, pooling="mean", n_threads=1)
    context.encode(ids(2, 12))
    context.close()
    for read in (
        lambda: context.sequence_embedding(0),
        lambda: context.embeddings(0),
        lambda: context.logits(0),
        context.all_logits,
        lambda: context.outputs,
    ):
        with pytest.raises(ClosedError):
            read()


def test_a_closed_context_lets_go_of_the_weights(tiny_path: Callable[[str], Path]) -> None:
    mapped = "unmapped.gguf"
    file = tiny_path("llama").with_name(mapped)
    file.write_bytes(tiny_path("llama").read_bytes())
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 -- not a file on a disk
        model = Model(file)
        context = Context(model, n_ctx=64, n_threads=1)
        assert mapped in maps.read()
        model.close()
        context.close()
        maps.seek(0)
        assert mapped not in maps.read()


def test_no_adapter_and_no_number_are_refused(context: Context) -> None:
    with pytest.raises(InvalidRequestError, match="adapters"):
        context.set_lora([(None, 1.0)])


def test_whole_sequences_are_copied_between_separate_caches(model: Model) -> None:
    context = Context(model, n_ctx=512, n_seq_max=2, kv_unified=False, n_threads=1)
    context.decode(ids(*range(16)))
    context.seq_cp(0, 1, 0, 16)
    assert context.seq_pos_max(1) == 15
    context.decode(ids(7), None, ids(1))


@pytest.mark.parametrize("type_k", ["bf16", "q8_0", "q4_0"])
def test_keys_that_cannot_be_rotated_are_not_shifted(model: Model, type_k: str) -> None:
    context = Context(model, n_ctx=64, type_k=type_k, n_threads=1)
    context.decode(ids(*range(10)))
    assert context.seq_rm(0, 0, 4)
    assert not context.can_shift
    with pytest.raises(InvalidRequestError, match="type_k"):
        context.seq_add(0, 4, -1, -4)
    context.decode(ids(7))


def test_token_ids_beside_a_state_are_checked(context: Context) -> None:
    context.decode(ids(1, 2))
    with pytest.raises(InvalidRequestError, match="token id 300"):
        context.state_save(0, [300])


# --- samplers and grammars --------------------------------------------------------------------------------------


def test_a_token_the_grammar_does_not_allow_changes_nothing(model: Model) -> None:
    sampler = grammar_sampler(model, 'root ::= "yes"')
    other = model.tokenize("z", add_special=False)[0]
    for token in (model.special_tokens["eos"], other):
        with pytest.raises(GrammarError, match=f"does not allow token {token}"):
            sampler.accept(token)
    picked = sampler.sample_logits(np.zeros(300, dtype=np.float32))
    assert "yes".startswith(model.token_to_piece(picked).decode())


@pytest.mark.parametrize("token", [-1, 300, 2**31 - 1])
def test_samplers_accept_only_tokens_of_the_vocabulary(model: Model, token: int) -> None:
    for sampler in (
        grammar_sampler(model, 'root ::= "yes"'),
        Sampler(model, sampler_params(SamplingParams(repeat_penalty=1.5))),
    ):
        with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
            sampler.accept(token)
        with pytest.raises(InvalidRequestError, match="not in the vocabulary"):
            sampler.accept_prompt([1, token])


@pytest.mark.parametrize(
    ("grammar", "what"),
    [
        ("root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "256 deep"),
        ('root ::= "a"\0 | nonsense', "null character"),
    ],
)
def test_grammars_the_parser_would_die_of_are_refused(
    model: Model, grammar: str, what: str
) -> None:
    with pytest.raises(GrammarError, match=what):
        grammar_sampler(model, grammar)


def test_parentheses_in_literals_do_not_count_as_nesting(model: Model) -> None:
    many = "(" * 300
    for grammar in (
        f'root ::= "{many}\\"("',
        f"root ::= [{many}\\]]",
        f'root ::= "a" # {many}\n',
        "root ::= " + ' ("a" | "b")' * 300,
    ):
        grammar_sampler(model, grammar)


def test_a_long_chain_of_rules_parses(model: Model) -> None:
    rules = "".join(f"a{i:x}::=a{i + 1:x}\n" for i in range(30_000))
    sampler = grammar_sampler(model, f'root ::= a0\n{rules}a{30_000:x}::="b"')
    picked = sampler.sample_logits(np.zeros(300, dtype=np.float32))
    assert model.token_to_piece(picked) == b"b"


def test_changed_copies_of_parameters_do_not_reach_the_sampler(model: Model) -> None:
    sampler = Sampler(model, SamplerParams())
    sampler.params.logit_bias = [(10**8, 1.0)]
    assert sampler.params.logit_bias == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["temperature", "top_p", "mirostat_tau", "dry_base"])
def test_parameters_must_be_numbers(model: Model, name: str, value: float) -> None:
    params = SamplerParams()
    setattr(params, name, value)
    with pytest.raises(InvalidRequestError, match=f"{name} is"):
        Sampler(model, params)


def test_dry_does_not_reserve_gigabytes(model: Model) -> None:
    params = SamplerParams()
    params.dry_multiplier = 1.0
    params.dry_penalty_last_n = 2**31 - 1
    with pytest.raises(InvalidRequestError, match="dry_penalty_last_n"):
        Sampler(model, params)


def test_impossible_tokens_do_not_upset_the_chain(model: Model) -> None:
    logits = np.random.default_rng(1).normal(0, 3, 300).astype(np.float32)
    logits[::2] = -np.inf
    sampler = Sampler(model, sampler_params(SamplingParams(typical_p=0.9, top_k=0, seed=1)))
    drawn = [sampler.sample_logits(logits) for _ in range(50)]
    assert all(token % 2 for token in drawn)
    assert len(set(drawn)) > 1
    logits[7] = np.inf
    assert sampler.sample_logits(logits) == 7


def test_two_threads_in_one_sampler_get_an_error_instead_of_a_race(model: Model) -> None:
    sampler = Sampler(model, sampler_params(SamplingParams(grammar='root ::= "a"*', seed=1)))
    logits = np.zeros(300, dtype=np.float32)
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                sampler.sample_logits(logits)
            except ContextBusyError as error:
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    stop.wait(10)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert errors


# --- text -------------------------------------------------------------------------------------------------------


def model_with(
    tmp_path: Path, replace: dict[str, tuple[str, object]], drop: str = "\n", kind: str = "llama"
) -> Path:
    """Write a tiny model with these metadata values replaced, and without keys that start with `drop`."""
    metadata, tensors = tiny_parts(kind)
    kept = [e for e in metadata if e[0] not in replace and not e[0].startswith(drop)]
    file = tmp_path / "changed.gguf"
    changed = [(key, kind, value) for key, (kind, value) in replace.items()]
    file.write_bytes(gguf_bytes(kept + changed, tensors))
    return file


@pytest.mark.parametrize("pre", ["tekken", "gpt-4o", "deepseek-v3", "bloom"])
def test_long_runs_without_a_space_are_tokenized(tmp_path: Path, pre: str) -> None:
    model = Model(
        model_with(tmp_path, {"tokenizer.ggml.pre": ("str", pre)}),
        vocab_only=True,
    )
    for text in ("a" * 60_000, "1é" * 30_000, " " * 60_000):
        assert model.detokenize(model.tokenize(text, add_special=False)).decode() == text
    with pytest.raises(InvalidRequestError, match="in a row without white space"):
        model.tokenize("a" * 1_100_000)


def test_text_the_vocabulary_has_no_tokens_for_is_refused(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    tokens += [f"x{i}" for i in range(300 - len(tokens))]
    file = model_with(
        tmp_path,
        {
            "tokenizer.ggml.model": ("str", "llama"),
            "tokenizer.ggml.tokens": ("[str]", tokens),
            "tokenizer.ggml.scores": ("[f32]", [0.0] * 300),
            "tokenizer.ggml.token_type": ("[i32]", [2, 3, 3] + [1] * 297),
        },
        drop="tokenizer.",
    )
    model = Model(file)
    assert model.detokenize(model.tokenize("abc", add_special=False)).decode().strip() == "abc"
    with pytest.raises(InvalidRequestError, match="no tokens for a part of the text"):
        model.tokenize("Grüße")


def test_a_model_without_a_vocabulary_computes_and_has_no_text(tmp_path: Path) -> None:
    file = model_with(
        tmp_path,
        {"tokenizer.ggml.model": ("str", "no_vocab"), "llama.vocab_size": ("u32", 300)},
        drop="tokenizer.",
    )
    model = Model(file)
    for call in (
        lambda: model.tokenize("a"),
        lambda: model.detokenize([1]),
        lambda: model.token_to_piece(1),
        lambda: model.token_text(1),
        lambda: model.is_control(1),
        lambda: grammar_sampler(model, 'root ::= "a"'),
    ):
        with pytest.raises(InvalidRequestError, match="vocabulary"):
            call()
    context = Context(model, n_ctx=64, n_threads=1)
    context.decode(ids(1, 2))
    assert 0 <= Sampler(model, SamplerParams()).sample(context, 1) < 300


def test_text_that_is_no_utf8_comes_out_replaced(tmp_path: Path) -> None:
    file = model_with(tmp_path, {"general.name": ("str", b"n\xff\xfe")})
    assert Model(file).metadata()["general.name"] == "n\ufffd\ufffd"


def test_closing_a_model_waits_for_nobody_and_breaks_nothing(
    tiny_path: Callable[[str], Path],
) -> None:
    model = Model(tiny_path("llama"))
    text = "the same text for everyone " * 400
    started = threading.Event()
    outcomes: list[str] = []

    def work() -> None:
        try:
            while True:
                model.tokenize(text)
                started.set()
        except ClosedError:
            outcomes.append("closed")

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    model.close()
    thread.join(10)
    assert outcomes == ["closed"]


def test_a_state_with_unknown_tokens_is_refused(context: Context) -> None:
    context.decode(ids(1, 2))
    state = bytearray(context.state_save(0, [5, 6]))
    state[56:60] = (10**6).to_bytes(4, "little")
    state[48:56] = checksum(bytes(state[56:])).to_bytes(8, "little")
    with pytest.raises(StateError, match="token id 1000000"):
        context.state_load(bytes(state), 1)


def checksum(data: bytes) -> int:
    """Over words of eight bytes, then over the bytes that are left: as `hash_bytes` of csrc/fingerprint.cpp."""
    value = 0xCBF29CE484222325
    end = len(data) // 8 * 8
    words = [int.from_bytes(data[start : start + 8], "little") for start in range(0, end, 8)]
    for word in [*words, *data[end:]]:
        value = (value ^ word) * 0x100000001B3 % 2**64
        value ^= value >> 32
    return value


def test_steps_of_impossible_sizes_are_refused_before_they_take_memory(context: Context) -> None:
    runner = _core.Runner(context)
    for start, count in ((0, 2**31 - 1), (2**31 - 1, 3), (-1, 3), (0, 0)):
        with pytest.raises(InvalidBatchError):
            runner.step([0], [start], [count], [1, 2, 3], [False])


def test_a_runner_outlives_its_context(model: Model) -> None:
    context = Context(model, n_ctx=64, n_threads=1)
    runner = _core.Runner(context)
    runner.open_sequence(0, SamplerParams(), -1, False, [1])
    context.close()
    runner.close_sequence(0)
    for call in (
        lambda: runner.open_sequence(0, SamplerParams(), -1, False, [1]),
        lambda: runner.step([0], [0], [1], [1], [False]),
        lambda: runner.trim(0, 0),
    ):
        with pytest.raises(ClosedError):
            call()
