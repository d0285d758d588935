"""Plan, distributions, costs, energy: the small parts of a pair benchmark."""

import math
import os
from collections import Counter

import numpy as np
import pytest

from slipstream.base.errors import ComputeError, InvalidRequestError
from slipstream.benchmark.pair.costs import (
    DEPTH,
    REPETITIONS,
    Costs,
    Timer,
    live_sizes,
    measure,
    sizes_of,
)
from slipstream.benchmark.pair.distribution import coupled, filtered, overlap
from slipstream.benchmark.pair.plan import NGRAM, PairSettings, arm_of, arms_of, rotated
from slipstream.benchmark.pair.resources import EnergyMeter, waited_s
from slipstream.benchmark.pair.scan import read_target
from slipstream.engine.runner import RunnerInfo
from tests.support.fake_runner import VOCAB, FakeRunner


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gammas", ()), ("gammas", (0,)), ("gammas", (3, 3)), ("gammas", (17,)), ("batches", (0,)),
        ("temperatures", (-1.0,)), ("temperatures", (math.nan,)), ("confirm", "some"), ("verify", "maybe"),
        ("num_tokens", 1), ("blocks", 0),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(InvalidRequestError) as refused:
        PairSettings(**{field: value})
    assert refused.value.param == field


def test_arms_are_the_best_length_its_neighbours_and_both_policies():
    names = [arm.name for arm in arms_of("d", 3, range(1, 9), 5, 1)]
    assert names == [
        "off", "off again", "draft 2", "draft 3", "draft 4", "draft auto", "ngram 5", "chain auto",
    ]  # fmt: skip
    assert [arm.name for arm in arms_of(NGRAM, 3, range(1, 9), 3, 1)][2:] == [
        "ngram 3",
        "ngram auto",
    ]


@pytest.mark.parametrize(("candidate", "ngram"), [("d", 5), ("d", None), (NGRAM, 3)])
def test_an_arm_is_known_by_its_name(candidate, ngram):
    arms = arms_of(candidate, 3, range(1, 9), ngram, 1)
    named = [arm_of(arm.name) for arm in arms]
    assert named == arms


def test_many_requests_share_the_room_for_drafts():
    lengths = [arm.num_tokens for arm in arms_of("d", 8, range(1, 9), 8, 8) if arm.num_tokens]
    assert lengths == [4, 4]


def test_every_arm_takes_every_place_equally_often():
    arms = arms_of("d", 1, [1, 2], 1, 1)
    places = Counter(
        (arm.name, place)
        for b in range(2 * len(arms))
        for place, arm in enumerate(rotated(arms, b))
    )
    assert set(places.values()) == {2}


def test_filters_are_those_of_the_sampler():
    logits = np.full(100, -10.0, dtype=np.float32)
    logits[[3, 5, 7]] = [2.0, 1.0, -1.5]  # the last is below min-p of the first
    ids, chances = filtered(logits, 0.5)
    assert ids == [3, 5]
    assert chances == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))])


def test_equal_distributions_always_agree_and_disjoint_ones_never():
    p = ([1, 2, 3], [0.5, 0.3, 0.2])
    assert overlap(p, p) == pytest.approx(1.0)
    assert coupled(p, p, 2) == pytest.approx(1.0)
    assert overlap(p, ([8], [1.0])) == 0.0
    assert coupled(p, ([8], [1.0]), 2) == 0.0


def test_the_same_random_number_agrees_as_often_as_the_stretches_meet():
    p, q = ([1, 2], [0.6, 0.4]), ([1, 2], [0.8, 0.2])
    assert coupled(p, q, 1) == pytest.approx(1.0)
    assert coupled(p, q, 2) == pytest.approx(0.5)
    assert overlap(p, q) == pytest.approx(0.8)


def test_costs_lie_between_what_was_timed():
    costs = Costs(
        samples={1: [1.0, 3.0, 2.0], 4: [5.0]}, prefill=[0.2, 0.5, 0.25], step=[1.5], waited=0.1
    )
    assert costs.seconds(1) == 2.0
    assert costs.seconds(2.5) == pytest.approx(3.5)
    assert costs.seconds(8) == pytest.approx(10.0)
    assert costs.prefill_tokens_per_s == 4.0
    assert Costs.of_json(costs.to_json()) == costs


def test_sizes_are_every_small_one_and_those_of_batches():
    assert sizes_of([1, 2, 3], [1, 4], 40) == [1, 2, 3, 4, 8, 12, 16]
    assert max(sizes_of(range(1, 9), [8], 40)) == 40


class FakeContext:
    """Costs a second for each token; logits say token (position + 1) % 5."""

    n_batch = 16

    def __init__(self, clock, *, is_broken=False):
        self.clock, self.is_broken, self.num, self.rows = clock, is_broken, 0, []

    def decode(self, tokens, positions=None, seq_ids=None, outputs=None):
        self.clock[0] += len(tokens)
        self.rows = [self.num + i for i in range(len(tokens)) if outputs is None or outputs[i]]
        self.num += len(tokens)

    def all_logits(self):
        logits = np.zeros((len(self.rows), 5), dtype=np.float32)
        for row, place in zip(logits, self.rows, strict=True):
            row[(place + 1) % 5] = math.nan if self.is_broken else 2.0
        return logits

    def memory_clear(self):
        self.num = 0


