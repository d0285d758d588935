"""A draft model beside its target: whatever it guesses, the output is the target's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slipstream import LLM, GenerationSpec, Speculation, _core
from slipstream.base.errors import (
    DraftModelError,
    InvalidBatchError,
    InvalidRequestError,
    ModelLoadError,
    NoKVSlotError,
)
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import OutputFormat
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.engine.runner import ScheduledSequence
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import tiny_parts, write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG: dict[str, Any] = {"context_length": 512, "parallel": 3, "threads": 1, "batch_size": 64}
PROMPT = [40, 41, 42, 43, 44, 45] * 3
NUM_TOKENS = 24
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 1.0, "seed": 6, "top_k": 0, "top_p": 0.8, "repeat_penalty": 1.2},
    {"temperature": 1.0, "seed": 7, "typical_p": 0.9},
    {"temperature": 0.0, "frequency_penalty": 0.5, "logprobs": 2},
    {"temperature": 1.0, "seed": 8, "grammar": 'root ::= ("ab" | "cd" | " x")*'},
]


@pytest.fixture(scope="module")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny llama with other weights."""
    return write_tiny_model(tmp_path_factory.mktemp("draft") / "other.gguf", "llama", 1)


def load(target: Path, draft: Path, **options: Any) -> LlamaRunner:
    return LlamaRunner.load(str(target), LoadConfig(draft_model=str(draft), **CONFIG, **options))


def plain_run(runner: LlamaRunner, sampling: SamplingParams, prompt: list[int]) -> list[int]:
    runner.trim(0, 0)
    runner.open_sequence(0, sampling, prompt)
    tokens = list(runner.step([ScheduledSequence(0, 0, prompt, True)]).token_ids)
    while len(tokens) < NUM_TOKENS:
        start = len(prompt) + len(tokens) - 1
        tokens += runner.step([ScheduledSequence(0, start, tokens[-1:], True)]).token_ids
    runner.close_sequence(0)
    return tokens


def drafted_run(
    runner: LlamaRunner,
    sampling: SamplingParams,
    prompt: list[int],
    num_drafts: int,
    *,
    seq_id: int = 1,
    num_tokens: int = NUM_TOKENS,
) -> tuple[list[int], int]:
    """Generate with the draft model; also return how many drafts were accepted."""
    runner.trim(seq_id, 0)
    runner.open_sequence(seq_id, sampling, prompt)
    tokens = list(runner.step([ScheduledSequence(seq_id, 0, prompt, True)]).token_ids)
    num_accepted = 0
    while len(tokens) < num_tokens:
        drafts: list[int] = []
        for _ in range(num_drafts):
            (((token, confidence),), num_rows) = runner.draft([seq_id], 512)
            assert num_rows >= 1
            assert 0 <= confidence <= 1
            if token >= 0:
                drafts.append(token)
        start = len(prompt) + len(tokens) - 1
        scheduled = ScheduledSequence(seq_id, start, tokens[-1:] + drafts, True, len(drafts))
        result = runner.step([scheduled])
        num_accepted += len(result.token_ids) - 1
        tokens += result.token_ids
    runner.close_sequence(seq_id)
    return tokens[:num_tokens], num_accepted


@pytest.mark.parametrize("values", SAMPLINGS, ids=str)
@pytest.mark.parametrize("num_drafts", [1, 4])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_the_output_is_that_without_drafts_whatever_the_draft_model_says(
    tiny_path: Callable[[str], Path],
    other_path: Path,
    kind: str,
    num_drafts: int,
    values: dict[str, Any],
) -> None:
    runner = load(tiny_path(kind), other_path)
    sampling = SamplingParams(**values)
    expected = plain_run(runner, sampling, PROMPT)
    for _ in range(2):  # the second time on what the first has left in memory
        assert drafted_run(runner, sampling, PROMPT, num_drafts)[0] == expected
    runner.close()


