"""What a step computes, and what its tokens mean."""

import pytest

from slipstream.base.errors import (
    ComputeError,
    ContextLengthError,
    GrammarError,
    InvalidRequestError,
    NoKVSlotError,
)
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, OutputDelta, RequestFailed
from slipstream.engine.cost_model import CostModel
from slipstream.engine.request import Request, check_request
from slipstream.engine.runner import RunnerInfo
from slipstream.engine.scheduler import Scheduler
from tests.support.fake_runner import EOG, VOCAB, FakeRunner, hashed, scripted, text_tokens


class Engine:
    """A scheduler and a fake runner, stepped by hand; time is the number of the step, from 100 on."""

    def __init__(self, next_token=None, max_num_running=None, **limits):
        defaults = {
            "num_kv_cells": 256,
            "max_num_seqs": 4,
            "max_batch_tokens": 16,
            "max_sequence_length": 128,
            "can_trim": True,
            "num_vocab": len(VOCAB),
        }
        self.runner = FakeRunner(RunnerInfo(**{**defaults, **limits}))
        if next_token is not None:
            self.runner.next_token = next_token
        self.scheduler = Scheduler(self.runner, max_num_running=max_num_running)
        self.now_s = 100.0
        self.events = []

    def add(self, request_id, prompt, *, context_overflow="error", **sampling):
        request = Request(
            request_id,
            list(prompt),
            SamplingParams(**sampling),
            self.now_s,
            context_overflow=context_overflow,
        )
        check_request(request, self.runner.info)
        self.scheduler.add(request, self.now_s)
        self.take()
        return request

    def abort(self, request_id):
        self.scheduler.abort(request_id, self.now_s)
        self.take()

    def step(self):
        """One step; returns {seq_id: number of tokens} of it."""
        self.now_s += 1
        output = self.scheduler.schedule(self.now_s)
        while output.scheduled:
            try:
                result = self.runner.step(output.scheduled)
            except NoKVSlotError as error:
                self.scheduler.relieve(error, self.now_s)
                output = self.scheduler.schedule(self.now_s)
                continue
            except ComputeError as error:
                self.scheduler.fail_step(output, error)
                break
            self.scheduler.update_from_output(output, result, self.now_s)
            break
        self.take()
        return {sequence.seq_id: len(sequence.token_ids) for sequence in output.scheduled}

    def take(self):
        events, ended_ids = self.scheduler.take_events()
        self.events += events
        assert ended_ids == [event.request_id for event in events if is_terminal(event)]
        self.scheduler.check_integrity()

    def run(self):
        for _ in range(3000):
            if not self.scheduler.has_requests:
                return self
            self.step()
        raise AssertionError("no end")

    def of(self, request_id):
        return [event for event in self.events if event.request_id == request_id]

    def text(self, request_id):
        return "".join(event.text for event in self.of(request_id))

    def token_ids(self, request_id):
        return [token for event in self.of(request_id) for token in event.token_ids]


def is_terminal(event):
    return isinstance(event, RequestFailed) or event.finish_reason is not None


def answers(text, prompt=(1, 2, 3)):
    return scripted((prompt, text_tokens(text)))


def endless(cells, num_prompt_tokens):
    return 97 + len(cells) % 26


# Steps


def test_a_prompt_is_computed_in_chunks_and_only_the_last_one_samples():
    engine = Engine(endless)
    engine.add("a", range(40), max_tokens=1)
    assert [engine.step() for _ in range(3)] == [{0: 16}, {0: 16}, {0: 8}]
    assert [step[0].sample for step in engine.runner.steps] == [False, False, True]
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_short_prompts_are_packed_into_one_step():
    engine = Engine(endless)
    for i in range(4):
        engine.add(f"r{i}", [i, i, i, i])
    assert engine.step() == {0: 4, 1: 4, 2: 4, 3: 4}
    assert len(engine.events) == 4


def test_running_requests_go_on_in_every_step_of_a_long_prompt():
    engine = Engine(endless)
    engine.add("a", [1, 2])
    engine.step()
    engine.add("b", range(60))
    for num_tokens in (15, 15, 15, 15, 1):
        assert engine.step() == {0: 1, 1: num_tokens}
    assert len(engine.token_ids("a")) == 6


