"""Seeded random traffic on a small KV cache: whatever happens around a request, its output is what it gives alone."""

import os
import random
import threading
from collections import Counter
from dataclasses import replace

import msgspec
import pytest

from slipstream.base.errors import (
    ComputeError,
    EngineDiedError,
    GrammarError,
    NoKVSlotError,
    StateError,
)
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, RequestFailed
from slipstream.engine.core import EngineCore
from slipstream.engine.cost_model import CostModel
from slipstream.engine.prefix_files import PrefixFiles
from slipstream.engine.prefix_store import PrefixStore
from slipstream.engine.request import Request, check_request
from slipstream.engine.runner import RunnerInfo
from slipstream.engine.scheduler import Scheduler
from tests.support.fake_runner import VOCAB, FakeRunner

NUM_REQUESTS = 150
STOPS = ["stop", "STOP", "ab", "abab", "aba", "日本", "g", "\ufffd", "he", "cc"]


def is_terminal(event):
    return isinstance(event, RequestFailed) or event.finish_reason is not None


def random_info(rng):
    can_trim = rng.random() < 0.7
    return RunnerInfo(
        num_kv_cells=rng.randint(40, 120),
        max_num_seqs=rng.randint(1, 6),
        max_batch_tokens=rng.choice([1, 3, 8, 32]),
        max_sequence_length=rng.randint(30, 80),
        can_trim=can_trim,
        num_vocab=len(VOCAB),
        can_share=can_trim and rng.random() < 0.7,
        max_drafts=rng.choice([0, 4, 16]) if can_trim else 0,
        has_ngrams=rng.random() < 0.7,
        has_draft_model=rng.random() < 0.5,
        is_draft_sampled=rng.random() < 0.3,
        draft_cost_ratio=0.01,
    )


def replace_max_tokens(sampling, max_tokens):
    return msgspec.structs.replace(sampling, max_tokens=max_tokens)


def free_rows():
    """A cost curve on which every draft pays."""
    costs = CostModel(64)
    costs.record(1, 1.0)
    costs.record(64, 1.0)
    return costs


def random_request(rng, index, limit):
    """Prompts share beginnings; parameters are of every kind that changes the end of an output."""
    family = random.Random(rng.randrange(4))
    shared = [family.randrange(100) for _ in range(limit)][: rng.randrange(limit)]
    prompt = (shared + [rng.randrange(100) for _ in range(rng.randint(1, 6))])[: limit - 1]
    sampling = SamplingParams(
        max_tokens=rng.choice([None, 0, 1, 5, 20, 40]),
        stop=tuple(rng.sample(STOPS, rng.choice([0, 0, 1, 3]))),
        stop_token_ids=(rng.randrange(97, 105),) if rng.random() < 0.2 else (),
        ignore_eos=rng.random() < 0.3,
        logprobs=1 if rng.random() < 0.3 else None,
        seed=index,
    )
    return f"r{index}", prompt, sampling


class Run:
    """A scheduler on a fake runner with every check after every operation."""

    def __init__(self, info, max_num_running=None, store=None, overflow="error"):
        self.runner = FakeRunner(info, may_roll=overflow != "error")
        self.overflow = overflow
        num_running = max_num_running or info.max_num_seqs
        self.scheduler = Scheduler(
            self.runner, max_num_running=num_running, cost_model=free_rows(), store=store
        )
        self.requests = {}
        self.events = []
        self.now_s = 1.0
        self.meddle = lambda output: None  # called with every step before it is computed

    def add(self, request_id, prompt, sampling):
        request = Request(request_id, prompt, sampling, self.now_s, context_overflow=self.overflow)
        check_request(request, self.runner.info)
        self.requests[request_id] = request
        self.scheduler.add(request, self.now_s)
        self.check()

    def step(self):
        self.now_s += 1
        output = self.scheduler.schedule(self.now_s)
        self.check()
        while output.scheduled:
            self.meddle(output)
            try:
                result = self.runner.step(output.scheduled)
            except NoKVSlotError as error:
                self.scheduler.relieve(error, self.now_s)
                self.check()
                output = self.scheduler.schedule(self.now_s)
                continue
            except ComputeError as error:
                self.scheduler.fail_step(output, error)
            else:
                self.scheduler.update_from_output(output, result, self.now_s)
            break
        self.check()
        return output

    def check(self):
        self.events += self.scheduler.take_events()[0]
        self.scheduler.check_integrity()
        cells = {seq_id: cells for seq_id, cells in self.runner.cells.items() if cells}
        expected = self.scheduler.kv_cache.idle_sequences()
        for request in self.requests.values():
            if request.num_computed_tokens and request.request_id in self.scheduler._requests:
                expected[request.seq_id] = request.token_ids[: request.num_computed_tokens]
        assert cells == expected, "the accounts are not what lies in the cells"
        kv_cache = self.scheduler.kv_cache
        num_used = kv_cache.num_live_cells + kv_cache.num_idle_cells
        assert num_used == self.runner.used_cells() <= self.runner.info.num_kv_cells

    def outcome(self, request_id):
        events = [event for event in self.events if event.request_id == request_id]
        assert [is_terminal(event) for event in events] == [False] * (len(events) - 1) + [True]
        deltas = [event for event in events if not isinstance(event, RequestFailed)]
        text = "".join(delta.text for delta in deltas)
        token_ids = [token for delta in deltas for token in delta.token_ids]
        if not self.requests[request_id].num_dropped_tokens:
            assert token_ids == self.requests[request_id].output_token_ids
        wants_logprobs = self.requests[request_id].sampling.logprobs is not None
        for delta in deltas:
            entries = None if delta.logprobs is None else [e.token_id for e in delta.logprobs]
            assert entries == (delta.token_ids if wants_logprobs and delta.token_ids else None)
        usage = getattr(events[-1], "usage", None)
        if usage is not None:
            judged = (
                usage.num_accepted_tokens,
                usage.num_rejected_tokens,
                usage.num_ignored_tokens,
            )
            assert sum(judged) == usage.num_drafted_tokens
        return text, token_ids, events[-1]