@pytest.mark.parametrize("values", SAMPLINGS[:3], ids=str)
def test_a_model_that_drafts_for_itself_is_always_right_at_a_temperature_too(
    tiny_path: Callable[[str], Path], values: dict[str, Any]
) -> None:
    runner = load(tiny_path("llama"), tiny_path("llama"))
    sampling = SamplingParams(**values)
    tokens, num_accepted = drafted_run(runner, sampling, PROMPT, 3)
    assert tokens == plain_run(runner, sampling, PROMPT)
    num_steps = NUM_TOKENS - 1 - num_accepted
    assert num_steps <= (NUM_TOKENS - 1) // 4 + 1
    runner.close()


def test_drafted_tokens_that_were_accepted_are_not_computed_again(
    tiny_path: Callable[[str], Path],
) -> None:
    runner = load(tiny_path("llama"), tiny_path("llama"))
    sampling = SamplingParams(temperature=0.0)
    drafted_run(runner, sampling, PROMPT, 3, num_tokens=41)
    assert runner._drafter is not None
    # 18 of the prompt, then ten rounds that give four tokens for three drafts: the last draft is never computed by
    # its own round, so each round reads it and the token behind it.
    assert runner._drafter.n_computed <= len(PROMPT) + 41
    runner.close()


def test_a_sequence_that_begins_like_another_shares_its_prefix(
    tiny_path: Callable[[str], Path],
) -> None:
    runner = load(tiny_path("llama"), tiny_path("llama"))
    prompt = [40 + i % 50 for i in range(60)]
    sampling = SamplingParams(temperature=0.0)
    drafted_run(runner, sampling, prompt, 2, seq_id=0, num_tokens=4)
    drafter = runner._drafter
    assert drafter is not None
    before = drafter.n_computed
    drafted_run(runner, sampling, [*prompt[:50], 70, 71], 2, seq_id=1, num_tokens=4)
    assert drafter.n_computed - before < 30
    runner.close()


def test_a_long_prompt_is_read_in_pieces_before_anything_is_drafted(
    tiny_path: Callable[[str], Path], other_path: Path
) -> None:
    runner = load(tiny_path("llama"), other_path)
    prompt = [40 + i % 50 for i in range(60)]
    runner.open_sequence(0, SamplingParams(temperature=0.0), prompt)
    runner.step([ScheduledSequence(0, 0, prompt, True)])
    assert runner.draft_lag(0) == 61
    assert runner.draft([0], 32) == ([(-1, 0.0)], 32)
    assert runner.draft_lag(0) == 29
    (((token, confidence),), num_rows) = runner.draft([0], 32)
    assert token >= 0
    assert confidence > 0
    assert num_rows == 29
    runner.close()


def test_an_id_beyond_the_sequences_has_no_lag(
    tiny_path: Callable[[str], Path], other_path: Path
) -> None:
    runner = load(tiny_path("llama"), other_path)
    for seq_id in (-1, runner.info.max_num_seqs, 10**6):
        with pytest.raises(InvalidBatchError, match="sequence"):
            runner.draft_lag(seq_id)
    runner.close()


def test_drafts_of_a_step_that_found_no_room_are_drafted_anew(
    tiny_path: Callable[[str], Path], other_path: Path
) -> None:
    runner = load(tiny_path("llama"), other_path)
    sampling = SamplingParams(temperature=0.0)
    for start in range(0, 512 - 64, 64):
        runner.step([ScheduledSequence(0, start, [9] * 64, False)])
    runner.open_sequence(1, sampling, PROMPT)
    first = runner.step([ScheduledSequence(1, 0, PROMPT, True)]).token_ids
    before = [runner.draft([1], 64)[0][0] for _ in range(3)]
    tokens = [*first, *(token for token, _ in before)]
    crowd = ScheduledSequence(0, 512 - 64, [9] * 60, False)
    with pytest.raises(NoKVSlotError):
        runner.step([ScheduledSequence(1, len(PROMPT), tokens, True, 3), crowd])
    again = [runner.draft([1], 64)[0][0] for _ in range(3)]
    assert [token_id for token_id, _ in again] == [token_id for token_id, _ in before]
    # Of float weights, which upstream multiplies another way for another number of rows.
    assert [chance for _, chance in again] == pytest.approx([chance for _, chance in before])
    runner.close()


