"""T(n): what a step of n tokens costs on this machine, learnt from real steps. Knows no requests."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXACT = 8  # step sizes up to here get a bin each: T(n) bends there, and drafts are priced there
_BINS_PER_OCTAVE = 4
_SEED_STEPS = 3
_ALPHA = 0.1  # weight of a new step against the average of its bin
_SETTLED_STEPS = 8  # real ones, until an average is worth keeping


class CostModel:
    """An estimate of T(n) that never falls as n grows.

    ::

        bins       | 1 | 2 | ... | 8 | 9-10 | 11-12 | 13-14 | 15-16 | 17-20 | 21-24 | ...  quarters of an octave
        per bin      moving averages of n and of seconds, number of steps seen
        estimate     pool adjacent violators over the bins seen, then straight lines between them

    A bin that is only known from `seed` is scaled by what real steps of the nearest smaller seeded size (else the
    smallest) took against their seed: seeds of a busy machine, or of an empty context, are off by about one factor. Or
    sizes that drafts would need could stay too dear to be tried for ever.

    Recording is O(log bins) and a first estimate after it O(bins), some 40 of them; further ones are O(log bins).
    The depth of the context is not a variable: the averages follow the load there is.

    Args:
        max_num_tokens: Most tokens in one step.
    """

    def __init__(self, max_num_tokens: int) -> None:
        self._last_of_bin = _bin_ends(max_num_tokens)
        self._num_steps = [0] * len(self._last_of_bin)
        self._mean_num_tokens = [0.0] * len(self._last_of_bin)
        self._mean_s = [0.0] * len(self._last_of_bin)
        self._seed_s: dict[int, float] = {}  # by bin
        self._num_real_steps = [0] * len(self._last_of_bin)
        self._curve: list[tuple[float, float]] | None = []

    def seed(self, costs: Sequence[tuple[int, float]]) -> None:
        """Begin with (num_tokens, seconds) that were measured elsewhere; each counts as a few steps."""
        for num_tokens, seconds in costs:
            self._seed_s[self._bin(num_tokens)] = seconds
            for _ in range(_SEED_STEPS):
                self._add(self._bin(num_tokens), num_tokens, seconds)

    def record(self, num_tokens: int, seconds: float) -> None:
        """Learn from one step.

        Args:
            num_tokens: Tokens it computed, at least 1; more than `max_num_tokens` counts as that bin.
            seconds: What it took.
        """
        index = self._bin(num_tokens)
        self._num_real_steps[index] += 1
        self._add(index, num_tokens, seconds)

    def _bin(self, num_tokens: int) -> int:
        return min(bisect_left(self._last_of_bin, num_tokens), len(self._last_of_bin) - 1)

    def _add(self, index: int, num_tokens: int, seconds: float) -> None:
        self._num_steps[index] += 1
        # The plain mean of the first steps, so that a slow first one is forgotten quickly.
        alpha = max(_ALPHA, 1.0 / self._num_steps[index])
        self._mean_num_tokens[index] += alpha * (num_tokens - self._mean_num_tokens[index])
        self._mean_s[index] += alpha * (seconds - self._mean_s[index])
        self._curve = None

    def estimate_s(self, num_tokens: int) -> float | None:
        """Return the expected seconds of a step of `num_tokens`; None before the first step.

        Below the smallest step seen its cost is returned, above the largest one costs grow in proportion.
        """
        curve = self.curve()
        if not curve:
            return None
        index = bisect_left(curve, (num_tokens, 0.0))
        if index == 0:
            return curve[0][1]
        low_n, low_s = curve[index - 1]
        if index == len(curve):
            return low_s * num_tokens / low_n
        high_n, high_s = curve[index]
        return low_s + (high_s - low_s) * (num_tokens - low_n) / (high_n - low_n)

    def num_tokens_within(self, seconds: float) -> int | None:
        """Return the most tokens whose step is expected to take no longer; None before the first step, at least 1."""
        curve = self.curve()
        if not curve:
            return None
        index = bisect_right([cost for _num_tokens, cost in curve], seconds)
        if index == 0:
            return 1
        low_n, low_s = curve[index - 1]
        if index == len(curve):
            return int(low_n * seconds / low_s) if low_s > 0 else int(low_n)
        high_n, high_s = curve[index]
        return int(low_n + (high_n - low_n) * (seconds - low_s) / (high_s - low_s))

    def curve(self) -> list[tuple[float, float]]:
        """Return (num_tokens, seconds) of the bins seen, both rising. Any thread; not to be changed."""
        curve = self._curve
        if curve is None:
            curve = self._curve = self._fit()
        return curve

    def worth_keeping(self) -> list[tuple[int, float]]:
        """Return (num_tokens, seconds) for the `seed` of another load; nothing if no real step taught anything.

        Sizes that were seeded stay; of those up to 8, which are timed with an empty context, the quicker of seed and
        estimate is kept, as only other work makes a seed too slow. Larger ones are as they were learnt.
        """
        settled = {i for i, n in enumerate(self._num_real_steps) if n >= _SETTLED_STEPS}
        if not settled:
            return []
        seeded = self._seed_s.keys()
        has_small_seeds = any(index < _EXACT for index in seeded)
        kept = []
        for index in sorted(settled | seeded):
            if index < _EXACT and has_small_seeds and index not in seeded:
                continue  # of another depth than those beside it
            num_tokens = round(self._mean_num_tokens[index])
            seconds = self.estimate_s(num_tokens)
            assert seconds is not None, "there are steps"
            seed_s = self._seed_s.get(index, seconds) if index < _EXACT else seconds
            kept.append((num_tokens, min(seconds, seed_s)))
        return kept

    def _fit(self) -> list[tuple[float, float]]:
        """Pool adjacent violators: the closest non-falling curve in weighted least squares."""
        pools: list[tuple[float, float, int]] = []  # seconds, weight, bins
        num_tokens: list[float] = []
        factors = {
            index: self._mean_s[index] / seed_s
            for index, seed_s in sorted(self._seed_s.items())
            if self._num_real_steps[index] and seed_s > 0
        }
        factor = next(iter(factors.values()), 1.0)
        for index, num_steps in enumerate(self._num_steps):
            if not num_steps:
                continue
            num_tokens.append(self._mean_num_tokens[index])
            factor = factors.get(index, factor)
            seconds, weight, num_bins = self._mean_s[index], min(num_steps, 1.0 / _ALPHA), 1
            if not self._num_real_steps[index]:
                seconds *= factor
            while pools and pools[-1][0] > seconds:
                below_s, below_weight, below_bins = pools.pop()
                total = weight + below_weight
                seconds = (seconds * weight + below_s * below_weight) / total
                weight, num_bins = total, num_bins + below_bins
            pools.append((seconds, weight, num_bins))
        fitted = [seconds for seconds, _, num_bins in pools for _ in range(num_bins)]
        return list(zip(num_tokens, fitted, strict=True))


def _bin_ends(max_num_tokens: int) -> list[int]:
    ends = list(range(1, min(_EXACT, max_num_tokens) + 1))
    while ends[-1] < max_num_tokens:
        octave = 1 << ((ends[-1] + 1).bit_length() - 1)
        ends.append(min(ends[-1] + max(1, octave // _BINS_PER_OCTAVE), max_num_tokens))
    return ends
