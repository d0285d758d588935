"""The step thread: submit and abort from other threads, faults, close."""

import threading
from collections import Counter

import pytest

from slipstream.base.errors import (
    ClosedError,
    ComputeError,
    ContextLengthError,
    DecodeAborted,
    EngineDiedError,
    InvalidRequestError,
    ModelUnloadedError,
    QueueFullError,
)
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, RequestFailed
from slipstream.engine.core import EngineCore
from slipstream.engine.request import Request
from slipstream.engine.runner import ScheduledSequence
from tests.support.fake_runner import FakeRunner, scripted, text_tokens

TIMEOUT_S = 20


class Sink:
    """Collects events and lets a test wait for them."""

    def __init__(self):
        self.events = []
        self.threads = set()
        self.changed = threading.Condition()

    def __call__(self, events):
        with self.changed:
            self.threads.add(threading.current_thread())
            self.events += events
            self.changed.notify_all()

    def of(self, request_id):
        with self.changed:
            return [event for event in self.events if event.request_id == request_id]

    def wait(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S), self.events

    def end_of(self, request_id):
        self.wait(lambda: any(map(is_terminal, self.of(request_id))))
        return self.of(request_id)[-1]

    def text(self, request_id):
        return "".join(event.text for event in self.of(request_id))


def is_terminal(event):
    return isinstance(event, RequestFailed) or event.finish_reason is not None


def endless(cells, num_prompt_tokens):
    return 97 + len(cells) % 26


@pytest.fixture
def make_core():
    cores = []

    def make(runner=None, *, start=True, max_waiting=8, **options):
        sink = options.pop("sink", Sink())
        core = EngineCore(runner or FakeRunner(), max_waiting=max_waiting, sink=sink, **options)
        cores.append((core, runner))
        if start:
            core.start()
        return core, sink

    yield make
    for core, runner in cores:
        if runner is not None and runner.gate is not None:
            runner.gate.release(1000)
        core.close()


def request(request_id, prompt=(1, 2, 3), **sampling):
    return Request(request_id, list(prompt), SamplingParams(**sampling))


def test_a_request_runs_to_its_end(make_core):
    core, sink = make_core(FakeRunner(next_token=scripted(([1, 2, 3], text_tokens("hello")))))
    core.submit(request("a"))
    assert sink.end_of("a").finish_reason is FinishReason.STOP
    assert sink.text("a") == "hello"


def test_events_come_from_one_thread_that_is_not_the_callers(make_core):
    core, sink = make_core()
    for i in range(5):
        core.submit(request(f"r{i}", max_tokens=5))
    for i in range(5):
        sink.end_of(f"r{i}")
    assert len(sink.threads) == 1
    assert threading.current_thread() not in sink.threads


def test_the_events_of_a_step_come_together(make_core):
    calls = []
    sink = Sink()

    def count(events):
        calls.append(len(events))
        sink(events)

    core, _ = make_core(FakeRunner(next_token=endless), start=False, sink=count)
    for i in range(3):
        core.submit(request(f"r{i}", max_tokens=2))
    core.start()
    for i in range(3):
        sink.end_of(f"r{i}")
    assert calls == [3, 3]


def test_a_seed_is_drawn_only_where_none_is_given(make_core):
    core, _ = make_core(start=False)
    drawn, given, another = request("a"), request("b", seed=0), request("c")
    for each in (drawn, given, another):
        core.submit(each)
    assert given.sampling.seed == 0
    assert drawn.sampling.seed is not None
    assert drawn.sampling.seed != another.sampling.seed


def test_too_many_waiting_requests_are_refused_and_later_ones_accepted(make_core):
    core, sink = make_core(start=False, max_waiting=2)
    for i in range(6):  # four run, two wait
        core.submit(request(f"r{i}", max_tokens=2))
    with pytest.raises(QueueFullError, match="6 requests run or wait, and no more than 2 may wait"):
        core.submit(request("r6"))
    assert sink.of("r6") == []
    core.start()
    sink.end_of("r5")
    core.submit(request("r6", max_tokens=2))
    sink.end_of("r6")