def test_short_prompts_go_first_and_the_oldest_gets_a_quarter_whatever_its_length():
    engine = Engine(endless)
    engine.add("a", range(20))
    engine.add("b", range(30, 40))
    engine.add("c", range(50, 54))
    assert engine.step() == {0: 4, 1: 8, 2: 4}
    assert engine.step() == {0: 13, 1: 2, 2: 1}
    assert engine.step() == {0: 3, 1: 1, 2: 1}


def test_a_short_prompt_does_not_wait_for_a_long_one():
    engine = Engine(endless, max_sequence_length=120)
    engine.add("long", range(100))
    engine.step()
    engine.add("short", range(200, 208))
    engine.step()
    assert len(engine.token_ids("short")) == 1
    assert not engine.token_ids("long")


def test_requests_beyond_the_sequences_wait_for_one():
    engine = Engine(endless, max_num_seqs=2)
    for name in "abc":
        engine.add(name, [ord(name)], max_tokens=2)
    engine.step()
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (2, 1)
    engine.run()
    assert [event.request_id for event in engine.events if is_terminal(event)] == ["a", "b", "c"]


def test_fewer_requests_than_sequences_may_run():
    engine = Engine(endless, max_num_running=1)
    engine.add("a", [1])
    engine.add("b", [2])
    engine.step()
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (1, 1)


def test_no_more_requests_run_than_a_step_has_tokens():
    engine = Engine(endless, max_batch_tokens=2)
    for name in "abc":
        engine.add(name, [ord(name)] * 3, max_tokens=5)
    engine.run()
    assert all(len(step) <= 2 for step in engine.runner.steps)


def test_an_engine_without_requests_has_nothing_to_do():
    assert Engine().scheduler.schedule(1.0).scheduled == []


# Ends


def test_an_end_of_generation_token_ends_a_request_and_counts():
    engine = Engine(answers("hi"))
    engine.add("a", [1, 2, 3])
    engine.run()
    assert [event.text for event in engine.of("a")] == ["h", "i", ""]
    assert engine.token_ids("a") == [*b"hi", EOG]
    assert engine.of("a")[-1].finish_reason is FinishReason.STOP
    assert engine.of("a")[-1].stop_string is None
    assert engine.of("a")[-1].usage.num_output_tokens == 3


def test_ignore_eos_goes_on_to_max_tokens():
    engine = Engine(answers("hi"))
    engine.runner.next_token = lambda cells, _: EOG
    engine.add("a", [1, 2, 3], ignore_eos=True, max_tokens=4)
    engine.run()
    assert engine.token_ids("a") == [EOG] * 4
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_max_tokens_ends_with_length():
    engine = Engine(answers("hello"))
    engine.add("a", [1, 2, 3], max_tokens=3)
    engine.run()
    assert engine.text("a") == "hel"
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_the_last_allowed_token_may_still_be_a_stop():
    engine = Engine(answers("he"))
    engine.add("a", [1, 2, 3], max_tokens=3)
    engine.run()
    assert engine.of("a")[-1].finish_reason is FinishReason.STOP


def test_no_tokens_wanted_computes_nothing():
    engine = Engine()
    engine.add("a", [1, 2, 3], max_tokens=0)
    (event,) = engine.events
    assert event.finish_reason is FinishReason.LENGTH
    assert (event.usage.num_prompt_tokens, event.usage.num_output_tokens) == (3, 0)
    assert engine.runner.num_opened == 0
    assert not engine.scheduler.has_requests


def test_a_stop_token_ends_without_its_text():
    engine = Engine(answers("abc"))
    engine.add("a", [1, 2, 3], stop_token_ids=[ord("c")])
    engine.run()
    assert engine.text("a") == "ab"
    assert engine.token_ids("a") == [*b"abc"]
    assert engine.of("a")[-1].finish_reason is FinishReason.STOP


