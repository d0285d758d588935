"""Sampler: our own path against a plain reference, llama.cpp's chain, grammars, penalties, seeds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slipstream.base.errors import ComputeError, GrammarError, InvalidRequestError
from slipstream.base.sampling import SamplingParams
from slipstream.native import Model, Sampler, sampler_params
from tests.support.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUM_VOCAB = 300


def make(model: Model, **values: Any) -> Sampler:
    return Sampler(model, sampler_params(SamplingParams(**values)))


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, NUM_VOCAB).astype(np.float32)


def reference_distribution(
    logits: np.ndarray, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> np.ndarray:
    """Return the probabilities by the definition of the filters, in float64."""
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    keep = order[: top_k or None]
    p = np.exp(logits[keep].astype(np.float64) - logits.max())
    p /= p.sum()
    if top_p < 1:
        keep = keep[: int(np.searchsorted(np.cumsum(p), top_p) + 1)]
        p = p[: len(keep)]
    keep = keep[p >= min_p * p[0]]
    scaled = np.exp((logits[keep].astype(np.float64) - logits.max()) / temperature)
    result = np.zeros(len(logits))
    result[keep] = scaled / scaled.sum()
    return result


@pytest.mark.parametrize("seed", range(5))
def test_temperature_zero_takes_the_highest_logit(model: Model, seed: int) -> None:
    logits = random_logits(seed)
    assert make(model, temperature=0).sample_logits(logits) == int(logits.argmax())


@pytest.mark.parametrize(
    "filters",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        {"temperature": 1.5, "top_k": 0, "top_p": 0.7, "min_p": 0.0},
        {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.2},
        {"temperature": 2.0, "top_k": 3, "top_p": 1.0, "min_p": 0.0},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.3, "min_p": 0.01},
    ],
)
def test_samples_follow_the_distribution(model: Model, filters: dict[str, Any]) -> None:
    logits = random_logits(7)
    expected = reference_distribution(logits, **filters)
    sampler = make(model, seed=11, **filters)
    num_draws = 20_000
    counts = Counter(sampler.sample_logits(logits) for _ in range(num_draws))
    assert all(expected[token] > 0 for token in counts)
    likely = np.flatnonzero(expected * num_draws >= 5)
    observed = np.array([counts[token] for token in likely])
    chi2 = (((observed - expected[likely] * num_draws) ** 2) / (expected[likely] * num_draws)).sum()
    # The 99.9 % point of chi-square with d degrees of freedom, Wilson and Hilferty's approximation.
    d = max(len(likely) - 1, 1)
    assert chi2 < d * (1 - 2 / (9 * d) + 3.09 * (2 / (9 * d)) ** 0.5) ** 3


def test_top_p_looks_as_far_as_it_must(model: Model) -> None:
    logits = np.linspace(0.0, -1.0, NUM_VOCAB, dtype=np.float32)
    expected = reference_distribution(logits, temperature=1.0, top_k=0, top_p=0.99, min_p=0.0)
    kept = int((expected > 0).sum())
    assert 290 < kept < NUM_VOCAB
    sampler = make(model, seed=1, top_k=0, top_p=0.99, min_p=0.0, temperature=100.0)
    drawn = {sampler.sample_logits(logits) for _ in range(5000)}
    assert max(drawn) == kept - 1
    one = make(model, seed=1, top_k=0, top_p=0.0, min_p=0.0)
    assert {one.sample_logits(logits) for _ in range(20)} == {0}


def uniform_numbers(seed: int, count: int) -> list[float]:
    """Return the sampler's random numbers: 53 bits each of the 64-bit Mersenne Twister (Nishimura, 2000)."""
    full = 2**64 - 1
    state = [seed]
    for i in range(1, 312):
        state.append((6364136223846793005 * (state[-1] ^ state[-1] >> 62) + i) & full)
    for i in range(312):
        mixed = state[i] & ~0x7FFFFFFF & full | state[(i + 1) % 312] & 0x7FFFFFFF
        state[i] = state[(i + 156) % 312] ^ mixed >> 1 ^ (mixed & 1) * 0xB5026F5AA96619E9
    numbers = []
    for x in state[:count]:
        x ^= x >> 29 & 0x5555555555555555
        x ^= x << 17 & 0x71D67FFFEDA60000
        x ^= x << 37 & 0xFFF7EEE000000000
        numbers.append(((x ^ x >> 43) >> 11) * 2.0**-53)
    return numbers