def test_a_vocabulary_in_another_order_is_mapped(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same weights with permuted token ids draft as well as the model itself."""
    metadata, tensors = tiny_parts("llama")
    order = np.random.default_rng(3).permutation(np.arange(10, 259))
    permutation = np.concatenate([np.arange(10), order, np.arange(259, 300)])
    changed = []
    for key, kind, value in metadata:
        if key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
            value = [value[i] for i in permutation]
        changed.append((key, kind, value))
    parts = [
        (name, values[permutation] if name in ("token_embd.weight", "output.weight") else values)
        for name, values in tensors
    ]
    path = tmp_path / "permuted.gguf"
    path.write_bytes(gguf_bytes(changed, parts))
    runner = load(tiny_path("llama"), path)
    tokens, num_accepted = drafted_run(runner, SamplingParams(temperature=0.0), PROMPT, 3)
    assert tokens == plain_run(runner, SamplingParams(temperature=0.0), PROMPT)
    assert num_accepted >= NUM_TOKENS * 2 // 3
    vocab_map = _core.VocabMap(_core.Model(str(tiny_path("llama"))), _core.Model(str(path)))
    assert not vocab_map.is_identical
    assert vocab_map.n_shared == vocab_map.n_draft == 300
    token, ours, theirs = vocab_map.differences[0]
    assert token == 10
    assert ours != theirs
    assert [vocab_map.to_target(vocab_map.to_draft([t])[0]) for t in (5, 40, 299)] == [5, 40, 299]
    runner.close()


def test_a_token_the_draft_model_lacks_is_spelled_with_several_of_its_own(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    target = _core.Model(str(tiny_path("llama")))
    lacking = [t for t in range(259, 300) if len(target.token_to_piece(t)) > 1][:3]
    assert lacking
    metadata, tensors = tiny_parts("llama")
    changed = []
    names: set[str] = (
        set()
    )  # the merges that lead to them are gone, too, as in a vocabulary that never had them
    for key, kind, value in metadata:
        if key == "tokenizer.ggml.tokens":
            names = {value[token] for token in lacking}
            value = [f"{text}~~~" if i in lacking else text for i, text in enumerate(value)]
        if key == "tokenizer.ggml.merges":
            value = [pair for pair in value if pair.replace(" ", "") not in names]
        changed.append((key, kind, value))
    path = tmp_path / "lacking.gguf"
    path.write_bytes(gguf_bytes(changed, tensors))
    draft = _core.Model(str(path))
    vocab_map = _core.VocabMap(target, draft)
    for token in lacking:
        spelled = vocab_map.to_draft([token])
        assert len(spelled) > 1
        assert b"".join(map(draft.token_to_piece, spelled)) == target.token_to_piece(token)
    runner = load(tiny_path("llama"), path)
    prompt = [*PROMPT, *lacking, 40, 41]
    for sampling in (
        SamplingParams(temperature=0.0),
        SamplingParams(
            temperature=0.0, logit_bias={lacking[0]: 5.0}
        ),  # it comes up in the output, too
    ):
        expected = plain_run(runner, sampling, prompt)
        assert drafted_run(runner, sampling, prompt, 3)[0] == expected
    assert lacking[0] in expected
    runner.close()


def test_a_model_of_another_vocabulary_is_refused_with_the_difference(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    metadata, tensors = tiny_parts("llama")
    changed = [
        (key, kind, [f"word{i}" for i in range(300)] if key == "tokenizer.ggml.tokens" else value)
        for key, kind, value in metadata
    ]
    path = tmp_path / "words.gguf"
    path.write_bytes(gguf_bytes(changed, tensors))
    with pytest.raises(
        DraftModelError,
        match=r"only \d+ of its 300 tokens are among the target's 300 \(id 0 is b'.*' there and b'word0' here",
    ):
        load(tiny_path("llama"), path)


def test_an_encoder_does_not_draft(tiny_path: Callable[[str], Path]) -> None:
    with pytest.raises(DraftModelError, match="cannot draft: it is no decoder"):
        load(tiny_path("llama"), tiny_path("bert"))


def test_memory_that_cannot_go_back_neither_drafts_nor_is_drafted_for(
    tiny_path: Callable[[str], Path],
) -> None:
    with pytest.raises(DraftModelError, match=r"cannot draft: it keeps a running state"):
        load(tiny_path("llama"), tiny_path("mamba"))
    with pytest.raises(DraftModelError, match=r"cannot be drafted for"):
        load(tiny_path("lfm2"), tiny_path("llama"))


def test_a_draft_model_that_is_no_model_is_refused_before_the_load(
    tiny_path: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUFnot")
    with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
        LLM(tiny_path("llama"), draft_model=str(broken))


@pytest.mark.parametrize(
    ("options", "param"),
    [({"speculation": "draft"}, "speculation"), ({"verify": "never"}, "verify")],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        LoadConfig(**options)
    assert caught.value.param == param


# --- rejection sampling ----------------------------------------------------------------------------------------------


def chi_square(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """Return the statistic and its degrees of freedom; cells that expect fewer than five are pooled."""
    small = expected < 5
    if small.any():
        counts = np.append(counts[~small], counts[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
        if expected[-1] == 0:
            assert counts[-1] == 0, "a token that cannot be came out"
            counts, expected = counts[:-1], expected[:-1]
    return float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1


def assert_distributed(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Assert that counts fit, at about one false alarm in 10^5: mean + 5 deviations of chi-square, and a margin."""
    statistic, freedom = chi_square(counts, probabilities * counts.sum())
    assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 8, (counts, probabilities)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.2, 0.3, 0.5], [0.5, 0.3, 0.2]),
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([1.0, 0.0, 0.0], [0.3, 0.3, 0.4]),
        ([0.0, 0.5, 0.5], [1.0, 0.0, 0.0]),
        ([0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]),
        ([0.6, 0.1, 0.1, 0.1, 0.1], [0.0, 0.7, 0.3, 0.0, 0.0]),
    ],
)
def test_whatever_a_draft_was_drawn_from_the_output_is_distributed_as_the_target(
    p: list[float], q: list[float]
) -> None:
    random = np.random.default_rng(11)
    target = np.array([p, p], dtype=np.float32)
    draft = np.array([q], dtype=np.float32)
    counts = np.zeros(len(p))
    seconds = np.zeros(len(p))
    num_draws = 20_000
    drawn = random.choice(len(q), size=num_draws, p=np.array(q) / np.sum(q))
    for seed, token in enumerate(drawn):
        output = _core.verify_drafts(target, draft, [int(token)], seed)
        counts[output[0]] += 1
        if len(output) == 2:
            seconds[output[1]] += 1
    assert_distributed(counts, np.array(p))
    accepted = np.minimum(p, q).sum()
    assert seconds.sum() == pytest.approx(accepted * num_draws, abs=5 * np.sqrt(num_draws) / 2 + 1)
    if seconds.sum() > 1000:
        assert_distributed(seconds, np.array(p))