def test_what_cannot_be_served_is_refused_by_submit(make_core):
    core, sink = make_core()
    with pytest.raises(ContextLengthError):
        core.submit(request("a", range(200)))
    with pytest.raises(InvalidRequestError, match="empty"):
        core.submit(request("a", []))
    assert sink.events == []
    core.submit(request("a", max_tokens=1))
    sink.end_of("a")


def test_the_id_of_an_unfinished_request_cannot_be_used_again_until_it_ends(make_core):
    core, sink = make_core(start=False)
    core.submit(request("a", max_tokens=2))
    with pytest.raises(InvalidRequestError, match="'a' is under way"):
        core.submit(request("a"))
    core.start()
    sink.end_of("a")
    core.submit(request("a", max_tokens=2))
    sink.wait(lambda: Counter(map(is_terminal, sink.events))[True] == 2)


def test_an_id_is_free_when_its_end_is_seen(make_core):
    errors = []

    def submit_again(events):
        for event in events:
            if is_terminal(event) and event.request_id != "done":
                try:
                    core.submit(request(event.request_id, max_tokens=0))
                except Exception as error:
                    errors.append(error)
                again.set()

    again = threading.Event()
    core, _ = make_core(sink=submit_again)
    core.submit(request("a", max_tokens=0))
    assert again.wait(TIMEOUT_S)
    core.close()
    assert not [error for error in errors if not isinstance(error, ClosedError)]


def test_an_abort_during_a_step_takes_effect_before_the_next(make_core):
    runner = FakeRunner(next_token=endless, gate=threading.Semaphore(0))
    core, sink = make_core(runner)
    core.submit(request("a"))
    assert runner.in_step.wait(TIMEOUT_S)
    core.abort("a")
    core.abort("a")
    runner.gate.release()
    assert sink.end_of("a").finish_reason is FinishReason.ABORT
    core.submit(request("b", [7], max_tokens=1))
    runner.gate.release()
    sink.end_of("b")
    assert len(runner.steps) == 2
    assert sum(map(is_terminal, sink.of("a"))) == 1


def test_an_abort_before_the_first_step_is_heeded(make_core):
    runner = FakeRunner()
    core, sink = make_core(runner, start=False)
    core.submit(request("a"))
    core.abort("a")
    core.start()
    assert sink.end_of("a").finish_reason is FinishReason.ABORT
    assert runner.steps == []


def test_an_abort_of_an_unknown_request_does_nothing(make_core):
    core, sink = make_core()
    core.abort("nobody")
    core.submit(request("a", max_tokens=1))
    sink.end_of("a")


@pytest.mark.parametrize("error", [ComputeError("backend failed"), DecodeAborted("interrupted")])
def test_a_failed_step_ends_its_requests_and_the_engine_goes_on(make_core, error, caplog):
    core, sink = make_core(FakeRunner())
    core._runner.errors.append(error)
    core.submit(request("a"))
    assert sink.end_of("a") == RequestFailed("a", type(error).__name__, error.message)
    core.submit(request("b", max_tokens=3, ignore_eos=True))
    assert sink.end_of("b").finish_reason is FinishReason.LENGTH
    assert core.stats().failed_steps_total == 1
    assert "a step failed" in caplog.text


def test_an_unforeseen_error_fails_every_request_and_the_engine_goes_on(make_core, caplog):
    runner = FakeRunner()
    runner.errors.append(RuntimeError("boo"))
    core, sink = make_core(runner, start=False)
    for i in range(6):
        core.submit(request(f"r{i}"))
    core.start()
    for i in range(6):
        assert sink.end_of(f"r{i}") == RequestFailed(
            f"r{i}", "SlipstreamError", "RuntimeError: boo"
        )
    core.submit(request("b", max_tokens=3, ignore_eos=True))
    assert sink.end_of("b").finish_reason is FinishReason.LENGTH
    assert "unforeseen" in caplog.text


def test_an_engine_that_cannot_recover_reports_every_end_and_refuses_more(make_core, caplog):
    class Broken(FakeRunner):
        def step(self, scheduled):
            raise RuntimeError("boo")

        def trim(self, seq_id, num_tokens):
            raise RuntimeError("gone")

    core, sink = make_core(Broken(), start=False)
    for i in range(6):
        core.submit(request(f"r{i}"))
    core.start()
    for i in range(6):
        assert sink.end_of(f"r{i}").error == "EngineDiedError"
    assert Counter(event.request_id for event in sink.events).most_common(1)[0][1] == 1
    with pytest.raises(EngineDiedError, match="gone"):
        core.submit(request("b"))
    assert "cannot go on" in caplog.text