def test_a_stop_string_over_several_tokens_ends_before_it():
    engine = Engine(answers("one STOP two"))
    engine.add("a", [1, 2, 3], stop=("STOP",))
    engine.run()
    assert engine.text("a") == "one "
    last = engine.of("a")[-1]
    assert (last.finish_reason, last.stop_string) == (FinishReason.STOP, "STOP")
    assert engine.token_ids("a") == [*b"one STOP"]


def test_what_was_held_back_comes_with_the_end():
    engine = Engine(answers("one STO"))
    engine.add("a", [1, 2, 3], stop=("STOP",))
    engine.run()
    assert engine.text("a") == "one STO"
    assert engine.of("a")[-1].text == "STO"


def test_half_a_character_is_held_back_and_replaced_at_the_end():
    engine = Engine(answers("aé🙂"))
    engine.add("a", [1, 2, 3], max_tokens=5)
    engine.run()
    assert [event.text for event in engine.of("a")] == ["a", "", "é", "", "\ufffd"]


def test_a_sequence_at_its_limit_ends_with_length():
    engine = Engine(endless, max_sequence_length=20)
    engine.add("a", range(15))
    engine.run()
    assert len(engine.token_ids("a")) == 5
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_a_request_alone_ends_with_length_when_the_cells_are_full():
    engine = Engine(endless, num_kv_cells=20)
    engine.add("a", range(15))
    engine.run()
    assert len(engine.token_ids("a")) == 5
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH
    assert engine.scheduler.num_preemptions == 0


def test_every_token_id_and_logprob_comes_once_with_its_own_delta():
    engine = Engine(answers("one STOP"))
    engine.add("a", [1, 2, 3], stop=("STOP",), logprobs=2)
    engine.add("b", [1, 2, 3])
    engine.run()
    for event in engine.of("a"):
        assert [entry.token_id for entry in event.logprobs] == event.token_ids
        assert len(event.token_ids) == 1
    assert all(event.logprobs is None for event in engine.of("b"))


def test_times_are_those_of_the_stages():
    engine = Engine(answers("abc", prompt=range(40)))
    engine.now_s = 90.0
    engine.add("a", range(40))
    engine.now_s = 100.0
    engine.run()
    usage = engine.of("a")[-1].usage
    assert (usage.queue_s, usage.prefill_s, usage.decode_s) == (11.0, 2.0, 3.0)


# What is refused


@pytest.mark.parametrize("limits", [{"max_sequence_length": 20}, {"num_kv_cells": 20}])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(limits):
    engine = Engine(**limits)
    engine.add("fits", range(19))
    with pytest.raises(ContextLengthError, match=r"prompt has 20 tokens.* holds 20"):
        engine.add("a", range(20))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([1, len(VOCAB)], f"token id {len(VOCAB)}; this model's are 0 to {len(VOCAB) - 1}"),
        ([1, -1], "token id -1"),
        ([1, 1.5], "1.5; token ids must be integers"),
        ([True, 1], "True"),
        (["a"], "'a'"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt, message):
    with pytest.raises(InvalidRequestError, match=message):
        Engine().add("a", prompt)


def test_a_sampler_that_cannot_be_made_fails_its_request_only():
    engine = Engine(answers("hi"))
    engine.runner.refuse = lambda s: GrammarError("bad", param="grammar") if s.grammar else None
    engine.add("a", [5], grammar="oops")
    engine.add("b", [1, 2, 3])
    engine.run()
    assert engine.of("a") == [RequestFailed("a", "GrammarError", "bad", "grammar")]
    assert engine.text("b") == "hi"


def test_a_sampler_that_fails_unexpectedly_fails_its_request_only(caplog):
    engine = Engine(answers("hi"))
    engine.runner.refuse = lambda s: RuntimeError("boo") if s.grammar else None
    engine.add("a", [5], grammar="oops")
    engine.add("b", [1, 2, 3])
    engine.run()
    assert engine.of("a")[0].error == "SlipstreamError"
    assert "sampler of request a" in caplog.text
    assert engine.text("b") == "hi"


# Abort


def test_an_aborted_running_request_frees_its_sequence_at_once():
    engine = Engine(endless, max_num_seqs=1)
    engine.add("a", [1, 2])
    engine.add("b", [3], max_tokens=1)
    engine.step()
    engine.abort("a")
    assert engine.of("a")[-1].finish_reason is FinishReason.ABORT
    assert engine.of("a")[-1].usage.num_output_tokens == 1
    assert engine.scheduler.num_running == 0
    assert engine.runner.samplers == {}
    assert engine.step() == {0: 1}