def alone(info, arguments, overflow):
    """What a request gives without company and without drafts."""
    run = Run(replace(info, max_drafts=0), overflow=overflow)
    run.add(*arguments)
    while run.scheduler.has_requests:
        run.step()
    return run.outcome(arguments[0])


def small_store(info, folder=None, max_bytes=1200):
    """Second tiers in which everything is worth keeping, and which are soon full."""
    files = PrefixFiles(folder, 2000) if folder else None
    return PrefixStore(
        max_bytes, files, can_trim=info.can_trim, recompute_s=lambda n: 1e3 * n, least_tokens=3
    )


def play(
    rng,
    run,
    todo,
    *,
    abort=0.0,
    compute_error=0.0,
    no_slot=0.0,
    draft_error=0.0,
    state_error=0.0,
    row_error=0.0,
):
    """Feed the requests in bursts, with random faults, until all have ended; the ids of those meddled with."""
    touched = set()
    todo = list(reversed(todo))
    num_steps = 0

    def meddle(output):
        if rng.random() < compute_error:
            run.runner.errors.append(ComputeError("made up"))
            touched.update(request.request_id for request in output.requests)
        elif run.scheduler.num_running > 1 and rng.random() < no_slot:
            run.runner.errors.append(NoKVSlotError("made up"))
        if rng.random() < draft_error:
            run.runner.draft_errors.append(ComputeError("made up"))
        if rng.random() < state_error:
            run.runner.state_errors.append(StateError("made up"))

    def refuse_row():
        return GrammarError("made up") if rng.random() < row_error else None

    run.meddle = meddle
    run.runner.refuse_row = refuse_row
    while todo or run.scheduler.has_requests:
        num_steps += 1
        assert num_steps < 100_000, "no progress"
        while todo and rng.random() < 0.3:
            run.add(*todo.pop())
        under_way = list(run.scheduler._requests)
        if under_way and rng.random() < abort:
            request_id = rng.choice(under_way)
            run.scheduler.abort(request_id, run.now_s)
            run.check()
            touched.add(request_id)
        run.step()
    assert not run.runner.samplers
    return touched | {e.request_id for e in run.events if isinstance(e, RequestFailed)}


def check_outcomes(run, info, todo, touched):
    assert Counter(e.request_id for e in run.events if is_terminal(e)) == Counter(
        request_id for request_id, _, _ in todo
    )
    for arguments in todo:
        text, token_ids, end = run.outcome(arguments[0])
        text_alone, token_ids_alone, end_alone = alone(info, arguments, run.overflow)
        if arguments[0] in touched:
            assert token_ids == token_ids_alone[: len(token_ids)]
            # an abort releases what was held back, maybe the beginning of a stop string
            assert text_alone.startswith(text) or end.finish_reason is FinishReason.ABORT
            continue
        assert (text, token_ids) == (text_alone, token_ids_alone)
        assert end.finish_reason == end_alone.finish_reason
        assert end.stop_string == end_alone.stop_string


@pytest.mark.parametrize("seed", range(6))
def test_outputs_do_not_depend_on_the_company(seed):
    rng = random.Random(seed)
    info = random_info(rng)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    run = Run(info, rng.randint(1, info.max_num_seqs))
    touched = play(rng, run, todo)
    assert not touched
    check_outcomes(run, info, todo, touched)


