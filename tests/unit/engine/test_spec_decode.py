"""The pure parts of speculation."""

import pytest

from slipstream.engine.spec_decode import SpeculationCounters, accept_longest_prefix


@pytest.mark.parametrize(
    ("draft", "sampled", "num_accepted"),
    [
        ([], [5], 0),
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 3], [1, 9, 3, 4], 1),
        ([1, 2, 3], [9, 2, 3, 4], 0),
        ([1, 2, 3], [1, 9], 1),  # the runner stopped sampling at the disagreement
        ([1, 1, 1], [1, 2, 1], 1),
    ],
)
def test_drafts_are_accepted_up_to_the_first_disagreement(draft, sampled, num_accepted):
    assert accept_longest_prefix(draft, sampled) == num_accepted


def test_counters_always_add_up():
    counters = SpeculationCounters()
    for num_drafted, num_accepted in [(4, 4), (4, 0), (5, 2), (1, 0), (0, 0)]:
        counters.record(num_drafted, num_accepted)
    assert counters == SpeculationCounters(14, 6, 3, 5)
    assert counters.num_drafted == (
        counters.num_accepted + counters.num_rejected + counters.num_ignored
    )


@pytest.mark.parametrize(("num_drafted", "num_accepted"), [(2, 3), (2, -1)])
def test_impossible_counts_are_refused(num_drafted, num_accepted):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        SpeculationCounters().record(num_drafted, num_accepted)
