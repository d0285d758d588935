import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.decode import DecodeSettings, measure


class FakeContext:
    """Takes 10 ms a batch and 1 ms a token."""

    def __init__(self, num_cells):
        self.num_cells = num_cells
        self.now = 0.0
        self.held = 0
        self.runs = []

    def clock(self):
        return self.now

    def decode(self, tokens):
        self.held += len(tokens)
        assert self.held <= self.num_cells
        assert tokens.dtype == "int32"
        self.now += 0.010 + 0.001 * len(tokens)
        self.runs[-1].append(list(tokens))

    def memory_clear(self):
        self.held = 0
        self.runs.append([])


def run(settings, **kwargs):
    context = FakeContext(settings.num_kv_cells)
    return context, measure(context, 100, settings, clock=context.clock, **kwargs)


def test_prompt_in_batches_and_generation_token_by_token():
    settings = DecodeSettings(num_prompt=10, num_generate=3, repetitions=2, batch_size=4)
    context, results = run(settings)
    assert [[len(batch) for batch in one] for one in context.runs] == 3 * [[4, 4, 2]] + 3 * [
        [1, 1, 1]
    ]
    prompt, generation = results
    assert (prompt.test, generation.test) == ("pp10", "tg3")
    assert prompt.samples == pytest.approx([10 / 0.040] * 2)
    assert generation.tokens_per_s.mean == pytest.approx(3 / 0.033)


def test_the_same_tokens_in_every_run_and_all_in_the_vocabulary():
    context, _ = run(DecodeSettings(num_prompt=50, num_generate=0, repetitions=3))
    assert all(one == context.runs[0] for one in context.runs)
    assert all(0 <= token < 100 for token in context.runs[0][0])


def test_depth_is_filled_before_the_clock_starts():
    settings = DecodeSettings(num_prompt=0, num_generate=2, repetitions=1, depth=5, batch_size=4)
    context, [result] = run(settings)
    assert [len(batch) for batch in context.runs[0]] == [4, 1, 1, 1]
    assert result.test == "tg2 @ d5"
    assert result.samples == pytest.approx([2 / 0.022])


def test_a_test_of_zero_tokens_is_left_out():
    _, results = run(DecodeSettings(num_prompt=0, num_generate=1, repetitions=1))
    assert [result.test for result in results] == ["tg1"]


def test_progress_counts_every_run_with_its_warm_up():
    seen = []
    settings = DecodeSettings(num_prompt=1, num_generate=1, repetitions=1)
    run(settings, progress=lambda *args: seen.append(args))
    assert seen == [("pp1", 0, 4), ("pp1", 1, 4), ("tg1", 2, 4), ("tg1", 3, 4)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_prompt", -1), ("repetitions", 0), ("batch_size", 0), ("depth", -1), ("threads", 5000)],
)
def test_settings_out_of_range_name_the_field(field, value):
    with pytest.raises(InvalidRequestError, match=field) as error:
        DecodeSettings(**{field: value})
    assert error.value.param == field


def test_nothing_to_measure_is_refused():
    with pytest.raises(InvalidRequestError, match="nothing to measure"):
        DecodeSettings(num_prompt=0, num_generate=0)