def test_an_aborted_waiting_request_never_runs():
    engine = Engine(endless, max_num_seqs=1)
    engine.add("a", [1], max_tokens=3)
    engine.add("b", [2])
    engine.step()
    engine.abort("b")
    engine.run()
    assert [event.finish_reason for event in engine.of("b")] == [FinishReason.ABORT]
    assert engine.runner.num_opened == 1


def test_an_abort_of_no_request_does_nothing():
    engine = Engine()
    engine.abort("nobody")
    assert engine.events == []


# Prefixes


def test_the_next_turn_computes_only_what_is_new():
    engine = Engine(scripted((range(10), [97, 98]), ([*range(10), 97, 98, 5], [99])))
    engine.add("a", range(10))
    engine.run()
    engine.add("b", [*range(10), 97, 98, 5])
    assert engine.step() == {0: 1}
    engine.run()
    usage = engine.of("b")[-1].usage
    assert (usage.num_prompt_tokens, usage.num_cached_tokens) == (13, 12)
    assert engine.text("b") == "c"


def test_a_repeated_prompt_computes_one_token_and_gives_the_same_output():
    engine = Engine()
    engine.add("a", range(30), max_tokens=20)
    engine.run()
    engine.add("b", range(30), max_tokens=20)
    assert engine.step() == {0: 1}
    engine.run()
    assert engine.token_ids("b") == engine.token_ids("a")
    assert engine.of("b")[-1].usage.num_cached_tokens == 29


def test_memory_that_cannot_be_trimmed_still_gives_the_same_output():
    engine = Engine(can_trim=False)
    for name in "ab":
        engine.add(name, range(30), max_tokens=20)
        engine.run()
    assert engine.token_ids("b") == engine.token_ids("a")
    assert engine.of("b")[-1].usage.num_cached_tokens == 0


def test_cached_prefixes_give_way_to_new_requests():
    engine = Engine(endless, num_kv_cells=64)
    for i in range(6):
        engine.add(f"r{i}", [i] * 30, max_tokens=10)
        engine.run()
    assert engine.scheduler.num_preemptions == 0
    assert engine.runner.used_cells() <= 64


# Too few cells


def test_the_newest_request_gives_way_and_ends_with_the_same_output():
    engine = Engine(num_kv_cells=64, max_sequence_length=60)
    alone = Engine(num_kv_cells=64, max_sequence_length=60)
    prompts = {name: [ord(name)] * 14 for name in "abc"}
    for name, prompt in prompts.items():
        engine.add(name, prompt, ignore_eos=True, max_tokens=30)
    engine.run()
    assert engine.scheduler.num_preemptions > 0
    assert [event.request_id for event in engine.events if is_terminal(event)] == ["a", "b", "c"]
    for name, prompt in prompts.items():
        alone.add(name, prompt, ignore_eos=True, max_tokens=30)
        alone.run()
        assert engine.token_ids(name) == alone.token_ids(name)
        assert engine.text(name) == alone.text(name)
    assert engine.runner.num_opened == 3, "a preempted request keeps its sampler"


def test_a_preempted_request_can_be_aborted():
    engine = Engine(endless, num_kv_cells=40)
    engine.add("a", [1] * 12)
    engine.add("b", [2] * 12)
    while not engine.scheduler.num_preemptions:
        engine.step()
    assert engine.scheduler.num_waiting == 1
    engine.abort("b")
    assert engine.of("b")[-1].finish_reason is FinishReason.ABORT
    engine.run()
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH


def test_nothing_is_admitted_after_a_preemption_until_a_request_ends():
    engine = Engine(endless, num_kv_cells=40)
    engine.add("a", [1] * 12)
    engine.add("b", [2] * 12)
    engine.add("c", [3])
    while "a" not in [event.request_id for event in engine.events if is_terminal(event)]:
        engine.step()
    assert engine.scheduler.num_preemptions <= 2


