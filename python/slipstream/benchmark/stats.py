"""Summaries of repeated measurements. Knows nothing of models or clocks."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    random = Random(0)
    medians = sorted(
        statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(_NUM_RESAMPLES)
    )
    return Ratio(
        median=statistics.median(ratios),
        low=medians[int(0.05 * _NUM_RESAMPLES)],
        high=medians[int(0.95 * _NUM_RESAMPLES)],
        num_rounds=len(ratios),
    )


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
