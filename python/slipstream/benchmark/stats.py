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