def test_a_prompt_waits_until_its_cells_can_be_had():
    engine = Engine(endless, num_kv_cells=40)
    engine.add("a", [1] * 20, max_tokens=4)
    engine.add("b", [2] * 30, max_tokens=1)
    engine.step()
    assert engine.scheduler.num_waiting == 1
    engine.run()
    assert engine.scheduler.num_preemptions == 0


def test_cells_promised_to_a_prompt_under_way_are_not_given_away():
    engine = Engine(endless, num_kv_cells=64)
    engine.add("a", [1] * 40, max_tokens=4)
    engine.add("b", [2] * 30, max_tokens=1)
    assert [engine.step() for _ in range(3)] == [{0: 16}, {0: 16}, {0: 8}]
    engine.run()
    assert engine.scheduler.num_preemptions == 0


def test_a_surprising_lack_of_room_costs_cached_prefixes_first():
    engine = Engine(endless)
    engine.runner.num_real_cells = 50
    engine.add("a", [1] * 30, max_tokens=2)
    engine.run()
    engine.add("b", [2] * 30, max_tokens=2)
    engine.run()
    assert engine.scheduler.num_preemptions == 0
    assert len(engine.token_ids("b")) == 2


def test_a_surprising_lack_of_room_preempts_the_newest_and_all_end_well():
    engine = Engine(endless)
    engine.runner.num_real_cells = 50
    for name in "abc":
        engine.add(name, [ord(name)] * 15, max_tokens=12)
    engine.run()
    assert engine.scheduler.num_preemptions > 0
    assert [len(engine.token_ids(name)) for name in "abc"] == [12, 12, 12]


def test_the_last_request_that_finds_no_room_ends_with_what_it_has():
    engine = Engine(endless)
    engine.runner.num_real_cells = 20
    engine.add("a", [1] * 15)
    engine.add("b", [2] * 30)
    engine.add("c", [3] * 4, max_tokens=2)
    engine.run()
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH
    assert len(engine.token_ids("a")) == 6
    assert engine.of("b") == [RequestFailed("b", "NoKVSlotError", engine.of("b")[0].message)]
    assert len(engine.token_ids("c")) == 2


# Failed steps


def test_a_failed_step_costs_its_own_requests_only():
    engine = Engine(max_num_seqs=1)
    engine.add("a", [1, 2])
    engine.add("b", [3, 4], max_tokens=5, ignore_eos=True)
    engine.step()
    engine.runner.errors.append(ComputeError("backend failed"))
    engine.run()
    assert engine.of("a")[-1] == RequestFailed("a", "ComputeError", "backend failed")
    assert len(engine.token_ids("b")) == 5


def test_a_sequence_of_a_failed_step_is_no_cached_prefix():
    engine = Engine()
    engine.runner.errors.append(ComputeError("backend failed"))
    engine.add("a", range(10))
    engine.run()
    assert engine.scheduler.kv_cache.idle_sequences() == {}
    engine.add("b", range(10), max_tokens=3)
    engine.run()
    assert isinstance(engine.of("b")[-1], OutputDelta)
    assert engine.of("b")[-1].usage.num_cached_tokens == 0


def test_everything_can_be_failed_and_started_afresh():
    engine = Engine(endless, max_num_seqs=2)
    for name in "abc":
        engine.add(name, [ord(name)])
    engine.step()
    engine.scheduler.fail_all(RuntimeError("boo"))
    engine.take()
    assert [engine.of(name)[-1].message for name in "abc"] == ["RuntimeError: boo"] * 3
    assert engine.runner.used_cells() == 0
    assert engine.runner.samplers == {}
    engine.add("d", [1], max_tokens=2)
    engine.run()
    assert len(engine.token_ids("d")) == 2


def costs_of(seconds_per_token):
    costs = CostModel(64)
    for num_tokens in (1, 2, 4, 8, 16, 32, 64):
        costs.record(num_tokens, num_tokens * seconds_per_token)
    return costs