@pytest.mark.parametrize("seed", range(6))
def test_aborts_and_faults_reach_nobody_else(seed):
    rng = random.Random(100 + seed)
    info = random_info(rng)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    run = Run(info, rng.randint(1, info.max_num_seqs))
    touched = play(rng, run, todo, abort=0.1, compute_error=0.02)
    check_outcomes(run, info, todo, touched)


@pytest.mark.parametrize("seed", range(4))
def test_prefixes_that_cannot_be_had_after_all_are_computed(seed):
    rng = random.Random(300 + seed)
    info = replace(random_info(rng), can_trim=True, can_share=True)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    run = Run(info)
    run.runner.has_forgotten = lambda: rng.random() < 0.5
    touched = play(rng, run, todo)
    check_outcomes(run, info, todo, touched)


@pytest.mark.parametrize("seed", range(4))
def test_a_runner_that_now_and_then_finds_no_room_changes_no_output(seed):
    rng = random.Random(200 + seed)
    info = random_info(rng)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    run = Run(info, rng.randint(1, info.max_num_seqs))
    touched = play(rng, run, todo, no_slot=0.1)
    assert not touched
    check_outcomes(run, info, todo, touched)


@pytest.mark.parametrize("with_files", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_second_tiers_and_faults_of_theirs_and_of_drafts_change_no_output(
    seed, with_files, tmp_path
):
    rng = random.Random(400 + seed)
    info = random_info(rng)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    store = small_store(info, tmp_path if with_files else None)
    run = Run(info, rng.randint(1, info.max_num_seqs), store)
    touched = play(
        rng,
        run,
        todo,
        abort=0.05,
        no_slot=0.05,
        compute_error=0.01,
        draft_error=0.02,
        state_error=0.02,
        row_error=0.01,
    )
    while store.write_one() or run.scheduler.kv_cache.store_idle():
        run.check()
    store.close(5)
    check_outcomes(run, info, todo, touched)


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_cannot_be_sampled_end_their_request_only(seed):
    rng = random.Random(500 + seed)
    info = replace(random_info(rng), max_drafts=16, can_trim=True, has_ngrams=True)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    run = Run(info, rng.randint(1, info.max_num_seqs))
    touched = play(rng, run, todo, row_error=0.03, no_slot=0.05, abort=0.02)
    failed = [event for event in run.events if isinstance(event, RequestFailed)]
    assert failed
    assert {event.error for event in failed} == {"GrammarError"}
    check_outcomes(run, info, todo, touched)


@pytest.mark.parametrize("overflow", ["truncate_middle", "rolling_window"])
@pytest.mark.parametrize("seed", range(3))
def test_contexts_that_roll_give_what_they_give_alone(seed, overflow):
    rng = random.Random(600 + seed)
    info = random_info(rng)
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [
        (name, prompt, replace_max_tokens(sampling, rng.choice([5, 40, 150])))
        for name, prompt, sampling in (
            random_request(rng, index, limit) for index in range(NUM_REQUESTS // 3)
        )
    ]
    run = Run(info, rng.randint(1, info.max_num_seqs), overflow=overflow)
    touched = play(rng, run, todo, no_slot=0.05, draft_error=0.02)
    assert not touched
    check_outcomes(run, info, todo, touched)
    assert any(request.num_dropped_tokens for request in run.requests.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_fails_now_and_then_changes_no_output(seed, tmp_path, monkeypatch):
    rng = random.Random(700 + seed)
    disk = random.Random(seed)  # the writing thread draws from it, too

    def faulty(function):
        def call(*args, **kwargs):
            if disk.random() < 0.2:
                raise OSError("made up")
            return function(*args, **kwargs)

        return call

    info = replace(random_info(rng), num_kv_cells=60, can_trim=True, can_share=True)
    store = small_store(info, tmp_path, 400)
    for name in ("open", "utime", "unlink", "replace"):
        monkeypatch.setattr(os, name, faulty(getattr(os, name)))
    limit = min(info.max_sequence_length, info.num_kv_cells)
    todo = [random_request(rng, index, limit) for index in range(NUM_REQUESTS)]
    run = Run(info, store=store)
    touched = play(rng, run, todo)
    assert not touched
    check_outcomes(run, info, todo, touched)
    monkeypatch.undo()
    store.close(5)


class Mortal(FakeRunner):
    """Its step number `last` fails for want of memory; where `is_deadly`, so does emptying the cells after that."""

    last = 0
    is_deadly = False
    is_dying = False

    def step(self, scheduled):
        if len(self.steps) == self.last and not self.is_dying:
            self.is_dying = True
            self._ruin(scheduled)
            raise MemoryError
        return super().step(scheduled)

    def trim(self, seq_id, num_tokens):
        if self.is_dying and self.is_deadly:
            raise RuntimeError("nothing works any more")
        return super().trim(seq_id, num_tokens)


@pytest.mark.parametrize("is_deadly", [False, True])
@pytest.mark.parametrize("last", range(12))
def test_an_engine_that_runs_out_of_memory_at_any_step_ends_every_request_once(last, is_deadly):
    rng = random.Random(last)
    info = RunnerInfo(60, 4, 8, 50, True, len(VOCAB), can_share=True, max_drafts=8)
    runner = Mortal(info)
    runner.last, runner.is_deadly = last, is_deadly
    ends, all_ended = Counter(), threading.Event()
    todo = [random_request(rng, index, 50) for index in range(20)]

    def sink(events):
        ends.update(event.request_id for event in events if is_terminal(event))
        if len(ends) == len(todo):
            all_ended.set()

    core = EngineCore(runner, max_waiting=len(todo), sink=sink, step_costs=[(1, 1.0), (8, 1.0)])
    for request_id, prompt, sampling in todo:
        core.submit(Request(request_id, prompt, sampling))
    for request_id in rng.sample([name for name, _, _ in todo], 3):  # their clients have gone
        core.abort(request_id)
    core.start()
    assert all_ended.wait(60)
    if is_deadly:
        core._thread.join(20)
        with pytest.raises(EngineDiedError):
            core.submit(Request("late", [1], SamplingParams()))
    else:
        again = threading.Event()
        core._sink = lambda events: again.set() if any(map(is_terminal, events)) else None
        core.submit(Request("late", [1], SamplingParams(max_tokens=3)))
        assert again.wait(60)
    core.close()
    assert runner.is_dying
    assert ends == Counter(name for name, _, _ in todo)


def test_the_runs_above_reach_both_tiers_and_swaps(tmp_path):
    rng = random.Random(7)
    info = RunnerInfo(60, 4, 8, 50, True, len(VOCAB), can_share=True)
    store = small_store(info, tmp_path, 600)
    run = Run(info, store=store)
    play(rng, run, [random_request(rng, index, 50) for index in range(NUM_REQUESTS)])
    assert run.scheduler.num_swaps > 0
    assert store.num_host_hits > 0
    assert store.num_file_hits > 0
    assert run.scheduler.kv_cache.num_restored_tokens > 0
    store.close(5)


def test_an_engine_that_dies_in_the_middle_ends_every_request_once():
    rng = random.Random(8)
    info = RunnerInfo(60, 4, 8, 50, True, len(VOCAB), can_share=True, max_drafts=4)
    run = Run(info, store=small_store(info))
    todo = [random_request(rng, index, 50) for index in range(40)]
    for arguments in todo:
        run.add(*arguments)
    for _ in range(15):
        run.step()
    run.scheduler.fail_all(ComputeError("the end"))
    run.check()
    assert not run.scheduler.has_requests
    assert Counter(e.request_id for e in run.events if is_terminal(e)) == Counter(
        request_id for request_id, _, _ in todo
    )


def test_nobody_starves_on_a_context_that_holds_six_of_two_hundred():
    rng = random.Random(9)
    info = RunnerInfo(6 * 40, 8, 32, 40, True, len(VOCAB), can_share=True)
    run = Run(info)
    for index in range(200):
        prompt = [rng.randrange(100) for _ in range(20)]
        run.add(f"r{index}", prompt, SamplingParams(max_tokens=19, ignore_eos=True))
    while run.scheduler.has_requests:
        run.step()
    waits = [r.first_step_s - r.arrival_s for r in run.requests.values()]
    assert max(waits) <= 3 * sum(waits) / len(waits)
    assert all(len(r.output_token_ids) == 19 for r in run.requests.values())


@pytest.mark.parametrize("can_share", [False, True])
def test_the_runs_above_reach_preemption_reuse_and_speculation(can_share):
    rng = random.Random(5)
    info = RunnerInfo(60, 4, 8, 50, True, len(VOCAB), can_share=can_share, max_drafts=8)
    run = Run(info)
    play(rng, run, [random_request(rng, index, 50) for index in range(NUM_REQUESTS)])
    assert run.scheduler.num_preemptions > 0
    assert 0 < run.scheduler.num_cached_tokens < run.scheduler.num_prompt_tokens
    assert (run.runner.num_copies > 0) == can_share
    counters = run.scheduler.speculator.counters
    assert 0 < counters.num_accepted < counters.num_drafted