def test_shapes_that_do_not_fit_are_refused() -> None:
    row = np.full((2, 4), 0.25, dtype=np.float32)
    with pytest.raises(InvalidRequestError, match="need target probabilities of shape"):
        _core.verify_drafts(row, row, [1], 0)
    with pytest.raises(InvalidRequestError, match="not in a vocabulary of 4"):
        _core.verify_drafts(row, row[:1], [4], 0)
    with pytest.raises(InvalidRequestError, match="no probability"):
        _core.verify_drafts(np.zeros((1, 4), np.float32), row[:0], [], 0)


@pytest.mark.parametrize(
    ("values", "expression", "judged"),
    [
        ({"top_k": 6}, None, slice(2, 3)),
        ({"top_k": 3}, None, slice(0, 3)),  # all three together
        (
            {"top_k": 0, "min_p": 0.05},
            None,
            slice(1, 3),
        ),  # 0.25 leaves the two models nothing in common
        ({"top_k": 5, "repeat_penalty": 1.6, "frequency_penalty": 0.5}, None, slice(1, 3)),
        ({"top_k": 5}, "([a-d]|[w-z])*", slice(1, 3)),
    ],
    ids=["one", "joint", "min-p", "penalties", "mask"],
)
def test_the_engine_in_distribution_mode_draws_as_without_drafts(
    tiny_path: Callable[[str], Path],
    other_path: Path,
    values: dict[str, Any],
    expression: str | None,
    judged: slice,
) -> None:
    """Two samples of the same tokens, many seeds each: with drafts and without."""
    sampling = {"temperature": 1.5, "top_p": 1.0, "min_p": 0.0, "max_tokens": 5, **values}
    num_seeds = 1500
    counts: dict[str, Counter[tuple[int, ...]]] = {}
    usage = []
    with LLM(
        tiny_path("llama"), draft_model=str(other_path), verify="distribution", **CONFIG
    ) as llm:
        for source in ("off", "draft"):
            specs = [
                GenerationSpec(
                    request_id=f"{source}{seed}",
                    prompt_token_ids=PROMPT,
                    # other seeds: the same ones would make the samples dependent
                    sampling=SamplingParams(
                        **sampling, ignore_eos=True, seed=seed + 10_000 * (source == "off")
                    ),
                    speculation=Speculation(
                        source=source, num_tokens=2 if source == "draft" else None
                    ),
                    output_format=(
                        OutputFormat(kind="regex", value=expression) if expression else None
                    ),
                )
                for seed in range(num_seeds)
            ]
            results = [r for i in range(0, num_seeds, 300) for r in llm.run(specs[i : i + 300])]
            counts[source] = Counter(tuple(r.token_ids[judged]) for r in results)
            usage = [r.usage for r in results]
    assert sum(u.num_accepted_tokens for u in usage) > 0
    assert sum(u.num_rejected_tokens for u in usage) > 0
    tokens = sorted(counts["off"] | counts["draft"])
    one = np.array([counts["off"][t] for t in tokens], dtype=float)
    other = np.array([counts["draft"][t] for t in tokens], dtype=float)
    pooled = (one + other) / 2
    kept = pooled >= 5
    statistic = (((one - other) ** 2) / (one + other))[kept].sum()
    freedom = int(kept.sum())
    assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 8