def prefill_chunks(cost_model, step_target_s):
    """Sizes of the pieces of a 150-token prompt that arrives while another request decodes."""
    info = RunnerInfo(400, 4, 64, 300, True, len(VOCAB))
    scheduler = Scheduler(FakeRunner(info), cost_model=cost_model, step_target_s=step_target_s)
    chunks = []
    for request_id, length in (("decodes", 3), ("long", 150)):
        sampling = SamplingParams(max_tokens=40, ignore_eos=True)
        request = Request(request_id, [i % 90 for i in range(length)], sampling, 0.0)
        check_request(request, info)
        scheduler.add(request, 0.0)
        while request.num_computed_tokens < length:
            output = scheduler.schedule(1.0)
            result = scheduler._runner.step(output.scheduled)
            chunks += [
                len(sequence.token_ids)
                for owner, sequence in zip(output.requests, output.scheduled, strict=True)
                if owner is request
            ]
            scheduler.update_from_output(output, result, 1.0)
    return chunks[1:]


def test_prompts_are_cut_to_the_step_target_while_others_decode():
    assert prefill_chunks(costs_of(0.01), 0.125) == [49, 49, 49, 3]
    assert prefill_chunks(costs_of(0.01), 10.0) == [63, 63, 24]
    assert prefill_chunks(costs_of(0.01), None) == [63, 63, 24]
    assert prefill_chunks(None, 0.5) == [63, 63, 24]


def test_a_step_target_that_cannot_be_met_still_lets_prompts_go_on():
    assert prefill_chunks(costs_of(1.0), 0.5) == [32, 32, 32, 32, 22]


def test_a_prompt_alone_takes_the_largest_pieces():
    info = RunnerInfo(400, 4, 64, 300, True, len(VOCAB))
    scheduler = Scheduler(FakeRunner(info), cost_model=costs_of(0.01), step_target_s=0.1)
    request = Request("long", [1] * 150, SamplingParams(max_tokens=1), 0.0)
    check_request(request, info)
    scheduler.add(request, 0.0)
    assert scheduler.schedule(1.0).num_tokens == 64


def rolled_by_hand(prompt, num_tokens, limit, num_head):
    """What hashed() says when the older half of what follows the head goes each time the context is full."""
    cells, output = list(prompt), []
    while len(output) < num_tokens:
        output.append(hashed(cells, 0))
        cells.append(output[-1])
        if len(cells) >= limit:
            head = min(num_head, limit // 2)
            cells = cells[:head] + cells[head + (limit - head + 1) // 2 :]
    return output


@pytest.mark.parametrize("can_trim", [True, False])
@pytest.mark.parametrize(("policy", "num_head"), [("rolling_window", 4), ("truncate_middle", 10)])
def test_an_answer_rolls_on_when_the_context_is_full(policy, num_head, can_trim):
    engine = Engine(max_sequence_length=32, can_trim=can_trim)
    engine.runner.may_roll = True
    prompt = list(range(1, 11))
    request = engine.add("a", prompt, context_overflow=policy, max_tokens=100, ignore_eos=True)
    other = engine.add("b", prompt, max_tokens=15, ignore_eos=True)
    said = []
    while engine.scheduler.has_requests:
        engine.step()
        engine.scheduler.check_integrity()
    for event in engine.of("a"):
        said += event.token_ids
    assert said == rolled_by_hand(prompt, 100, 32, num_head)
    assert engine.of("a")[-1].finish_reason is FinishReason.LENGTH
    assert engine.of("a")[-1].usage.num_output_tokens == request.num_output_tokens == 100
    assert other.num_output_tokens == 15


def test_a_rolling_answer_without_a_length_ends_after_a_context_full_of_tokens():
    engine = Engine(max_sequence_length=32)
    engine.runner.may_roll = True
    engine.add("a", [1, 2, 3], context_overflow="rolling_window", ignore_eos=True)
    while engine.scheduler.has_requests:
        engine.step()
    assert engine.of("a")[-1].usage.num_output_tokens == 32


def test_by_error_an_answer_ends_where_the_context_does():
    engine = Engine(max_sequence_length=32)
    engine.add("a", [1, 2, 3], max_tokens=100, ignore_eos=True)
    while engine.scheduler.has_requests:
        engine.step()
    assert engine.of("a")[-1].usage.num_output_tokens == 29