def reference_tokens(
    logits: np.ndarray, seed: int, count: int, *, temperature: float, **filters: Any
) -> list[int]:
    """Sort the whole row, filter it, and draw by the inverse of the cumulative distribution."""
    kept = reference_distribution(logits, temperature=1.0, **filters) > 0
    order = np.argsort(-logits.astype(np.float64), kind="stable")
    if not filters["top_k"] and filters["top_p"] >= 1:
        order = np.arange(len(logits))  # nothing has to be in order
    order = order[kept[order]]
    weights = np.exp((logits[order].astype(np.float64) - float(logits.max())) / temperature)
    sums = np.cumsum(weights)
    draws = np.array(uniform_numbers(seed, count)) * sums[-1]
    return [int(token) for token in order[np.searchsorted(sums, draws, side="right")]]


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = write_tiny_model(tmp_path_factory.mktemp("wide") / "wide.gguf", n_vocab=20_000)
    return Model(path, vocab_only=True)


@pytest.mark.parametrize("deviation", [0.01, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("top_k", [0, 40, 1100, 15_000])
def test_the_same_seed_draws_what_sorting_everything_draws(
    wide_model: Model, deviation: float, top_k: int
) -> None:
    random = np.random.default_rng(int(100 * deviation) + top_k)
    for trial in range(40):
        logits = random.normal(0, deviation, wide_model.n_vocab).astype(np.float32)
        if trial % 4 == 1:
            logits = np.float32(deviation) * np.round(
                logits / np.float32(deviation), 1
            )  # equals, -0.0
        if trial % 4 == 2:
            logits[random.permutation(len(logits))[: random.integers(1, 19_000)]] = -np.inf
        if trial % 4 == 3:
            logits[random.integers(len(logits))] = logits.max() + 8 * random.random()
        filters = {
            "top_k": top_k,
            "top_p": float(random.choice([0.1, 0.5, 0.9, 0.95, 0.99, 0.9999, 1.0])),
            "min_p": float(random.choice([0.0, 0.0, 0.001, 0.05, 0.2])),
            "temperature": float(random.choice([0.3, 1.0, 1.7])),
        }
        sampler = make(wide_model, seed=trial, **filters)
        drawn = [sampler.sample_logits(logits) for _ in range(8)]
        assert drawn == reference_tokens(logits, trial, 8, **filters), (trial, filters)


def test_a_large_top_k_keeps_that_many(tmp_path: Path) -> None:
    model = Model(write_tiny_model(tmp_path / "wide.gguf", n_vocab=3000))
    logits = np.random.default_rng(0).permutation(3000).astype(np.float32) / 3000
    sampler = make(model, seed=1, temperature=100.0, top_k=1100, top_p=1.0, min_p=0.0)
    drawn = {sampler.sample_logits(logits) for _ in range(5000)}
    assert drawn <= set(np.argsort(-logits)[:1100].tolist())
    assert len(drawn) > 1050


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
        {"top_k": 0, "top_p": 0.8, "min_p": 0.0},
        {"top_k": 0, "top_p": 1.0, "min_p": 0.1},
    ],
)
def test_our_path_and_the_chain_of_llama_cpp_agree(model: Model, filters: dict[str, Any]) -> None:
    logits = random_logits(3)
    num_draws = 10_000
    own = make(model, seed=4, temperature=1.2, **filters)
    # XTC that is never thrown in: it only switches to the chain.
    chain = make(model, seed=4, temperature=1.2, xtc_probability=1e-6, xtc_threshold=0.5, **filters)
    frequencies = [
        np.bincount([s.sample_logits(logits) for _ in range(num_draws)], minlength=NUM_VOCAB)
        / num_draws
        for s in (own, chain)
    ]
    np.testing.assert_allclose(frequencies[0], frequencies[1], atol=0.03)


def test_the_same_seed_gives_the_same_tokens(model: Model) -> None:
    rows = [random_logits(i) for i in range(50)]
    first = [make(model, seed=5, top_k=0).sample_logits(row) for row in rows]
    sampler = make(model, seed=5, top_k=0)
    once = [sampler.sample_logits(row) for row in rows]
    sampler.reset()
    assert [sampler.sample_logits(row) for row in rows] == once
    assert first[0] == once[0]
    other = make(model, seed=6, top_k=0)
    assert [other.sample_logits(row) for row in rows] != once


def test_a_clone_goes_on_where_the_original_is(model: Model) -> None:
    sampler = make(model, seed=3, repeat_penalty=1.3)
    for i in range(10):
        sampler.accept(sampler.sample_logits(random_logits(i)))
    clone = sampler.clone()
    rows = [random_logits(100 + i) for i in range(20)]
    assert [clone.sample_logits(row) for row in rows] == [
        sampler.sample_logits(row) for row in rows
    ]


def test_bias_forces_and_forbids(model: Model) -> None:
    logits = random_logits(1)
    best = int(logits.argmax())
    assert make(model, temperature=0, logit_bias={17: 100.0}).sample_logits(logits) == 17
    assert (
        make(model, temperature=0, logit_bias={best: float("-inf")}).sample_logits(logits) != best
    )
    with pytest.raises(InvalidRequestError, match="logit_bias"):
        make(model, logit_bias={300: 1.0})


