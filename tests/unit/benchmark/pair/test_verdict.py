"""Verdicts: noise is no gain, drafts that change the output are not advised, counters that disagree are told."""

import pytest

from slipstream.benchmark.pair import verdict, words
from slipstream.benchmark.pair.data import Block, Measured, waited_share
from slipstream.benchmark.pair.live import Text
from slipstream.benchmark.pair.lossless import compare, noise_of, two_sample_p
from slipstream.benchmark.pair.scan import Control
from slipstream.benchmark.stats import PooledRatio, pooled_ratio


def arm(seconds, *, drafted=0, accepted=0, rejected=0, ignored=0, outputs=((1, 2, 3),), steps=None):
    return {
        "seconds": seconds, "num_tokens": 20, "outputs": [list(o) for o in outputs], "drafted": drafted,
        "accepted": accepted, "rejected": rejected, "ignored": ignored,
        "positions": [(accepted + rejected, accepted)] if drafted else [],
        "num_steps": 20 - accepted if steps is None else steps, "draft_s": 0.0, "step_s": seconds, "joules": None,
    }  # fmt: skip


def block(name, off=1.0, again=1.0, **arms):
    every = {"off": arm(off), "off again": arm(again)} | {
        key.replace("_", " "): value for key, value in arms.items()
    }
    return Block(
        candidate="d", temperature=0.0, batch=1, number=0, category="chat", names=[name], arms=every
    )


def right(seconds):
    return arm(seconds, drafted=10, accepted=8, rejected=2)


def test_a_gain_beyond_the_noise_is_told_with_its_interval():
    blocks = [block(f"p{i}", again=1 + 0.001 * i, draft_2=right(0.5)) for i in range(6)]
    _, floor = verdict.floor_of(blocks)
    (found,) = verdict.arm_figures(blocks, floor)
    assert found.speedup.value == pytest.approx(2.0)
    assert found.speedup.low == pytest.approx(2.0)
    assert found.verdict == verdict.FASTER
    assert found.alpha == pytest.approx(0.8)
    assert found.joules_per_token is None


def test_what_two_equal_arms_show_is_no_difference():
    blocks = [block(f"p{i}", again=0.8 + 0.08 * i, draft_2=right(0.9)) for i in range(6)]
    _, floor = verdict.floor_of(blocks)
    assert verdict.arm_figures(blocks, floor)[0].verdict == verdict.SAME


def test_fewer_than_five_prompts_give_no_interval():
    blocks = [block(f"p{i}", draft_2=right(2.0)) for i in range(4)]
    (found,) = verdict.arm_figures(blocks, 0.02)
    assert found.speedup.low is None
    assert found.verdict == verdict.SLOWER
    assert found.slower_share == 1.0


def test_passes_through_the_same_prompt_are_one_cluster():
    blocks = [block("same", draft_2=right(0.5)) for _ in range(8)]
    (found,) = verdict.arm_figures(blocks, 0.02)
    assert found.speedup.num_clusters == 1


def test_a_noise_floor_that_is_high_is_told():
    live = {
        "num_blocks": 9, "doubts": [], "failed": {}, "waited_share": None, "num_disturbed": 0, "drift": 0.0,
        "noise_floor": {"ratio": {"value": 0.7, "low": 0.6, "high": 0.9}, "floor": 0.4},
    }  # fmt: skip
    assert any("equal arms differ by up to 40%" in note for note in words.notes(live))
    live["noise_floor"]["floor"] = 0.02
    assert not any("Doubt" in note for note in words.notes(live))


