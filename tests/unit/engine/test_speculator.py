"""Drafts in the step: taken where they pay, never seen in the output."""

from dataclasses import replace

import pytest

from slipstream.base.errors import ComputeError, GrammarError, NoKVSlotError
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
        """Sequence 1 cannot be sampled any more once it has four tokens of output."""

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
                num_kept = len(computed) - sequence.num_drafts + max(0, result.counts[-1] - 1)
                cells[:] = computed[:num_kept]

    runner, requests, events = run(FREE, max_drafts, num_requests=3, kind=Stuck)
    alone = run(FREE, 0, num_requests=3)[1]
    for i in (0, 2):
        assert requests[i].output_token_ids == alone[i].output_token_ids
    failures = [event for event in events if isinstance(event, RequestFailed)]
    assert [failure.request_id for failure in failures] == ["r1"]
    assert runner.cells[1] == requests[1].token_ids[: len(runner.cells[1])]


def beside_a_prompt(costs):
    """Run a request that decodes and, from its fifth token on, one with a long prompt; the steps of both."""
    runner = Oracle(
        replace(FakeRunner().info, max_drafts=4, max_batch_tokens=128, max_sequence_length=200)
    )
    scheduler = Scheduler(runner, cost_model=costs, step_target_s=16.0)
    for name, prompt in (("decodes", "prompt"), ("reads", "a long prompt, " * 8)):
        sampling = SamplingParams(max_tokens=40, ignore_eos=True)
        request = Request(name, text_tokens(prompt), sampling, 0.0)
        check_request(request, runner.info)
        scheduler.add(request, 0.0)
        for _ in range(5 if name == "decodes" else 1000):
            if not scheduler.has_requests:
                break
            output = scheduler.schedule(1.0)
            scheduler.update_from_output(output, runner.step(output.scheduled), 1.0)
            scheduler.check_integrity()
    return [
        step
        for step in runner.steps
        if len(step) == 2 and not all(sequence.sample for sequence in step)
    ]


def test_drafts_are_verified_beside_pieces_of_prompts_where_the_whole_step_pays_for_them():
    # A row costs as much as any other, but the stream waits for the whole step anyway.
    steps = beside_a_prompt(DEAR)
    assert steps
    assert all(step[0].num_drafts > 0 for step in steps)
    assert all(step[1].num_drafts == 0 for step in steps)


def test_no_drafts_beside_pieces_of_prompts_where_further_rows_are_too_dear():
    steps = beside_a_prompt(curve(lambda n: 2.0**n))
    assert steps
    assert not any(sequence.num_drafts for step in steps for sequence in step)


def test_a_runner_that_finds_no_room_is_asked_again_without_drafts():
    runner = Oracle(replace(FakeRunner().info, max_drafts=4))
    scheduler = Scheduler(runner, cost_model=FREE)
    request = Request("r", text_tokens("prompt"), SamplingParams(max_tokens=20, ignore_eos=True))
    check_request(request, runner.info)
    scheduler.add(request, 0.0)
    seen = []
    while scheduler.has_requests:
        output = scheduler.schedule(1.0)
        num_drafts = output.scheduled[0].num_drafts
        seen.append(num_drafts)
        if num_drafts and seen.count(num_drafts) == 1:
            scheduler.relieve(NoKVSlotError("made up"), 1.0)
            continue
        scheduler.update_from_output(output, runner.step(output.scheduled), 1.0)
    assert len(request.output_token_ids) == 20
    refused = seen.index(next(n for n in seen if n))
    assert seen[refused + 1] == 0
    assert seen[refused + 2] > 0


def test_a_row_that_fails_behind_accepted_drafts_leaves_them_counted_and_its_memory_clean():
    rows = [0]

    def refuse():
        rows[0] += 1
        return GrammarError("dead end") if rows[0] == 5 else None

    runner = Oracle(replace(FakeRunner().info, max_drafts=8))
    runner.refuse_row = refuse
    scheduler = Scheduler(runner, cost_model=FREE)
    request = Request("r", text_tokens("prompt"), SamplingParams(max_tokens=20, ignore_eos=True))
    check_request(request, runner.info)
    scheduler.add(request, 0.0)
    while scheduler.has_requests:
        output = scheduler.schedule(1.0)
        scheduler.update_from_output(output, runner.step(output.scheduled), 1.0)
        scheduler.check_integrity()
    assert (
        request.speculation.num_accepted == 3
    )  # of rows 2 to 4; the first was sampled behind the prompt
    counters = scheduler.speculator.counters
    judged = counters.num_accepted + counters.num_rejected + counters.num_ignored
    assert judged == counters.num_drafted
    assert runner.cells[request.seq_id] == request.token_ids[: request.num_computed_tokens]