def test_penalties_lower_recent_tokens_and_forget_old_ones(model: Model) -> None:
    logits = np.zeros(NUM_VOCAB, dtype=np.float32)
    logits[[10, 11, 12]] = [3.0, 2.9, 2.0]
    sampler = make(model, temperature=0, presence_penalty=0.5, repeat_last_n=2)
    assert sampler.sample_logits(logits) == 10
    sampler.accept(10)
    assert sampler.sample_logits(logits) == 11
    sampler.accept(11)
    assert sampler.sample_logits(logits) == 10
    sampler.accept(200)
    sampler.accept(201)
    assert sampler.sample_logits(logits) == 10
    frequency = make(model, temperature=0, frequency_penalty=0.4, repeat_last_n=-1)
    frequency.accept_prompt([10, 10, 10])
    assert frequency.sample_logits(logits) == 11
    repeat = make(model, temperature=0, repeat_penalty=2.0)
    repeat.accept(10)
    repeat.accept(11)
    assert repeat.sample_logits(logits) == 12


@pytest.mark.parametrize(
    "values",
    [
        {"mirostat": 1},
        {"mirostat": 2},
        {"typical_p": 0.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05},
        {"top_n_sigma": 1.0},
        {"dry_multiplier": 0.8},
    ],
)
def test_the_other_samplers_run_and_keep_to_their_seed(
    model: Model, values: dict[str, Any]
) -> None:
    rows = [random_logits(i) for i in range(30)]

    def draw() -> list[int]:
        sampler = make(model, seed=9, **values)
        tokens = []
        for row in rows:
            tokens.append(sampler.sample_logits(row))
            sampler.accept(tokens[-1])
        return tokens

    assert draw() == draw()
    assert all(0 <= token < NUM_VOCAB for token in draw())


def test_dry_breaks_a_repetition(model: Model) -> None:
    logits = np.zeros(NUM_VOCAB, dtype=np.float32)
    logits[[33, 34]] = [5.0, 4.0]
    sampler = make(model, temperature=0, dry_multiplier=10.0, dry_sequence_breakers=())
    sampler.accept_prompt([30, 31, 32, 33, 30, 31, 32])
    assert sampler.sample_logits(logits) == 34


def test_xtc_drops_the_top_choice(model: Model) -> None:
    logits = np.full(NUM_VOCAB, -20.0, dtype=np.float32)
    logits[[5, 6]] = [2.0, 1.9]
    sampler = make(model, xtc_probability=1.0, xtc_threshold=0.1, seed=1)
    assert {sampler.sample_logits(logits) for _ in range(20)} == {6}


def test_a_grammar_is_followed(model: Model, context: Any) -> None:
    sampler = make(model, temperature=1.0, seed=2, grammar='root ::= ("yes" | "no") "!"')
    text = b""
    for i in range(20):
        token = sampler.sample_logits(random_logits(i))
        sampler.accept(token)
        if model.is_eog(token):
            break
        text += model.token_to_piece(token)
    assert text in (b"yes!", b"no!")


@pytest.mark.parametrize(
    "grammar", ["root ::= (", "nothing here", 'other ::= "x"', "root ::= undefined"]
)
def test_bad_grammars_are_refused(model: Model, grammar: str) -> None:
    with pytest.raises(GrammarError, match="GBNF"):
        make(model, grammar=grammar)


@pytest.mark.parametrize(
    "values", [{"grammar": 'root ::= "\ud800"'}, {"dry_sequence_breakers": ("\ud800",)}]
)
def test_text_that_is_no_unicode_is_refused(model: Model, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="not valid Unicode"):
        make(model, **values)


def test_rows_without_a_possible_token_are_an_error(model: Model) -> None:
    nothing = np.full(NUM_VOCAB, -np.inf, dtype=np.float32)
    nan = np.full(NUM_VOCAB, np.nan, dtype=np.float32)
    for values in ({"temperature": 0}, {}, {"typical_p": 0.9}):
        for row in (nothing, nan):
            with pytest.raises(ComputeError, match="no token"):
                make(model, **values).sample_logits(row)


def test_logits_of_another_size_are_refused(model: Model) -> None:
    with pytest.raises(InvalidRequestError, match="300"):
        make(model).sample_logits(np.zeros(10, dtype=np.float32))


def test_sampling_leaves_the_context_logits_as_they_were(
    tiny: Callable[[str], Model], context: Any
) -> None:
    context.decode(np.array([1, 2, 3], dtype=np.int32))
    before = context.logits(2)
    sampler = make(tiny("llama"), repeat_penalty=1.5, logit_bias={4: 9.0}, seed=1)
    sampler.accept_prompt([1, 2, 3])
    sampler.sample(context, 2)
    np.testing.assert_array_equal(context.logits(2), before)