class SlowRunner(FakeRunner):
    """A step costs 10 seconds and one for each row, a draft one and a half for each token."""

    seconds = 0.0

    @classmethod
    def of(cls, num_seqs, *, has_draft_model):
        info = RunnerInfo(
            num_kv_cells=4096, max_num_seqs=num_seqs, max_batch_tokens=512, max_sequence_length=2048, can_trim=True,
            num_vocab=len(VOCAB), max_drafts=32, has_draft_model=has_draft_model,
        )  # fmt: skip
        return cls(info=info)

    def step(self, scheduled):
        self.seconds += 10 + sum(len(sequence.token_ids) for sequence in scheduled)
        return super().step(scheduled)

    def draft(self, seq_ids, max_rows):
        drafts, num_rows = super().draft(seq_ids, max_rows)
        self.seconds += 1.5 * num_rows
        return drafts, num_rows


@pytest.mark.parametrize("batches", [(1,), (1, 4)])
def test_both_models_are_timed_as_the_engine_runs_them(batches):
    runner = SlowRunner.of(4, has_draft_model=True)
    sizes = sizes_of([1, 3], batches, 36)
    target, drafter = measure(runner, sizes, batches, clock=lambda: runner.seconds)
    assert {n: target.seconds(n) for n in sizes} == {n: 10.0 + n for n in sizes}
    assert all(len(samples) == REPETITIONS for samples in target.samples.values())
    assert drafter.step_s == 11.0
    for batch in batches:
        assert drafter.seconds(batch) == 1.5 * batch  # a new token of each
        assert drafter.seconds(2 * batch) == 3.0 * batch  # and the last draft, which was right
    assert target.prefill_tokens_per_s == pytest.approx(DEPTH / (10 + DEPTH))
    assert drafter.prefill_tokens_per_s == pytest.approx(1 / 1.5, rel=0.02)
    assert runner.used_cells() == 0


def test_a_target_is_timed_alone_where_nothing_drafts():
    runner = SlowRunner.of(1, has_draft_model=False)
    target, drafter = measure(runner, [1, 2], (1,), clock=lambda: runner.seconds)
    assert target.seconds(2) == 12.0
    assert drafter is None


def test_steps_of_a_live_block_are_those_of_its_requests():
    assert live_sizes([2, 3], 1) == [1, 2, 3, 4]
    assert live_sizes([2, 3, 12], 4) == [1, 2, 4, 12, 16]  # 12 drafts of each do not fit a step
    runner = SlowRunner.of(4, has_draft_model=True)
    timer = Timer(live_sizes([1], 4), [4], most_alone=3, clock=lambda: runner.seconds)
    timer.time_round(runner, [[1, 2, 3]] * 4, passes=2)
    together = [step for step in runner.steps if sum(s.num_drafts for s in step) == 4]
    assert [[s.num_drafts for s in step] for step in together] == [[1] * 4] * 2
    assert {n: timer.target.samples[n] for n in (2, 8)} == {2: [12.0] * 2, 8: [18.0] * 2}
    assert timer.drafter.seconds(4) == 6.0
    assert runner.used_cells() == 0


@pytest.mark.parametrize("num_rows", [1, 3, 64])
def test_reading_gives_one_row_for_each_token_whatever_the_pieces(num_rows):
    clock = [0.0]
    prompt, output = [0] * 20, [0, 1, 2, 3, 4, 0, 1]
    found = read_target(FakeContext(clock), prompt, output, 0.0, num_rows, clock=lambda: clock[0])
    assert [best for best, _ in found.best] == output
    assert found.gaps == [2.0] * len(output)
    assert found.seconds == len(prompt) + len(output) - 1


def test_nan_is_an_error_and_no_figure():
    with pytest.raises(ComputeError, match="NaN"):
        read_target(FakeContext([0.0], is_broken=True), [0], [1, 2], 0.0, 4)


def test_energy_is_summed_over_packages_and_counters_wrap(tmp_path):
    for name, value in (("intel-rapl:0", 90), ("intel-rapl:1", 10), ("intel-rapl:0:0", 5)):
        zone = tmp_path / name
        zone.mkdir()
        (zone / "max_energy_range_uj").write_text("100")
        (zone / "energy_uj").write_text(str(value))
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    assert before == [90, 10]
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("20")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("30")
    assert meter.joules_since(before) == pytest.approx(50e-6)


def test_energy_that_cannot_be_read_is_none(tmp_path):
    meter = EnergyMeter(tmp_path)
    assert not meter.is_readable
    assert meter.read() is None
    assert meter.joules_since(None) is None


def test_lost_processor_time_is_that_of_all_threads_and_what_a_hypervisor_took(tmp_path):
    for number, waited_ns in (("7", 1_500_000_000), ("8", 500_000_000)):
        (tmp_path / "task" / number).mkdir(parents=True)
        (tmp_path / "task" / number / "schedstat").write_text(f"99 {waited_ns} 3\n")
    (tmp_path / "task" / "9").mkdir()  # it ended meanwhile
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    stat.write_text(f"cpu 1 2 3 4 5 6 7 {3 * ticks} 0 0\ncpu0 1\n")
    assert waited_s(tmp_path / "task", stat) == pytest.approx(5.0)
    stat.write_text("cpu 1\n")
    assert waited_s(tmp_path / "task", stat) is None  # another kernel
    assert waited_s(tmp_path / "none", stat) is None
