"""Summaries of repeated measurements. Knows nothing of models or clocks."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
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