def test_a_sink_that_fails_does_not_stop_the_engine(make_core, caplog):
    sink = Sink()
    failed = threading.Event()

    def flaky(events):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("boo")
        sink(events)

    core, _ = make_core(sink=flaky)
    core.submit(request("a", max_tokens=1))
    assert failed.wait(TIMEOUT_S)
    core.submit(request("b", max_tokens=2))
    sink.end_of("b")
    assert "the sink failed; 1 events are lost" in caplog.text


def test_close_ends_what_is_under_way_once_and_closes_the_runner(make_core):
    runner = FakeRunner(next_token=endless, gate=threading.Semaphore(0))
    core, sink = make_core(runner)
    for i in range(6):
        core.submit(request(f"r{i}"))
    assert runner.in_step.wait(TIMEOUT_S)
    interrupted = threading.Event()

    def interrupt():
        interrupted.set()
        runner.errors.append(DecodeAborted("interrupted"))
        runner.gate.release()

    runner.interrupt = interrupt
    core.close()
    assert interrupted.is_set()
    assert runner.is_closed
    assert not core._thread.is_alive()
    assert sorted(event.request_id for event in sink.events) == [f"r{i}" for i in range(6)]
    assert {event.error for event in sink.events} == {"ModelUnloadedError"}
    core.close()
    with pytest.raises(ClosedError):
        core.submit(request("b"))


def test_close_before_start_ends_what_was_submitted(make_core):
    runner = FakeRunner()
    core, sink = make_core(runner, start=False)
    core.submit(request("a"))
    core.close()
    assert sink.end_of("a").error == "ModelUnloadedError"
    assert runner.is_closed


def test_close_does_not_wait_for_ever_and_nothing_follows_the_end(make_core, caplog):
    runner = FakeRunner(next_token=endless, gate=threading.Semaphore(0))
    core, sink = make_core(runner)
    core.submit(request("a"))
    assert runner.in_step.wait(TIMEOUT_S)
    core.close(timeout_s=0.05)
    assert sink.end_of("a").error == "ModelUnloadedError"
    assert "left behind" in caplog.text
    runner.gate.release()
    core._thread.join(TIMEOUT_S)
    assert len(sink.events) == 1
    assert runner.is_closed


def test_the_sink_may_close_the_engine(make_core):
    closed = threading.Event()

    def close(events):
        core.close()
        closed.set()

    core, _ = make_core(sink=close)
    core.submit(request("a"))
    assert closed.wait(TIMEOUT_S)
    core._thread.join(TIMEOUT_S)
    assert core._runner.is_closed


def test_stats_show_what_has_happened(make_core):
    core, sink = make_core(FakeRunner(next_token=endless))
    core.submit(request("a", range(20), max_tokens=4))
    sink.end_of("a")
    core.submit(request("b", range(20), max_tokens=4))
    sink.end_of("b")
    core.close()
    stats = core.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_live_cells) == (0, 0, 0)
    assert (stats.num_kv_cells, stats.num_cached_cells) == (256, 23)
    assert (stats.prompt_tokens_total, stats.cached_prompt_tokens_total) == (40, 19)
    assert (stats.computed_tokens_total, stats.output_tokens_total) == (20 + 3 + 1 + 3, 8)
    assert (stats.num_steps_total, stats.preemptions_total, stats.failed_steps_total) == (9, 0, 0)
    assert stats.last_step_tokens == 1
    assert stats.step_s_total > 0
    assert stats.schedule_s_total > 0
    assert [num_tokens for num_tokens, _ in stats.step_cost_curve] == [1, 4, 16]


def test_stats_count_requests_that_wait(make_core):
    core, _ = make_core(start=False)
    for i in range(5):
        core.submit(request(f"r{i}"))
    assert core.stats().num_waiting == 5


