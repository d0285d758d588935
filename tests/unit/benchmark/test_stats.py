import math

import pytest

from slipstream.benchmark.stats import Percentiles, summarize


def test_mean_and_sample_deviation():
    summary = summarize([2.0, 4.0, 9.0])
    assert summary.mean == 5.0
    assert summary.stdev == pytest.approx(math.sqrt(13))
    assert (summary.median, summary.lowest, summary.highest, summary.num_samples) == (
        4.0,
        2.0,
        9.0,
        3,
    )


def test_a_single_sample_has_no_deviation():
    assert summarize([3.0]).stdev == 0.0


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_what_cannot_be_summarized_is_refused(samples):
    with pytest.raises(ValueError, match="sample"):
        summarize(samples)


def test_percentiles_lie_between_neighbours():
    made = Percentiles.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (made.p50, made.highest, made.mean, made.num_samples) == (3.0, 5.0, 3.0, 5)
    assert made.p95 == pytest.approx(4.8)
    assert Percentiles.of([7.0]).p99 == 7.0
    with pytest.raises(ValueError, match="no samples"):
        Percentiles.of([])
