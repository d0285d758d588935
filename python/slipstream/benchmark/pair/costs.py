"""What verifying n rows costs and what a draft token costs, both models timed in turns. V(n), c and their spread."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.benchmark.pair.scan import ReadContext

REPETITIONS = 5
DEPTH = 192  # tokens cached, about what a text of the workloads has half-way
_MANY = (
    17  # rows up to which every number is timed: the staircase between powers of two is the finding
)
_SEED = 1234
_PREFILL = "prefill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds of a step by its rows, of one model.

    Attributes:
        samples: By rows, the seconds of each repetition.
        prefill: Seconds of reading DEPTH tokens of a prompt, of each repetition.
    """

    samples: dict[int, list[float]]
    prefill: list[float] = field(default_factory=list)

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
    def prefill_tokens_per_s(self) -> float | None:
        """Tokens of a prompt read in a second, the median; None where that was not timed."""
        return DEPTH / statistics.median(self.prefill) if self.prefill else None

    def to_json(self) -> dict[str, Any]:
        """Return the samples with text keys, `prefill` beside them."""
        return {**{str(size): s for size, s in self.samples.items()}, _PREFILL: self.prefill}

    @classmethod
    def of_json(cls, value: dict[str, list[float]]) -> Costs:
        """Undo `to_json`."""
        samples = {int(size): s for size, s in value.items() if size != _PREFILL}
        return cls(samples=samples, prefill=value.get(_PREFILL, []))


def sizes_of(gammas: Sequence[int], batches: Sequence[int], most: int) -> list[int]:
    """Return the rows that verification can have: all small ones, and what batches of requests come to."""
    sizes = set(range(1, min(max(gammas) + 1, _MANY) + 1))
    for batch in batches:
        sizes |= {min(batch * (gamma + 1), most) for gamma in gammas} | {batch}
    return sorted(sizes)


def draft_sizes_of(batches: Sequence[int]) -> list[int]:
    """Return the rows that a draft model computes at a time: one a sequence, two where its last draft was accepted."""
    return sorted({rows * batch for batch in (1, *batches) for rows in (1, 2)})


def measure(
    contexts: dict[str, tuple[ReadContext, Sequence[int]]],
    num_vocab: int,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Costs]:
    """Time steps of several models in turns, at DEPTH tokens of context.

    Args:
        contexts: By name: a context that holds DEPTH and the largest size, and the sizes to time.
        num_vocab: Token ids are below this in all of them.
        tell: Called with repetitions done and in all.
        clock: Seconds.
    """
    import numpy as np

    most = max(max(sizes) for _, sizes in contexts.values())
    tokens = np.random.default_rng(_SEED).integers(0, num_vocab, DEPTH + most, dtype=np.int32)
    found = {
        name: Costs(samples={size: [] for size in sizes}) for name, (_, sizes) in contexts.items()
    }
    for repetition in range(REPETITIONS + 1):
        tell(repetition, REPETITIONS + 1)
        for name, (context, sizes) in contexts.items():
            begin_s = clock()
            _fill(context, tokens[:DEPTH])
            if repetition:  # the first warms up
                found[name].prefill.append(clock() - begin_s)
            # Every second time from the largest on, so that no size always comes first.
            for size in sizes if repetition % 2 else sizes[::-1]:
                outputs = np.ones(size, dtype=np.bool_)
                begin_s = clock()
                context.decode(tokens[DEPTH : DEPTH + size], None, None, outputs)
                seconds = clock() - begin_s
                if repetition:
                    found[name].samples[size].append(seconds)
                if not context.seq_rm(0, DEPTH, -1):
                    _fill(context, tokens[:DEPTH])
    return found


def _fill(context: ReadContext, tokens: Any) -> None:
    context.memory_clear()
    for begin in range(0, len(tokens), context.n_batch):
        context.decode(tokens[begin : begin + context.n_batch])
