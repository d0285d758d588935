"""Drafts in the step: taken where they pay, never seen in the output."""

from dataclasses import replace

import pytest

from slipstream.base.errors import ComputeError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, RequestFailed
from slipstream.engine.cost_model import CostModel
from slipstream.engine.request import Request, check_request
from slipstream.engine.scheduler import Scheduler
from tests.support.fake_runner import EOG, FakeRunner, text_tokens


def curve(seconds):
    costs = CostModel(64)
    for num_tokens in (1, 2, 3, 4, 8, 16, 32, 64):
        costs.record(num_tokens, seconds(num_tokens))
    return costs


class Oracle(FakeRunner):
    """Proposes what comes next, all of it right."""

    def propose(self, seq_ids, max_tokens, drafts=()):
        proposals = []
        for seq_id in seq_ids:
            sampler = self.samplers[seq_id]
            draft = []
            for _ in range(max_tokens):
                text = sampler.history + draft
                draft.append(self.next_token(text, sampler.num_prompt_tokens))
            proposals.append((32, draft))
        return proposals


def run(costs, max_drafts=8, num_requests=1, kind=Oracle, **sampling):
    runner = kind(replace(FakeRunner().info, max_drafts=max_drafts))
    scheduler = Scheduler(runner, cost_model=costs)
    sampling = {"max_tokens": 24, "ignore_eos": True, **sampling}
    requests = []
    for i in range(num_requests):
        request = Request(f"r{i}", text_tokens(f"prompt {i}"), SamplingParams(**sampling), 0.0)
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


FREE = curve(lambda n: 1.0)
DEAR = curve(float)


@pytest.mark.parametrize("num_requests", [1, 3])
def test_where_rows_are_free_fewer_steps_give_the_same_tokens(num_requests):
    plain, expected, _ = run(FREE, max_drafts=0, num_requests=num_requests)
    drafted, requests, events = run(FREE, num_requests=num_requests)
    assert [r.output_token_ids for r in requests] == [r.output_token_ids for r in expected]
    assert len(drafted.steps) < len(plain.steps) / 2
    for event in events:
        if event.finish_reason:
            assert event.usage.num_accepted_tokens > 12
            assert event.usage.num_rejected_tokens == 0


def test_where_rows_cost_a_token_each_nothing_is_drafted():
    runner, requests, _ = run(DEAR)
    assert requests[0].speculation.num_drafted == 0
    assert all(s.num_drafts == 0 for step in runner.steps for s in step)


def test_before_the_first_cost_nothing_is_drafted():
    runner, _, _ = run(CostModel(64))
    assert all(s.num_drafts == 0 for step in runner.steps for s in step)


def test_wrong_drafts_are_given_up():
    class Liar(FakeRunner):
        def propose(self, seq_ids, max_tokens, drafts=()):
            return [(5, [EOG] * max_tokens) for _ in seq_ids]

    nearly_free = curve(lambda n: 1.0 + 0.2 * n)
    runner, requests, _ = run(nearly_free, kind=Liar, max_tokens=100)
    counters = requests[0].speculation
    assert counters.num_accepted < counters.num_rejected <= counters.num_drafted
    assert sum(s.num_drafts for step in runner.steps[-20:] for s in step) == 0


def test_a_request_never_gets_more_than_its_tokens():
    for max_tokens in range(1, 12):
        runner, requests, _ = run(FREE, max_tokens=max_tokens)
        assert len(requests[0].output_token_ids) == max_tokens
        assert max(s.num_drafts for step in runner.steps for s in step) <= max(0, max_tokens - 2)


def test_what_is_accepted_behind_a_stop_string_is_dropped_and_leaves_the_cache():
    _, plain, plain_events = run(FREE, max_drafts=0, stop=("e",), max_tokens=60)
    runner, requests, events = run(FREE, stop=("e",), max_tokens=60)
    assert requests[0].output_token_ids == plain[0].output_token_ids
    assert "".join(e.text for e in events) == "".join(e.text for e in plain_events)
    assert events[-1].finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert len(runner.cells[requests[0].seq_id]) == len(requests[0].token_ids) - 1


@pytest.mark.parametrize("max_drafts", [0, 8])
def test_a_request_that_cannot_be_sampled_fails_alone_and_leaves_a_sound_cache(max_drafts):
    class Stuck(Oracle):
        """Sequence 1 cannot be sampled any more once it has four tokens of output; its drafts stay in the cells."""

        def _sample(self, sequence, cells, result):
            computed = list(cells)
            super()._sample(sequence, cells, result)
            sampler = self.samplers[sequence.seq_id]
            if sequence.seq_id == 1 and len(sampler.history) - sampler.num_prompt_tokens > 4:
                num_lost = min(2, result.counts[-1])
                for column in (result.token_ids, result.pieces, result.is_eog, result.logprobs):
                    del column[len(column) - num_lost :]
                result.counts[-1] -= num_lost
                result.errors[len(result.counts) - 1] = ComputeError("stuck")
                cells[:] = computed

    runner, requests, events = run(FREE, max_drafts, num_requests=3, kind=Stuck)
    alone = run(FREE, 0, num_requests=3)[1]
    for i in (0, 2):
        assert requests[i].output_token_ids == alone[i].output_token_ids
    failures = [event for event in events if isinstance(event, RequestFailed)]
    assert [failure.request_id for failure in failures] == ["r1"]
    assert runner.cells[1] == requests[1].token_ids[: len(runner.cells[1])]
