"""How many tokens a step takes, and sharing it among prompts."""

import random

import pytest

from slipstream.engine.cost_model import CostModel
from slipstream.engine.step_budget import share_tokens, step_tokens


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


def costs_of(ms_per_token):
    costs = CostModel(512)
    costs.seed([(n, n * ms_per_token / 1000) for n in (1, 8, 32, 128, 512)])
    return costs


@pytest.mark.parametrize(
    ("num_decodes", "ms_per_token", "target_ms", "num_tokens"),
    [
        (0, 1.0, 200, 512),  # nobody waits
        (4, None, 200, 512),  # nothing is known
        (4, 1.0, 0, 512),  # no target
        (4, 0.5, 200, 400),  # the target affords more than a good piece
        (4, 4.0, 200, 132),  # a good piece beside the four, though it takes 528 ms
        (4, 10.0, 200, 80),  # what four targets afford
        (4, 100.0, 200, 36),  # the least
        (500, 100.0, 200, 512),
    ],
)
def test_a_step_takes_its_target_or_a_good_piece_within_four_targets(
    num_decodes, ms_per_token, target_ms, num_tokens
):
    costs = costs_of(ms_per_token) if ms_per_token else None
    assert step_tokens(num_decodes, 512, costs, target_ms / 1000) == num_tokens
