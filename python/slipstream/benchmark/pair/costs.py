"""What verifying n rows costs and what a draft token costs, both models timed in turns, on a runner of the engine."""

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
        prefill: Seconds of reading one token of a prompt, of each text read.
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
        return 1 / statistics.median(self.prefill) if self.prefill else None

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


def live_sizes(lengths: Sequence[int], batch: int) -> list[int]:
    """Return the rows that requests at the same time have in live runs with such draft lengths, the full steps.

    Costs of steps with fewer drafts, at the end of a text, lie between them.
    """
    drafted = {batch * (length + 1) for length in lengths if length * batch <= MAX_ROWS_DRAFTED}
    return sorted({1, 2, batch} | drafted)


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
    import numpy as np

    timer = Timer(sizes, batches, temperature, clock=clock)
    random = np.random.default_rng(_SEED)
    for repetition in range(REPETITIONS + 1):
        tell(repetition, REPETITIONS + 1)
        # No repetition has a text that one before had.
        lengths = [DEPTH, *[_OTHER_DEPTH] * (max(batches) - 1)]
        texts = [random.integers(0, runner.info.num_vocab, length).tolist() for length in lengths]
        timer.time_round(runner, texts, is_counted=repetition > 0)  # the first warms up
    return timer.target, timer.drafter if runner.info.has_draft_model else None


class Timer:
    """Times steps of a target and of its draft model, round by round.

    Args:
        sizes: Rows of the target.
        batches: Requests at the same time.
        temperature: Of the sampling.
        most_alone: Rows up to which the first request verifies alone; beyond, all of them share the drafts.
        clock: Seconds.

    Attributes:
        target: What its steps took.
        drafter: Likewise, of the draft model; without samples where there is none.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batches: Sequence[int],
        temperature: float = 0.0,
        most_alone: int = MAX_ROWS_DRAFTED + 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        import numpy as np

        self._sizes = list(sizes)
        self._batches = sorted({1, *batches})
        self._sampling = SamplingParams(temperature=temperature, seed=0)
        self._most_alone = most_alone
        self._clock = clock
        self._random = np.random.default_rng(_SEED)
        self._is_counted = True
        self.target = Costs(samples={size: [] for size in sizes})
        self.drafter = Costs(samples={})

    def time_round(
        self,
        runner: CostRunner,
        texts: Sequence[Sequence[int]],
        passes: int = 1,
        *,
        is_counted: bool = True,
    ) -> None:
        """Time every size behind some texts, one for each request of the largest batch.

        Args:
            runner: Its memory is empty, and empty again afterwards.
            texts: Token ids.
            passes: Times that each size is timed.
            is_counted: False warms up only.

        Raises:
            DecodeError: a model fails.
        """
        self._runner = runner
        self._is_counted = is_counted
        self._lengths = [0] * len(texts)  # in memory
        self._last = [0] * len(texts)  # sampled and not computed yet
        try:
            for seq_id, tokens in enumerate(texts):
                self._open(seq_id, list(tokens))
            for _ in range(passes):
                self._sizes.reverse()  # no size always comes first
                for size in self._sizes:
                    self._verify(size)
                if runner.info.has_draft_model:
                    for batch in self._batches:
                        self._draft(batch)
        finally:
            for seq_id in range(len(texts)):
                runner.close_sequence(seq_id)
                runner.trim(seq_id, 0)

    def _open(self, seq_id: int, tokens: list[int]) -> None:
        """Begin a sequence, and read its text with both models."""
        runner = self._runner
        runner.open_sequence(seq_id, self._sampling, tokens)
        seconds = self._step([ScheduledSequence(seq_id, 0, tokens, True)])
        if self._is_counted and not seq_id:
            self.target.prefill.append(seconds / len(tokens))
        if runner.info.has_draft_model:
            begin_s = self._clock()
            runner.draft([seq_id], runner.info.max_batch_tokens)
            if self._is_counted and not seq_id:
                self.drafter.prefill.append((self._clock() - begin_s) / len(tokens))

    def _verify(self, num_rows: int) -> None:
        """Time a step of so many rows, of the first sequence or of all."""
        seq_ids = range(1 if num_rows <= self._most_alone else len(self._lengths))
        drafts = [0] * len(seq_ids)
        for i in range(num_rows - len(seq_ids)):
            drafts[i % len(seq_ids)] += 1
        seconds = self._step(
            [self._next(seq_id, num) for seq_id, num in zip(seq_ids, drafts, strict=True)]
        )
        if self._is_counted:
            self.target.samples[num_rows].append(seconds)
            if num_rows == 1:
                self.target.step.append(seconds)
                self.drafter.step.append(seconds)

    def _draft(self, batch: int) -> None:
        """Time draft tokens of so many sequences: of one new token each, and of two, as behind an accepted draft."""
        runner, seq_ids = self._runner, list(range(batch))
        most = runner.info.max_batch_tokens
        runner.draft(seq_ids, most)  # catches up with the text
        for num_new in (1, 2):
            for _ in range(num_new):
                self._step([self._next(seq_id, 0) for seq_id in seq_ids])
            begin_s = self._clock()
            _, num_rows = runner.draft(seq_ids, most)
            seconds = self._clock() - begin_s
            if self._is_counted and num_rows:
                self.drafter.samples.setdefault(num_rows, []).append(seconds)

    def _next(self, seq_id: int, num_drafts: int) -> ScheduledSequence:
        """Return what goes on with a sequence. Random drafts are as good as always wrong."""
        drafts = self._random.integers(0, self._runner.info.num_vocab, num_drafts).tolist()
        tokens = [self._last[seq_id], *drafts]
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