def test_many_threads_submit_and_abort_and_every_request_ends_once(make_core):
    core, sink = make_core(max_waiting=1000)
    num_threads, num_each = 4, 40
    barrier = threading.Barrier(num_threads)

    def client(index):
        barrier.wait(TIMEOUT_S)
        for i in range(num_each):
            name = f"{index}-{i}"
            core.submit(request(name, [index, i % 7, 3], max_tokens=6))
            if i % 3 == 0:
                core.abort(name)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    sink.wait(lambda: sum(map(is_terminal, sink.events)) == num_threads * num_each)
    core.close()
    ends = Counter(event.request_id for event in sink.events if is_terminal(event))
    assert set(ends.values()) == {1}
    assert len(ends) == num_threads * num_each
    assert all(not isinstance(event, RequestFailed) for event in sink.events)


def test_what_steps_cost_is_kept_when_the_engine_is_closed(make_core):
    kept = []
    core, sink = make_core(
        FakeRunner(next_token=endless), step_costs=[(1, 50.0), (2, 90.0)], keep_costs=kept.append
    )
    core.submit(request("a", max_tokens=20))
    sink.end_of("a")
    assert kept == []
    core.close()
    [costs] = kept
    assert [n for n, _ in costs] == [1, 2]
    assert costs[0][1] < 25  # no step of the fake took a second


def test_an_engine_without_a_step_or_that_cannot_keep_its_costs_closes_all_the_same(make_core):
    kept = []
    core, _ = make_core(FakeRunner(), step_costs=[(1, 50.0)], keep_costs=kept.append)
    core.close()
    assert kept == []

    def refuse(_costs):
        raise RuntimeError("made up")

    runner = FakeRunner(next_token=endless)
    core, sink = make_core(runner, keep_costs=refuse)
    core.submit(request("a", max_tokens=20))
    sink.end_of("a")
    core.close()
    assert runner.is_closed


def test_a_runner_is_lent_empty_and_comes_back_empty(make_core):
    runner = FakeRunner()
    core, sink = make_core(runner)
    core.submit(request("before", max_tokens=2))
    sink.end_of("before")
    seen = []

    def use(lent):
        seen.append((lent is runner, threading.current_thread() is core._thread, lent.used_cells()))
        lent.open_sequence(0, SamplingParams(), [1, 2])
        lent.step([ScheduledSequence(0, 0, [1, 2], True)])
        lent.close_sequence(0)

    core.lend(use)
    assert seen == [(True, True, 0)]
    assert core.stats().num_cached_cells == 0
    core.submit(request("after", max_tokens=2))
    assert sink.end_of("after").usage.num_cached_tokens == 0
    core._scheduler.check_integrity()


def test_what_a_borrower_raises_is_told_to_it_and_the_engine_goes_on(make_core):
    core, sink = make_core(FakeRunner(next_token=endless))

    def use(lent):
        lent.open_sequence(0, SamplingParams(), [1])
        lent.step([ScheduledSequence(0, 0, [1], True)])
        lent.close_sequence(0)
        raise ComputeError("NaN")

    with pytest.raises(ComputeError, match="NaN"):
        core.lend(use)
    core.submit(request("after", max_tokens=2))
    assert sink.end_of("after").finish_reason is FinishReason.LENGTH


def test_a_runner_that_is_needed_or_closed_is_not_lent(make_core):
    runner = FakeRunner(gate=threading.Semaphore(0))
    core, sink = make_core(runner)
    core.submit(request("r", max_tokens=2))
    with pytest.raises(InvalidRequestError, match="1 requests are under way"):
        core.lend(lambda _runner: None)
    runner.gate.release(1000)
    sink.end_of("r")
    core.close()
    with pytest.raises(ModelUnloadedError):
        core.lend(lambda _runner: None)


def test_a_loan_that_has_not_begun_ends_with_the_engine(make_core):
    core, _sink = make_core(start=False)
    errors = []

    def borrow():
        try:
            core.lend(lambda _runner: None)
        except ModelUnloadedError as error:
            errors.append(error)

    borrower = threading.Thread(target=borrow)
    borrower.start()
    while not core._inbox:
        borrower.join(0.001)
    core.close()
    borrower.join(TIMEOUT_S)
    assert len(errors) == 1
