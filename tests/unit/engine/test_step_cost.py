"""Step costs measured at load and kept on disk."""

import json
import os
from dataclasses import dataclass, field

import pytest

from slipstream.base.config import home
from slipstream.base.errors import ComputeError
from slipstream.engine import step_cost
from slipstream.engine.cost_model import CostModel
from slipstream.engine.runner import RunnerInfo, StepResult
from slipstream.engine.step_cost import keep_costs, latest_costs, measure, step_costs
from tests.support.fake_runner import VOCAB, FakeRunner

KEY = {"model": "abc", "threads": 2}


@dataclass
class TimedRunner(FakeRunner):
    """A step of n sequences takes (10 + n) ms, the first one a second more."""

    info: RunnerInfo = field(default_factory=lambda: RunnerInfo(64, 20, 32, 64, True, len(VOCAB)))
    now_s: float = 0.0
    first_s: float = 0.1
    scale: float = 1.0

    def step(self, scheduled) -> StepResult:
        result = super().step(scheduled)
        self.now_s += self.scale * (0.010 + 0.001 * len(scheduled))
        self.now_s += self.first_s if len(self.steps) == 1 else 0.0
        return result

    def clock(self) -> float:
        return self.now_s


def load(runner, key=KEY):
    return step_costs(runner, key, model_bytes=1, max_rows=8, clock=runner.clock)


def test_small_steps_are_timed_without_the_first_one():
    runner = TimedRunner()
    costs = measure(runner, 40, runner.clock)
    assert [n for n, _ in costs] == [1, 2, 4, 8]
    assert [s for _, s in costs] == pytest.approx([0.011, 0.012, 0.014, 0.018])


def test_the_runner_is_idle_and_empty_afterwards():
    runner = TimedRunner()
    measure(runner, 40, runner.clock)
    assert runner.samplers == {}
    assert runner.used_cells() == 0


def test_no_more_rows_than_can_be_sampled():
    runner = TimedRunner()
    assert [n for n, _ in measure(runner, 3, runner.clock)] == [1, 2]


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0, 50.0, 1000.0])
def test_a_slow_machine_measures_less_and_stays_in_the_budget(scale):
    runner = TimedRunner(scale=scale)
    costs = measure(runner, 40, runner.clock)
    assert len(costs) == {1.0: 4, 10.0: 3, 30.0: 1, 50.0: 1, 1000.0: 0}[scale]
    assert runner.now_s <= 1.7 or not costs


def test_a_step_that_fails_costs_only_the_measurement():
    runner = TimedRunner()
    runner.errors.extend([None] * 5 + [ComputeError("made up")])
    assert [n for n, _ in measure(runner, 40, runner.clock)] == [1]
    assert runner.samplers == {}


def test_a_second_load_takes_them_from_disk():
    runner = TimedRunner()
    costs = load(runner)
    num_steps = len(runner.steps)
    assert load(runner) == costs
    assert len(runner.steps) <= num_steps + 3
    assert runner.samplers == {}
    assert runner.used_cells() == 0
    assert [n for n, _ in load(runner, {**KEY, "threads": 4})] == [1, 2, 4, 8]
    assert len(runner.steps) > num_steps + 10


def test_what_was_measured_on_a_busy_machine_is_measured_again_and_kept():
    busy, idle = TimedRunner(scale=3.0), TimedRunner()
    assert load(busy)[0][1] == pytest.approx(0.033)
    assert load(idle) == load(idle)
    assert [s for _, s in load(idle)] == pytest.approx([0.011, 0.012, 0.014, 0.018])


def test_a_busy_machine_does_not_spoil_what_was_measured_on_an_idle_one():
    costs = load(TimedRunner())
    assert load(TimedRunner(scale=3.0)) == costs


def test_a_step_that_fails_while_costs_are_checked_leaves_them_as_they_are():
    costs = load(TimedRunner())
    runner = TimedRunner()
    runner.errors.append(ComputeError("made up"))
    assert load(runner) == costs


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": [[1, -2]]}', '{"rows": [3]}'])
def test_what_is_damaged_on_disk_is_measured_again(content):
    runner = TimedRunner()
    step_costs(runner, KEY, model_bytes=1, max_rows=8)
    [file] = (home() / "cache" / "step-costs").iterdir()
    file.write_text(content, encoding="utf-8")
    costs = step_costs(runner, KEY, model_bytes=1, max_rows=8)
    assert [n for n, _ in costs] == [1, 2, 4, 8]
    assert json.loads(file.read_text(encoding="utf-8"))["key"] == KEY


def test_a_huge_model_is_not_measured():
    runner = TimedRunner()
    assert step_costs(runner, KEY, model_bytes=1 << 40, max_rows=8) == []
    assert runner.steps == []


def test_what_a_huge_model_has_learnt_is_taken_from_disk_unchecked():
    keep_costs(KEY, [(1, 2.0), (512, 90.0)])
    runner = TimedRunner()
    costs = step_costs(runner, KEY, model_bytes=1 << 40, max_rows=8)
    assert costs == [(1, 2.0), (512, 90.0)]
    assert runner.steps == []


def test_what_was_kept_begins_the_next_load():
    load(TimedRunner())
    keep_costs(KEY, [(1, 0.011), (8, 0.018), (512, 0.9)])
    assert load(TimedRunner()) == [(1, 0.011), (8, 0.018), (512, 0.9)]


def test_the_latest_costs_of_some_settings_are_found():
    assert latest_costs(KEY) is None
    for num_cells, written_s in ((100, 5), (200, 9), (300, 7)):
        key = {**KEY, "context": (num_cells, 1), "build": {"flags": "-O3", "devices": [("a", "b")]}}
        keep_costs(key, [(1, num_cells / 1e4)])
        os.utime(step_cost._path(key), (written_s, written_s))
    (home() / "cache" / "step-costs" / "damaged.json").write_text("{", encoding="utf-8")
    known = latest_costs({**KEY, "build": {"flags": "-O3", "devices": [("a", "b")]}})
    assert known is not None
    assert (known.costs, known.written_s) == ([(1, 0.02)], 9)
    assert known.key["context"] == [200, 1]
    assert latest_costs({**KEY, "threads": 3}) is None
    assert latest_costs({**KEY, "build": {"flags": "-O2"}}) is None


def test_a_home_that_cannot_be_written_to_costs_only_the_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(step_cost, "home", lambda: tmp_path / "file")
    assert step_costs(TimedRunner(), KEY, model_bytes=1, max_rows=8)


def test_measured_costs_begin_the_learnt_curve():
    model = CostModel(64)
    model.seed([(1, 0.011), (8, 0.018)])
    assert model.estimate_s(1) == pytest.approx(0.011)
    assert 0.011 < model.estimate_s(4) < 0.018
