"""A draft model in the step: asked as far as it pays, never seen in the output, and free to fail."""

import itertools
from dataclasses import replace

import pytest

from slipstream.base.errors import ComputeError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, Speculation
from slipstream.engine.cost_model import CostModel
from slipstream.engine.request import Request, check_request
from slipstream.engine.scheduler import Scheduler
from tests.support.fake_runner import FakeRunner, text_tokens


def curve(seconds):
    costs = CostModel(64)
    for num_tokens in (1, 2, 3, 4, 8, 16, 32, 64):
        costs.record(num_tokens, seconds(num_tokens))
    return costs


FREE = curve(lambda n: 1.0)
DEAR = curve(float)


def run(costs=FREE, num_requests=1, ratio=0.05, options=None, prompt="prompt", errors=(), **info):
    """Run some requests to their ends; the draft model really takes no time, so its cost is `ratio`'s."""
    info = {
        "max_drafts": 8,
        "has_draft_model": True,
        "has_ngrams": False,
        "draft_cost_ratio": ratio,
        **info,
    }
    runner = FakeRunner(replace(FakeRunner().info, **info))
    scheduler = Scheduler(runner, cost_model=costs)
    runner.draft_errors.extend(errors)
    requests = []
    for i in range(num_requests):
        request = Request(
            f"r{i}",
            text_tokens(f"{prompt} {i}"),
            SamplingParams(max_tokens=32, ignore_eos=True),
            0.0,
            options or Speculation(),
        )
        check_request(request, runner.info)
        scheduler.add(request, 0.0)
        requests.append(request)
    events = []
    while scheduler.has_requests:
        output = scheduler.schedule(1.0)
        scheduler.check_integrity()
        scheduler.update_from_output(output, runner.step(output.scheduled), 1.0)
        events += scheduler.take_events()[0]
        scheduler.check_integrity()
    return runner, requests, events


def outputs(requests):
    return [request.output_token_ids for request in requests]


@pytest.mark.parametrize("num_requests", [1, 3])
def test_fewer_steps_give_the_same_tokens(num_requests):
    plain, expected, _ = run(num_requests=num_requests, max_drafts=0)
    drafted, requests, _ = run(num_requests=num_requests)
    assert outputs(requests) == outputs(expected)
    assert len(drafted.steps) < 0.75 * len(plain.steps)
    assert sum(request.speculation.num_accepted for request in requests) > 0


def test_where_rows_cost_a_token_each_the_draft_model_is_not_asked():
    runner, requests, _ = run(DEAR)
    assert requests[0].speculation.num_drafted == 0
    assert not runner.drafted


def test_a_draft_model_as_dear_as_its_target_is_not_asked():
    assert run(ratio=1.0)[1][0].speculation.num_drafted == 0


@pytest.mark.parametrize("source", ["off", "ngram"])
def test_a_request_can_do_without(source):
    assert run(options=Speculation(source=source))[1][0].speculation.num_drafted == 0


def test_a_fixed_number_is_drafted_whatever_it_costs():
    _, expected, _ = run(max_drafts=0)
    runner, requests, _ = run(DEAR, ratio=1.0, options=Speculation(source="draft", num_tokens=3))
    assert outputs(requests) == outputs(expected)
    counts = [s.num_drafts for step in runner.steps[1:] for s in step]
    assert set(counts[:-3]) == {3}


def test_an_accepted_end_is_the_end():
    _, requests, events = run()
    assert len(requests[0].output_token_ids) == 32
    assert events[-1].finish_reason is FinishReason.LENGTH


def test_a_draft_model_that_fails_costs_no_request_anything_and_is_left_alone_in_the_end():
    _, expected, _ = run(num_requests=2, max_drafts=0)
    errors = [ComputeError("no luck")] * 50
    runner, requests, events = run(num_requests=2, errors=errors)
    assert outputs(requests) == outputs(expected)
    assert len(errors) - len(runner.draft_errors) == 3
    assert sum(event.finish_reason is not None for event in events) == 2


def test_a_long_prompt_that_a_short_answer_cannot_pay_for_is_not_read():
    short = run(prompt="p")[1][0]
    costs = curve(lambda n: 1.0 + 0.1 * n)
    runner, requests, _ = run(costs, ratio=0.9, prompt="a long prompt, " * 5)
    assert short.speculation.num_drafted > 0
    assert requests[0].speculation.num_drafted == 0
    assert not runner.drafted


def test_the_index_goes_on_behind_the_draft_model():
    behind = []

    class Chained(FakeRunner):
        def propose(self, seq_ids, max_tokens, drafts=()):
            if not drafts:
                return [(0, [])] * len(seq_ids)
            behind.extend(drafts)
            return super().propose(seq_ids, max_tokens, drafts)

    runner = Chained(
        replace(FakeRunner().info, max_drafts=15, has_draft_model=True, draft_cost_ratio=0.05)
    )
    scheduler = Scheduler(runner, cost_model=FREE)
    request = Request("r", text_tokens("prompt"), SamplingParams(max_tokens=40, ignore_eos=True))
    check_request(request, runner.info)
    scheduler.add(request, 0.0)
    longest = 0
    while scheduler.has_requests:
        output = scheduler.schedule(1.0)
        longest = max(longest, *(s.num_drafts for s in output.scheduled))
        scheduler.update_from_output(output, runner.step(output.scheduled), 1.0)
    assert behind
    assert longest > max(map(len, behind))


class Turncoat(FakeRunner):
    """Its draft model is wrong about everything in the first 100 steps, then always right."""

    def draft(self, seq_ids, max_rows):
        drafts = []
        before = {seq_id: len(self.drafted.get(seq_id, ())) for seq_id in seq_ids}
        found, num_rows = super().draft(seq_ids, max_rows)
        for seq_id, (token, confidence) in zip(seq_ids, found, strict=True):
            if token >= 0:
                sampler = self.samplers[seq_id]
                text = [*sampler.history, *self.drafted[seq_id][: before[seq_id]]]
                right = self.next_token(text, sampler.num_prompt_tokens)
                token = (right + 1) % self.info.num_vocab if len(self.steps) < 100 else right
                self.drafted[seq_id][-1] = token
            drafts.append((token, confidence))
        return drafts, num_rows


def test_a_draft_model_that_did_not_pay_is_tried_again_and_comes_back():
    info = replace(
        FakeRunner().info,
        num_kv_cells=4096,
        max_sequence_length=4096,
        max_drafts=8,
        has_draft_model=True,
        has_ngrams=False,
        draft_cost_ratio=0.05,
    )
    runner = Turncoat(info)
    scheduler = Scheduler(runner, cost_model=FREE)
    request = Request(
        "r", text_tokens("prompt"), SamplingParams(max_tokens=700, ignore_eos=True), 0.0
    )
    check_request(request, runner.info)
    scheduler.add(request, 0.0)
    steps_with_drafts, num_steps = [], 0
    while scheduler.has_requests:
        output = scheduler.schedule(1.0)
        if any(s.num_drafts for s in output.scheduled):
            steps_with_drafts.append(num_steps)
        scheduler.update_from_output(output, runner.step(output.scheduled), 1.0)
        num_steps += 1
    pauses = [b - a for a, b in itertools.pairwise(steps_with_drafts)]
    assert 256 < max(pauses) < 300  # it was left alone, and then read what it had missed
    assert request.speculation.num_accepted > 0
