"""Estimates of how likely drafts are right."""

import pytest

from slipstream.engine.acceptance import Estimate, ModelAcceptance


def test_an_estimate_goes_from_its_prior_to_what_is_seen_and_back_when_that_fades():
    estimate = Estimate(0.5)
    assert estimate.chance == 0.5
    for _ in range(150):
        estimate.record(True)
    assert estimate.chance > 0.98
    for _ in range(12):
        estimate.forget()
    assert estimate.chance == pytest.approx(0.5, abs=0.01)


def test_a_long_record_does_not_freeze_an_estimate():
    estimate = Estimate(0.5)
    for _ in range(100_000):
        estimate.record(True)
    for _ in range(300):
        estimate.record(False)
    assert estimate.chance < 0.35


def test_confidence_is_calibrated_by_what_becomes_of_it():
    acceptance = ModelAcceptance()
    assert acceptance.chance(0.2) < acceptance.chance(0.6) < acceptance.chance(0.99)
    before = acceptance.chance(0.6)
    for _ in range(40):
        acceptance.record([0.99, 0.6, 0.99], 1)  # the second is wrong, the third was never judged
    assert acceptance.chance(0.6) < before / 3
    assert acceptance.chance(0.99) > 0.97
    assert 0.45 < acceptance.next_token.chance < 0.6
