"""Sharing a step among prompts."""

import random

import pytest

from slipstream.engine.step_budget import share_tokens


@pytest.mark.parametrize(
    ("missing", "budget", "shares"),
    [
        ([], 8, []),
        ([5], 8, [5]),
        ([50], 8, [8]),
        ([50], 0, [0]),
        ([30_000, 50], 100, [50, 50]),
        ([30_000, 50, 40, 500], 100, [25, 35, 40, 0]),
        ([3, 50], 8, [3, 5]),
        ([10, 10, 10], 1, [1, 0, 0]),
    ],
)
def test_the_shortest_go_first_and_the_oldest_gets_its_quarter(missing, budget, shares):
    assert share_tokens(missing, budget) == shares


def test_nothing_is_wasted_and_nobody_gets_more_than_it_needs():
    rng = random.Random(1)
    for _ in range(500):
        missing = [rng.randint(1, 200) for _ in range(rng.randint(1, 10))]
        budget = rng.randint(0, 600)
        shares = share_tokens(missing, budget)
        assert sum(shares) == min(budget, sum(missing))
        assert all(0 <= share <= most for share, most in zip(shares, missing, strict=True))
        assert shares[0] >= min(missing[0], budget // 4)
