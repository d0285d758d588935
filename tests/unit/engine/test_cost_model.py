"""The learnt step cost."""

import random

import pytest

from slipstream.engine.cost_model import CostModel


def test_nothing_is_estimated_before_the_first_step():
    assert CostModel(512).estimate_s(1) is None
    assert CostModel(512).curve() == []


def test_a_constant_cost_is_learnt_at_once():
    model = CostModel(512)
    model.record(4, 0.02)
    assert model.estimate_s(4) == pytest.approx(0.02)


def test_between_two_sizes_the_estimate_lies_on_a_line():
    model = CostModel(512)
    model.record(2, 0.010)
    model.record(6, 0.030)
    assert model.estimate_s(4) == pytest.approx(0.020)


def test_outside_of_what_was_seen_it_is_flat_below_and_in_proportion_above():
    model = CostModel(512)
    model.record(8, 0.010)
    model.record(16, 0.012)
    assert model.estimate_s(1) == pytest.approx(0.010)
    assert model.estimate_s(64) == pytest.approx(0.048)


def test_it_follows_a_machine_that_became_slower():
    model = CostModel(64)
    for _ in range(50):
        model.record(1, 0.01)
    for _ in range(50):
        model.record(1, 0.02)
    assert model.estimate_s(1) == pytest.approx(0.02, rel=0.01)


def test_a_slow_first_step_is_forgotten():
    model = CostModel(64)
    model.record(1, 1.0)
    for _ in range(100):
        model.record(1, 0.01)
    assert model.estimate_s(1) < 0.012


def test_steps_of_one_bin_are_averaged_in_size_too():
    model = CostModel(512)
    model.record(257, 0.257)
    model.record(319, 0.319)
    assert model.curve() == [(pytest.approx(288), pytest.approx(0.288))]


def test_sizes_beyond_the_largest_count_as_the_largest_bin():
    model = CostModel(4)
    model.record(9, 0.1)
    assert model.estimate_s(9) == pytest.approx(0.1)


def test_the_estimate_never_falls_however_noisy_the_steps_are():
    rng = random.Random(3)
    model = CostModel(512)
    for _ in range(2000):
        num_tokens = rng.choice([1, 1, 1, 2, 3, 5, 8, 13, 40, 100, 300, 512])
        model.record(num_tokens, (0.01 + 0.0005 * num_tokens) * rng.uniform(0.3, 3.0))
        estimates = [model.estimate_s(n) for n in (1, 2, 3, 4, 7, 8, 9, 60, 99, 512, 600)]
        assert estimates == sorted(estimates)


def test_the_truth_is_found_under_noise():
    rng = random.Random(4)
    model = CostModel(512)
    for _ in range(5000):
        num_tokens = rng.randint(1, 512)
        model.record(num_tokens, (0.01 + 0.0005 * num_tokens) * rng.uniform(0.9, 1.1))
    for num_tokens in (30, 64, 200, 500):
        assert model.estimate_s(num_tokens) == pytest.approx(0.01 + 0.0005 * num_tokens, rel=0.1)


def test_the_tokens_affordable_in_a_time_are_the_inverse_of_the_estimate():
    model = CostModel(512)
    assert model.num_tokens_within(1.0) is None
    for num_tokens, seconds in ((1, 0.1), (8, 0.2), (64, 1.0)):
        model.record(num_tokens, seconds)
    assert model.num_tokens_within(0.05) == 1
    assert model.num_tokens_within(0.2) == 8
    assert model.num_tokens_within(0.6) == 36
    assert model.num_tokens_within(2.0) == 128
    for num_tokens in (2, 5, 8, 20, 63, 64, 200):
        assert model.num_tokens_within(model.estimate_s(num_tokens) + 1e-9) == num_tokens


def test_seeds_of_a_busy_machine_are_scaled_by_what_steps_really_take():
    model = CostModel(64)
    model.seed([(1, 0.03), (2, 0.06), (4, 0.12), (8, 0.24)])
    for _ in range(100):
        model.record(1, 0.01)
    assert model.estimate_s(1) == pytest.approx(0.01, rel=0.01)
    assert model.estimate_s(8) == pytest.approx(0.08, rel=0.01)
    for _ in range(100):
        model.record(4, 0.02)  # dearer rows were not the machine's fault
    assert model.estimate_s(2) == pytest.approx(0.02, rel=0.01)
    assert model.estimate_s(8) == pytest.approx(0.04, rel=0.02)


def test_seeds_below_the_first_size_seen_are_scaled_by_it():
    model = CostModel(64)
    model.seed([(1, 0.03), (8, 0.24)])
    for _ in range(100):
        model.record(8, 0.08)
    assert model.estimate_s(1) == pytest.approx(0.01, rel=0.01)


def test_nothing_is_worth_keeping_before_real_steps_have_settled():
    model = CostModel(512)
    model.seed([(1, 0.010), (8, 0.020)])
    for _ in range(7):
        model.record(1, 0.005)
    assert model.worth_keeping() == []
    model.record(1, 0.005)
    assert [n for n, _ in model.worth_keeping()] == [1, 8]


def test_seeds_of_a_busy_machine_are_kept_as_steps_have_mended_them():
    model = CostModel(512)
    model.seed([(1, 0.03), (8, 0.24)])
    for _ in range(200):
        model.record(1, 0.01)
    for _ in range(20):
        model.record(512, 1.0)
    model.record(100, 0.5)  # once is not enough
    kept = dict(model.worth_keeping())
    assert kept == {1: pytest.approx(0.01), 8: pytest.approx(0.08), 512: pytest.approx(1.0)}


def test_seeds_of_an_idle_machine_are_kept_though_steps_were_slower():
    model = CostModel(512)
    model.seed([(1, 0.01), (8, 0.08)])
    for num_tokens in [1, 3, 8] * 50:
        model.record(num_tokens, 0.1)
    assert model.worth_keeping() == [(1, 0.01), (8, 0.08)]


def test_without_seeds_all_sizes_that_settled_are_kept():
    model = CostModel(512)
    for num_tokens in [1, 3, 300] * 20:
        model.record(num_tokens, num_tokens / 100)
    assert model.worth_keeping() == [(n, pytest.approx(n / 100)) for n in (1, 3, 300)]


def test_what_is_kept_begins_a_model_that_keeps_the_same():
    model = CostModel(512)
    for num_tokens in [1, 2, 4, 8, 100, 512] * 20:
        model.record(num_tokens, num_tokens / 100)
    again = CostModel(512)
    again.seed(model.worth_keeping())
    assert again.estimate_s(512) == pytest.approx(5.12)
    for _ in range(8):
        again.record(1, 0.01)
    assert again.worth_keeping() == [(n, pytest.approx(s)) for n, s in model.worth_keeping()]
