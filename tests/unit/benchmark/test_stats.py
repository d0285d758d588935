import math

import pytest

from slipstream.benchmark.stats import summarize


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