def test_a_busy_machine_is_told_by_what_it_took_from_us():
    found = block("a", draft_2=right(0.5))
    runs = list(found.arms.values())
    assert waited_share(runs, 2) is None  # it could not be read
    assert not found.is_disturbed(2)
    for run in runs:
        run["waited_s"] = 0.04  # of 1, 1 and 0.5 seconds on two threads
    assert waited_share(runs, 2) == pytest.approx(0.12 / 5)
    assert not found.is_disturbed(2)
    runs[-1]["waited_s"] = 0.2
    assert found.is_disturbed(2)
    live = {
        "num_blocks": 9, "doubts": [], "failed": {}, "waited_share": 0.12, "num_disturbed": 2, "drift": 0.01,
        "noise_floor": {"ratio": {"value": 1.0, "low": 0.99, "high": 1.01}, "floor": 0.02},
    }  # fmt: skip
    assert any("busy" in note and "12%" in note for note in words.notes(live))
    assert any("disturbed them: 2 blocks" in note for note in words.notes(live))
    live["waited_share"] = 0.01
    assert not any("busy" in note for note in words.notes(live))
    assert not any("changed its speed" in note for note in words.notes(live))
    live["drift"] = -0.15
    assert any("ran -15% against" in note for note in words.notes(live))


def test_an_interval_that_reaches_below_one_is_no_gain():
    ratio = PooledRatio(value=1.2, low=0.9, high=1.4, num_clusters=9)
    assert verdict.judge(ratio, 0.05) == verdict.SAME


def test_counters_that_disagree_and_drafts_that_never_came_are_told():
    lost = block("p", draft_3=arm(1.0, drafted=9, accepted=2, rejected=1, ignored=1))
    assert any("9 verified" in doubt for doubt in verdict.doubts([lost]))
    silent = block("p", draft_3=arm(1.0))
    assert verdict.doubts([silent]) == ["draft 3: the draft model drafted nothing"]
    many = block("p", draft_3=arm(1.0, drafted=10, accepted=8, rejected=2, steps=99))
    assert any("99 steps" in doubt for doubt in verdict.doubts([many]))
    assert verdict.doubts([block("p", draft_3=right(1.0))]) == []


def text():
    return Text(name="p", category="chat", prompt=[1], output=[1, 2, 3], gaps=[5.0, 0.01, 4.0])


def measured(control_gaps):
    found = Measured()
    found.texts = {0.0: {"p": text()}}
    best = [(1, 9), (2, 7), (3, 9)]
    found.controls = {(0.0, "p"): Control(gaps=control_gaps, best=best)}
    return found


def test_a_swap_of_two_tied_tokens_is_a_tie_and_any_other_change_a_defect():
    found = measured([5.0, 0.03, 4.0])
    noise = noise_of(found, 0.0)
    assert noise.largest == pytest.approx(0.02)
    control = found.controls[0.0, "p"]
    assert compare(text(), [1, 2, 3], control, noise) is None
    assert compare(text(), [1, 7, 3], control, noise).is_tie
    assert not compare(text(), [1, 8, 3], control, noise).is_tie  # not one of the two best
    assert not compare(text(), [1, 2, 9], control, noise).is_tie  # not near
    assert not compare(text(), [1, 2], control, noise).is_tie  # ended early


def test_a_defect_forbids_the_use_of_the_fastest_arm():
    found = measured([5.0, 0.01, 4.0])
    bad = arm(0.1, drafted=4, accepted=4, outputs=((1, 2, 8),))
    told = verdict.losslessness(found, [block("p", draft_1=bad)], 0.0, "exact")
    assert told["arms"]["off"]["is_lossless"]
    assert not told["arms"]["draft 1"]["is_lossless"]
    assert told["arms"]["draft 1"]["defects"][0]["token"] == 2


def test_the_two_sample_test_accepts_the_same_law_and_refuses_another():
    import random

    source = random.Random(1)
    ours = [[source.randrange(8) for _ in range(40)] for _ in range(20)]
    theirs = [[source.randrange(8) for _ in range(40)] for _ in range(20)]
    shifted = [[min(7, token + (source.random() < 0.8)) for token in row] for row in theirs]
    assert two_sample_p(ours, theirs) > 0.01
    assert two_sample_p(ours, shifted) < 0.01


def test_pooled_ratios_weigh_by_what_was_done():
    found = pooled_ratio([(10, 1), (1000, 10)], [(10, 1), (1000, 20)])
    assert found.value == pytest.approx((1010 / 11) / (1010 / 21))
    assert found.low is None
    with pytest.raises(ValueError, match="not above 0"):
        pooled_ratio([(0, 1)], [(1, 1)])
    with pytest.raises(ValueError, match="paired"):
        pooled_ratio([], [])
