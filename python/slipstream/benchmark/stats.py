"""Summaries of repeated measurements. Knows nothing of models or clocks."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is told of a list of samples.

    Attributes:
        mean: Arithmetic mean.
        stdev: Sample standard deviation, 0 for a single sample.
        median: Middle sample, or the mean of the two middle ones.
        lowest: Smallest sample.
        highest: Largest sample.
        num_samples: How many there were.
    """

    mean: float
    stdev: float
    median: float
    lowest: float
    highest: float
    num_samples: int


def summarize(samples: Sequence[float]) -> Summary:
    """Summarize samples.

    Args:
        samples: At least one finite number.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    if not samples:
        message = "there are no samples to summarize"
        raise ValueError(message)
    if not all(map(math.isfinite, samples)):
        message = f"a sample is not finite: {list(samples)}"
        raise ValueError(message)
    return Summary(
        mean=statistics.fmean(samples),
        stdev=statistics.stdev(samples) if len(samples) > 1 else 0.0,
        median=statistics.median(samples),
        lowest=min(samples),
        highest=max(samples),
        num_samples=len(samples),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How two arms of an interleaved benchmark compare.

    Attributes:
        median: Of the ratios round by round.
        low: Lower end of the 90 % interval of that median.
        high: Upper end.
        num_rounds: Rounds compared.
    """

    median: float
    low: float
    high: float
    num_rounds: int


_NUM_RESAMPLES = 4000


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Compare two arms that were measured in turn, round by round.

    The interval is the percentile bootstrap of the median (Efron 1979), with a fixed seed. Pairing takes out
    what slows both arms of a round, such as a busy neighbour.

    Args:
        numerators: One figure per round of the arm above the line.
        denominators: Of the arm below, as many, none of them 0.

    Raises:
        ValueError: the lengths differ, there are none, or a denominator is 0.
    """
    if len(numerators) != len(denominators) or not numerators:
        message = f"{len(numerators)} and {len(denominators)} rounds cannot be paired"
        raise ValueError(message)
    if 0 in denominators:
        message = "a figure below the line is 0"
        raise ValueError(message)
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    low, high = _interval(ratios, statistics.median, 0.05)
    return Ratio(median=statistics.median(ratios), low=low, high=high, num_rounds=len(ratios))


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledRatio:
    """How the pooled rates of two paired arms compare: the sum of what was done over the sum of seconds.

    Attributes:
        value: The one rate over the other.
        low: Lower end of the 95 % interval; None below MIN_CLUSTERS pairs.
        high: Upper end.
        num_clusters: Pairs.
    """

    value: float
    low: float | None
    high: float | None
    num_clusters: int


MIN_CLUSTERS = 5  # below this a bootstrap knows too few values to tell an interval


def pooled_ratio(
    numerators: Sequence[tuple[float, float]], denominators: Sequence[tuple[float, float]]
) -> PooledRatio:
    """Compare the pooled rates of two arms, pair by pair.

    The interval is the percentile bootstrap over pairs, with a fixed seed. A pair is all that belongs together, such
    as every repetition of a prompt: tokens of one text are no samples of their own.

    Args:
        numerators: (amount, seconds) per pair of the arm above the line.
        denominators: Of the arm below.

    Raises:
        ValueError: the lengths differ, there are none, or an amount or time is not above 0.
    """
    if len(numerators) != len(denominators) or not numerators:
        message = f"{len(numerators)} and {len(denominators)} figures cannot be paired"
        raise ValueError(message)
    if not all(x > 0 and math.isfinite(x) for pair in (*numerators, *denominators) for x in pair):
        message = "an amount or a time is not above 0"
        raise ValueError(message)
    rows = [(*a, *b) for a, b in zip(numerators, denominators, strict=True)]

    def ratio(sample: Sequence[tuple[float, ...]]) -> float:
        amount, seconds, other_amount, other_s = (
            math.fsum(column) for column in zip(*sample, strict=True)
        )
        return amount / seconds / (other_amount / other_s)

    low = high = None
    if len(rows) >= MIN_CLUSTERS:
        low, high = _interval(rows, ratio, 0.025)
    return PooledRatio(value=ratio(rows), low=low, high=high, num_clusters=len(rows))


def _interval(
    samples: Sequence[Any], statistic: Callable[[Any], float], tail: float
) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap's interval (Efron 1979): `tail` lies beyond each. A fixed seed."""
    random = Random(0)
    found = sorted(
        statistic(random.choices(samples, k=len(samples))) for _ in range(_NUM_RESAMPLES)
    )
    return found[int(tail * _NUM_RESAMPLES)], found[int((1 - tail) * _NUM_RESAMPLES)]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the samples lie, between two neighbours by straight line.

    Args:
        ordered: At least one sample, rising.
        share: 0 to 1.
    """
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """How samples with a long tail are told.

    Attributes:
        p50: Half of the samples are below.
        p95: 95 % of them.
        p99: 99 % of them.
        mean: Arithmetic mean.
        highest: Largest sample.
        num_samples: How many there were.
    """

    p50: float
    p95: float
    p99: float
    mean: float
    highest: float
    num_samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Percentiles:
        """Return those of samples.

        Raises:
            ValueError: there is none.
        """
        if not samples:
            message = "there are no samples to take percentiles of"
            raise ValueError(message)
        ordered = sorted(samples)
        return cls(
            p50=percentile(ordered, 0.5),
            p95=percentile(ordered, 0.95),
            p99=percentile(ordered, 0.99),
            mean=statistics.fmean(ordered),
            highest=ordered[-1],
            num_samples=len(ordered),
        )
