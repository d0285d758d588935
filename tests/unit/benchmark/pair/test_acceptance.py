"""Acceptance: replays are what drafting would do, rates are over what was judged, break-evens solve the formula."""

import random

import pytest

from slipstream.benchmark.pair.acceptance import (
    Reading,
    best_speedup,
    break_even_alpha,
    break_even_cost,
    break_even_rows,
    count,
    expected_tokens,
    model_reading,
    replay,
    speedup,
)
from slipstream.benchmark.pair.data import ngram_reading


def draft_by_hand(matches, confidences, gamma, cut, most):
    """Draft token by token, as an engine does."""
    rounds, place = [], 1
    while place < len(matches):
        offered = 0
        is_right = True
        accepted = 0
        while offered < gamma and place + offered < most - 1:
            at = place + offered
            if is_right and confidences[at] < cut:
                break
            offered += 1
            is_right = is_right and matches[at]
            accepted += is_right
            if at + 1 >= len(matches):
                break
        rounds.append((offered, accepted))
        place += accepted + 1
    return rounds


@pytest.mark.parametrize("gamma", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("cut", [0.0, 0.4])
def test_a_replay_accepts_what_drafting_token_by_token_would(gamma, cut):
    source = random.Random(gamma)
    for _ in range(50):
        length = source.randint(2, 40)
        matches = [source.random() < 0.7 for _ in range(length)]
        confidences = [source.random() for _ in range(length)]
        found = replay(model_reading(matches, confidences, cut), gamma, length)
        expected = draft_by_hand(matches, confidences, gamma, cut, length)
        assert [accepted for _, accepted in found] == [accepted for _, accepted in expected]
        assert sum(accepted + 1 for _, accepted in found) == length - 1


def test_the_last_token_a_request_may_have_is_never_drafted():
    everything = model_reading([True] * 6, [1.0] * 6)
    assert replay(everything, 8, 6) == [(4, 4)]
    assert replay(everything, 8, 7) == [(5, 5)]


def test_only_judged_drafts_count():
    found = count([(3, 3), (3, 0), (3, 1), (0, 0)])
    assert (found.drafted, found.accepted, found.rejected, found.ignored) == (9, 4, 2, 3)
    assert found.alpha == pytest.approx(4 / 6)
    assert found.positions == ((3, 2), (2, 1), (1, 1))
    assert found.tau == 2.0
    assert found.num_silent == 1


def test_the_maximum_likelihood_estimate_finds_the_chance_at_every_length():
    source = random.Random(0)
    matches = [source.random() < 0.8 for _ in range(20000)]
    for gamma in (1, 3, 8):
        found = count(replay(model_reading(matches, [1.0] * len(matches)), gamma))
        assert found.alpha == pytest.approx(0.8, abs=0.01)
        assert found.tau == pytest.approx(expected_tokens(0.8, gamma), abs=0.1)


def test_nothing_judged_gives_no_rate():
    assert count([(0, 0)]).alpha is None
    assert count([]).tau == 0.0


def test_ngram_readings_stop_at_the_first_wrong_token():
    reading = ngram_reading([[], [5, 6, 9], [7]], [4, 5, 6])
    assert reading == Reading((0, 2, 0), (0, 3, 1))


def test_break_evens_are_where_the_speed_up_is_one():
    def rows(n):
        return 1 + 0.3 * (n - 1)

    gammas = [1, 2, 3, 4]
    alpha = break_even_alpha(gammas, 0.2, rows)
    assert best_speedup(alpha, gammas, 0.2, rows)[1] == pytest.approx(1, abs=1e-3)
    cost = break_even_cost(0.7, gammas, rows)
    assert best_speedup(0.7, gammas, cost, rows)[1] == pytest.approx(1)
    gamma, limit = break_even_rows(0.7, gammas, 0.2, rows)
    assert speedup(0.7, gamma, 0.2, lambda _n: limit) == pytest.approx(1)


def test_dear_drafts_have_no_break_even():
    assert break_even_alpha([1, 2, 3], 0.6, lambda n: 0.6 * n + 0.4) is None
    assert break_even_cost(0.1, [1, 2], lambda n: float(n)) is None
    assert break_even_rows(0.1, [1, 2], 0.9, lambda n: float(n)) is None


def test_the_synthetic_costs_of_a_large_pair_and_of_a_small_machine_give_opposite_advice():
    small = best_speedup(0.8, range(1, 9), 0.40, lambda n: 1 + 0.55 * (n - 1))
    large = best_speedup(0.8, range(1, 9), 0.05, lambda n: 1 + 0.02 * (n - 1))
    assert small[1] < 1 < large[1]
    assert large == (7, pytest.approx(2.79, abs=0.01))
