import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.step import (
    MAX_OUTPUTS,
    SIZES,
    StepResult,
    StepSettings,
    measure,
    read_bandwidth,
)


class FakeContext:
    """Takes 10 ms a step and 1 ms a token."""

    def __init__(self, *, can_trim=True):
        self.can_trim = can_trim
        self.now = 0.0
        self.held = 0
        self.steps = []

    def clock(self):
        return self.now

    def decode(self, tokens, positions=None, seq_ids=None, outputs=None):
        self.steps.append((self.held, len(tokens), None if outputs is None else int(outputs.sum())))
        assert outputs is None or outputs[-1]
        self.held += len(tokens)
        self.now += 0.010 + 0.001 * len(tokens)

    def seq_rm(self, seq_id, p0, p1):
        if self.can_trim:
            self.held = p0
        return self.can_trim

    def memory_clear(self):
        self.held = 0


@pytest.mark.parametrize("can_trim", [True, False])
def test_every_size_is_timed_at_both_depths(can_trim):
    context = FakeContext(can_trim=can_trim)
    seen = []
    results = measure(
        context,
        100,
        StepSettings(depth=600, repetitions=2),
        0.005,
        lambda *args: seen.append(args),
        context.clock,
    )
    assert [(r.depth, r.num_tokens) for r in results] == [(d, n) for d in (0, 600) for n in SIZES]
    for result in results:
        assert result.samples == pytest.approx([0.010 + 0.001 * result.num_tokens] * 2)
    timed = [entry for entry in context.steps if entry[2] is not None]
    assert {held for held, _, _ in timed} == {0, 600}
    assert all(outputs == (n if n <= MAX_OUTPUTS else 1) for _, n, outputs in timed)
    assert len(seen) == 2 * len(SIZES)


def test_without_a_depth_each_size_comes_once():
    context = FakeContext()
    results = measure(context, 100, StepSettings(repetitions=1), 0.005, clock=context.clock)
    assert [result.num_tokens for result in results] == list(SIZES)


def test_speeds_are_of_the_median_step_and_of_the_bandwidth():
    result = StepResult(num_tokens=4, depth=0, samples=(0.01, 0.02, 0.09), roofline_s=0.005)
    assert result.tokens_per_s == pytest.approx(200)
    assert result.roofline_tokens_per_s == pytest.approx(800)
    assert result.to_json()["seconds"]["median"] == 0.02


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_bandwidth_is_bytes_by_seconds(threads):
    assert 1e6 < read_bandwidth(threads, 1 << 20) < 1e13


@pytest.mark.parametrize(
    ("name", "value"), [("depth", -1), ("repetitions", 0), ("threads", 2000), ("depth", 1 << 30)]
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(InvalidRequestError, match=name):
        StepSettings(**{name: value})
