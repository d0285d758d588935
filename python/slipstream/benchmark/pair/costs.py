"""What verifying n rows costs and what a draft token costs, both models timed in turns, as the engine runs them."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from slipstream.base.sampling import SamplingParams
from slipstream.benchmark.pair.plan import MAX_ROWS_DRAFTED
from slipstream.engine.runner import ScheduledSequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.engine.runner import RunnerInfo, StepResult

REPETITIONS = 5
DEPTH = 192  # tokens cached, about what a text of the workloads has half-way
_OTHER_DEPTH = 16  # of sequences beside the first: they are there for their rows
_MANY = (
    17  # rows up to which every number is timed: the staircase between powers of two is the finding
)
_SEED = 1234


class CostRunner(Protocol):
    """The part of engine.ModelRunner that is timed."""

    info: RunnerInfo

    def open_sequence(
        self, seq_id: int, sampling: SamplingParams, token_ids: Sequence[int]
    ) -> None:
        """Begin a sequence."""

    def close_sequence(self, seq_id: int) -> None:
        """End it."""

    def trim(self, seq_id: int, num_tokens: int) -> bool:
        """Keep so many tokens of it in memory."""

    def step(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        """Compute and sample."""

    def draft(self, seq_ids: Sequence[int], max_rows: int) -> tuple[list[tuple[int, float]], int]:
        """Have the draft model say one more token for each sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of a step by its rows, of one model.

    Attributes:
        samples: By rows, the seconds of each repetition.
        prefill: Seconds of reading DEPTH tokens of a prompt, of each repetition.
        step: Seconds of a plain step of the target, timed in turns with these.
        waited: Share of the processor time that other programs had meanwhile; None where it cannot be read.
    """

    samples: dict[int, list[float]]
    prefill: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    waited: float | None = None

    def seconds(self, num_rows: float) -> float:
        """Return the median, between two sizes by straight line and above the largest in proportion."""
        sizes = sorted(self.samples)
        index = bisect_left(sizes, num_rows)
        if index == len(sizes):
            return self._median(sizes[-1]) * num_rows / sizes[-1]
        if index == 0 or sizes[index] == num_rows:
            return self._median(sizes[index])
        low, high = sizes[index - 1], sizes[index]
        part = (num_rows - low) / (high - low)
        return self._median(low) * (1 - part) + self._median(high) * part

    def _median(self, size: int) -> float:
        return statistics.median(self.samples[size])

    @property
    def step_s(self) -> float:
        """Seconds of the target's plain step, the median."""
        return statistics.median(self.step)

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Tokens of a prompt read in a second, the median; None where that was not timed."""
        return DEPTH / statistics.median(self.prefill) if self.prefill else None

    def to_json(self) -> dict[str, Any]:
        """Return the fields, sizes as text."""
        by_size = {str(size): seconds for size, seconds in self.samples.items()}
        return {**asdict(self), "samples": by_size}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Costs:
        """Undo `to_json`."""
        by_size = {int(size): seconds for size, seconds in value["samples"].items()}
        return cls(**{**value, "samples": by_size})


def sizes_of(gammas: Sequence[int], batches: Sequence[int], most: int) -> list[int]:
    """Return the rows that verification can have: all small ones, and what batches of requests come to."""
    sizes = set(range(1, min(max(gammas) + 1, _MANY) + 1))
    for batch in batches:
        sizes |= {min(batch * (gamma + 1), most) for gamma in gammas} | {batch}
    return sorted(sizes)


def measure(
    runner: CostRunner,
    sizes: Sequence[int],
    batches: Sequence[int],
    temperature: float = 0.0,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Costs, Costs | None]:
    """Time steps of a target and of its draft model, sampling and all, at DEPTH tokens of context.

    Args:
        runner: Has a sequence for each request of the largest batch. Empty, and empty again afterwards.
        sizes: Rows of the target.
        batches: Requests at the same time.
        temperature: Of the sampling.
        tell: Called with repetitions done and in all.
        clock: Seconds.

    Returns:
        The target's, and the draft model's if there is one.

    Raises:
        DecodeError: a model fails.
    """
    timer = _Timer(
        runner, sizes, max(batches), SamplingParams(temperature=temperature, seed=0), clock
    )
    for repetition in range(REPETITIONS + 1):
        tell(repetition, REPETITIONS + 1)
        timer.is_counted = repetition > 0  # the first warms up
        try:
            timer.open(repetition)
            # Every second time from the largest on, so that no size always comes first.
            for size in sizes if repetition % 2 else sizes[::-1]:
                timer.verify(size)
            if runner.info.has_draft_model:
                for batch in sorted({1, *batches}):
                    timer.draft(batch)
        finally:
            timer.close()
    return timer.target, timer.drafter if runner.info.has_draft_model else None


class _Timer:
    """Sequences with random text, and what their steps took."""

    def __init__(
        self,
        runner: CostRunner,
        sizes: Sequence[int],
        num_seqs: int,
        sampling: SamplingParams,
        clock: Callable[[], float],
    ) -> None:
        import numpy as np

        self._runner = runner
        self._sampling = sampling
        self._clock = clock
        self._random = np.random.default_rng(_SEED)
        self._num_seqs = num_seqs
        self._lengths = [0] * num_seqs  # in memory
        self._last = [0] * num_seqs  # sampled and not computed yet
        self.is_counted = False
        self.target = Costs(samples={size: [] for size in sizes})
        self.drafter = Costs(samples={})

    def _tokens(self, num: int) -> list[int]:
        """Return random tokens: as drafts they are as good as always wrong."""
        found: list[int] = self._random.integers(0, self._runner.info.num_vocab, num).tolist()
        return found

    def open(self, repetition: int) -> None:
        """Begin all sequences with texts that no repetition had before, and read them with both models."""
        for seq_id in range(self._num_seqs):
            tokens = self._tokens(_OTHER_DEPTH if seq_id else DEPTH)
            self._runner.open_sequence(seq_id, self._sampling, tokens)
            seconds = self._step([ScheduledSequence(seq_id, 0, tokens, True)])
            if self.is_counted and not seq_id:
                self.target.prefill.append(seconds)
            if self._runner.info.has_draft_model:
                begin_s = self._clock()
                self._runner.draft([seq_id], self._runner.info.max_batch_tokens)
                if self.is_counted and not seq_id:
                    self.drafter.prefill.append(self._clock() - begin_s)

    def close(self) -> None:
        """End all sequences."""
        for seq_id in range(self._num_seqs):
            self._runner.close_sequence(seq_id)
            self._runner.trim(seq_id, 0)

    def verify(self, num_rows: int) -> None:
        """Time a step of so many rows: of the first sequence, or of all where it has no room for so many drafts."""
        seq_ids = range(1 if num_rows <= MAX_ROWS_DRAFTED + 1 else self._num_seqs)
        drafts = [0] * len(seq_ids)
        for i in range(num_rows - len(seq_ids)):
            drafts[i % len(seq_ids)] += 1
        seconds = self._step(
            [self._next(seq_id, num) for seq_id, num in zip(seq_ids, drafts, strict=True)]
        )
        if self.is_counted:
            self.target.samples[num_rows].append(seconds)
            if num_rows == 1:
                self.target.step.append(seconds)
                self.drafter.step.append(seconds)

    def draft(self, batch: int) -> None:
        """Time draft tokens of so many sequences: of one new token each, and of two, as behind an accepted draft."""
        seq_ids = list(range(batch))
        self._runner.draft(seq_ids, self._runner.info.max_batch_tokens)  # catches up with the text
        for num_new in (1, 2):
            for _ in range(num_new):
                self._step([self._next(seq_id, 0) for seq_id in seq_ids])
            begin_s = self._clock()
            _, num_rows = self._runner.draft(seq_ids, self._runner.info.max_batch_tokens)
            seconds = self._clock() - begin_s
            if self.is_counted and num_rows:
                self.drafter.samples.setdefault(num_rows, []).append(seconds)

    def _next(self, seq_id: int, num_drafts: int) -> ScheduledSequence:
        tokens = [self._last[seq_id], *self._tokens(num_drafts)]
        return ScheduledSequence(seq_id, self._lengths[seq_id], tokens, True, num_drafts)

    def _step(self, scheduled: list[ScheduledSequence]) -> float:
        begin_s = self._clock()
        result = self._runner.step(scheduled)
        seconds = self._clock() - begin_s
        place = 0
        for sequence, count in zip(scheduled, result.counts, strict=True):
            num_computed = len(sequence.token_ids) - sequence.num_drafts + count - 1
            self._lengths[sequence.seq_id] = sequence.start + num_computed
            place += count
            self._last[sequence.seq_id] = result.token_ids[place - 1]
        return seconds