# --- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "draft"])
def test_requests_side_by_side_are_answered_as_without_drafts_and_counted(
    tiny_path: Callable[[str], Path], other_path: Path, source: str
) -> None:
    prompts = [[40 + (i * j) % 60 for j in range(20 + i)] for i in range(6)]

    def specs(speculation: Speculation) -> list[GenerationSpec]:
        return [
            GenerationSpec(
                request_id=f"r{i}",
                prompt_token_ids=prompt,
                sampling=SamplingParams(temperature=0.8, seed=i, max_tokens=30, ignore_eos=True),
                speculation=speculation,
            )
            for i, prompt in enumerate(prompts)
        ]

    with LLM(tiny_path("llama"), draft_model=str(other_path), **CONFIG) as llm:
        expected = llm.run(specs(Speculation(source="off")))
        drafted = llm.run(specs(Speculation(source=source, num_tokens=3)))
        stats = llm.stats()
    assert [r.token_ids for r in drafted] == [r.token_ids for r in expected]
    assert stats.draft_s_total > 0
    for result in drafted:
        usage = result.usage
        judged = usage.num_accepted_tokens + usage.num_rejected_tokens
        assert usage.num_drafted_tokens == judged + usage.num_ignored_tokens > 0
        assert sum(at_risk for at_risk, _ in usage.draft_positions) == judged
        assert sum(accepted for _, accepted in usage.draft_positions) == usage.num_accepted_tokens
    assert all(r.usage.num_drafted_tokens == 0 for r in expected)
