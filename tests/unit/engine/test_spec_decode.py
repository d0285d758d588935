"""The pure parts of speculation."""

import pytest

from slipstream.engine.acceptance import NgramAcceptance
from slipstream.engine.spec_decode import SpeculationCounters, plan_depth, plan_drafts


def test_counters_always_add_up():
    counters = SpeculationCounters()
    for num_drafted, num_accepted in [(4, 4), (4, 0), (5, 2), (1, 0), (0, 0)]:
        counters.record(num_drafted, num_accepted)
    assert counters == SpeculationCounters(14, 6, 3, 5, [(4, 2), (2, 2), (2, 1), (1, 1)])
    assert counters.num_drafted == (
        counters.num_accepted + counters.num_rejected + counters.num_ignored
    )


@pytest.mark.parametrize(("num_drafted", "num_accepted"), [(2, 3), (2, -1)])
def test_impossible_counts_are_refused(num_drafted, num_accepted):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        SpeculationCounters().record(num_drafted, num_accepted)


def test_survival_starts_at_the_prior_and_follows_what_is_seen():
    model = NgramAcceptance()
    assert model.survival(2)[0] < model.survival(6)[0] < model.survival(20)[0] < 1
    before = model.survival(6)[:3]
    for _ in range(50):
        model.record(6, 4, 1)
    assert model.survival(6)[0] > before[0]
    assert model.survival(6)[1] < before[1]
    # Positions behind a rejection are not at risk and keep the prior's ratio.
    after = model.survival(6)
    assert after[3] / after[2] == pytest.approx(before[1] / before[0])
    assert model.survival(2) == NgramAcceptance().survival(2)


def test_what_was_learnt_fades():
    model = NgramAcceptance()
    for _ in range(1000):
        model.record(2, 4, 0)
    low = model.survival(2)[0]
    for _ in range(12):
        model.forget()
    assert low < 0.05 < 0.2 < model.survival(2)[0]


def flat(n):
    return [0.0] + [1.0] * n


def linear(n):
    return [float(i) for i in range(n + 1)]


def test_drafts_are_free_where_rows_are_free_and_cost_too_much_where_rows_cost_a_token_each():
    chances = [[0.9, 0.8, 0.7]]
    assert plan_drafts(chances, 1, flat(100), 32) == [3]
    assert plan_drafts(chances, 1, linear(100), 32) == [0]


def test_the_likeliest_drafts_of_all_sequences_go_first():
    chances = [[0.9, 0.85, 0.8], [0.3, 0.1], [0.95, 0.5]]
    assert plan_drafts(chances, 3, flat(100), 3) == [2, 0, 1]
    assert plan_drafts(chances, 3, flat(100), 100) == [3, 2, 2]
    assert plan_drafts(chances, 3, flat(4), 100) == [0, 0, 1]


def test_a_plateau_behind_a_step_is_found():
    # One more row costs double; the next three are free.
    costs = [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 9.0]
    assert plan_drafts([[0.9, 0.85, 0.8, 0.75, 0.7]], 1, costs, 32) == [4]


def test_without_proposals_or_budget_nothing_is_drafted():
    assert plan_drafts([], 4, flat(10), 32) == []
    assert plan_drafts([[0.9]], 1, flat(10), 0) == [0]
    assert plan_drafts([[0.04]], 1, flat(10), 5) == [0]


def test_a_draft_model_looks_as_deep_ahead_as_pays():
    cheap, dear = [0.1] * 5, [0.9] * 5
    rows = [1.0 + 0.05 * n for n in range(40)]
    assert plan_depth([0.9], 1, rows, cheap, 8)[0] >= 4
    assert plan_depth([0.5], 1, rows, cheap, 8)[0] in (1, 2, 3)
    depth, rate = plan_depth([0.9], 1, rows, dear, 8)
    assert depth == 0
    assert rate == pytest.approx(1 / rows[1])
    assert plan_depth([0.9], 1, rows[:3], cheap, 8)[0] == 1  # costs are known no further
    assert plan_depth([], 2, rows, cheap, 8)[0] == 0


def test_a_draft_model_pays_less_the_more_sequences_fill_the_step():
    rows = [0.0, *[1.0] * 8, *[1.0 + 0.5 * n for n in range(1, 60)]]  # free up to eight rows
    draft = [0.1] * 20
    depths = [plan_depth([0.8] * n, n, rows, draft, 8)[0] for n in (1, 2, 4, 8)]
    assert depths[0] >= depths[1] >= depths[2] >= depths[3] == 0
    assert depths[0] > 2
