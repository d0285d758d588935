"""Advice: only what was faster and changed nothing is used; what would have to change is told at the load there was."""

import pytest

from slipstream.benchmark.pair import words
from slipstream.benchmark.pair.advice import advise, break_even
from slipstream.benchmark.pair.plan import PairSettings
from slipstream.benchmark.pair.verdict import FASTER, SLOWER, ArmFigures
from slipstream.benchmark.stats import PooledRatio

SETTINGS = PairSettings(gammas=(1, 2, 3, 4, 5, 6, 7, 8))


class Prices:
    """A target whose further rows cost half a plain step, and a draft model of so much a token."""

    overhead = 0.0

    def __init__(self, c):
        self.c = c

    def verify(self, num_rows):
        return 0.5 + 0.5 * num_rows

    def draft(self, _candidate, num_rows=1):
        return self.c * self.verify(num_rows)


def arm(name, speedup, verdict, accepted=7, rejected=3):
    return ArmFigures(
        name=name, speedup=PooledRatio(value=speedup, low=None, high=None, num_clusters=4), tokens_per_s=10.0,
        tau=2.0, drafted=10, accepted=accepted, rejected=rejected, ignored=0, positions=((10, 7),), draft_share=0.1,
        joules_per_token=None, slower_share=0.0, verdict=verdict,
    )  # fmt: skip


def test_the_fastest_arm_is_used_if_the_output_stayed():
    arms = [arm("draft 2", 1.3, FASTER), arm("draft auto", 1.2, FASTER)]
    found = advise(Prices(0.05), SETTINGS, "d", arms, batch=1, is_lossless=True)
    assert found["use"] == "draft 2"
    assert found["alpha"] == pytest.approx(0.7)
    found = advise(Prices(0.05), SETTINGS, "d", arms, batch=1, is_lossless=False)
    assert found["use"] is None
    assert "differs" in found["why"]


def test_a_slow_draft_is_refused_with_what_would_have_to_change():
    arms = [arm("draft 1", 0.9, SLOWER), arm("draft 2", 0.8, SLOWER)]
    found = advise(Prices(0.4), SETTINGS, "d", arms, batch=1, is_lossless=True)
    assert found["use"] is None
    # One draft: 1.7 tokens for 1.5 + c plain steps.
    assert found["break_even_c"] == pytest.approx(0.2)
    assert found["break_even_alpha"] == pytest.approx(0.9, abs=1e-4)
    assert found["break_even_rows"] == {"num_rows": 2, "limit": pytest.approx(1.3), "measured": 1.5}
    told = " ".join(words.advice({"candidate": "d", "advice": found}))
    assert "Do not use this draft" in told
    assert "may cost 0.20 plain steps (it costs 0.40)" in told
    assert "verifying 2 rows may cost 1.30 plain steps (it costs 1.50)" in told
    assert "above 90%" in told


def test_many_requests_are_priced_by_their_own_steps():
    """Of eight at a time a step costs 4.5, and 8.5 with a draft of each: V is 1.89 where it was 1.5."""
    alone, many = (break_even(Prices(0.05), SETTINGS, "d", 0.9, batch) for batch in (1, 8))
    assert alone["break_even_alpha"] == pytest.approx(0.55, abs=1e-4)
    assert many["break_even_alpha"] > 0.9
    assert many["c"] == pytest.approx(0.05)
    assert many["most"]["gamma"] <= 4  # a step has no room for more drafts
    assert many["break_even_rows"]["num_rows"] % 8 == 0
