"""The step loop: one thread that owns the runner and serves submit and abort from any other thread."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import (
    ComputeError,
    DecodeAborted,
    EngineDiedError,
    InvalidRequestError,
    ModelUnloadedError,
    NoKVSlotError,
    QueueFullError,
)
from slipstream.engine.cost_model import CostModel
from slipstream.engine.request import check_request, failure
from slipstream.engine.scheduler import Scheduler
from slipstream.engine.spec_decode import SpeculationCounters
from slipstream.engine.stats import EngineStats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.base.types import Event
    from slipstream.engine.prefix_store import PrefixStore
    from slipstream.engine.request import Request
    from slipstream.engine.runner import ModelRunner
    from slipstream.engine.scheduler import SchedulerOutput

_log = logging.getLogger(__name__)
_INTERRUPT_EVERY_S = 0.05
_IDLE_S = 0.5  # without a request before cached prefixes are put into files
_STORE_S = 0.5  # of storing at the end, and of waiting for files


@dataclass(slots=True, eq=False, frozen=True)
class _Loan:
    """What somebody wants to do with the runner while no request needs it."""

    use: Callable[[ModelRunner], None]
    done: Future[None] = field(default_factory=Future)


class EngineCore:
    """Runs requests on a runner.

    ::

        any thread   submit, abort --> _inbox --.                     _accepted: ids without a terminal event
                                                v
        step thread  take commands -> schedule -> runner.step -> update -> sink(events) -> take commands ...

    Every accepted request gets exactly one terminal event: a delta with a `finish_reason`, or RequestFailed.
    `_accepted` decides that: whoever takes an id out of it, under the lock, reports the end.

    What can go wrong in a step, and who pays:

    =====================  ====================================================================
    NoKVSlotError          evict, preempt, plan again; in the end one request
    DecodeAborted          the requests of that step; their sequences are emptied
    ComputeError           likewise
    anything else          every request; the whole memory is emptied, the engine goes on
    ... and that fails     the engine: it closes, `submit` raises EngineDiedError
    =====================  ====================================================================

    Args:
        runner: Computes. From `start` on only the step thread touches it, and closes it at the end.
        max_waiting: Requests that may wait beyond those that can run at the same time.
        sink: Gets the events of each step, in the step thread. It must be quick; what it raises is logged, and the
            events of that call are lost.
        max_num_running: Most requests at the same time; None for as many as the runner has sequences. Fewer leave
            sequences over to cache prefixes in.
        step_costs: (tokens, seconds) of steps measured beforehand.
        keep_costs: Gets such costs for the next load when the engine ends in good order, if steps taught any.
        make_store: Makes the second tiers of the prefix cache from a function that tells what computing so many tokens
            takes; None for no such tiers.
        step_target_s: While some requests decode, about how long a step with pieces of prompts may take; None or 0 for
            as long as it takes.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        max_waiting: int,
        sink: Callable[[list[Event]], None],
        max_num_running: int | None = None,
        step_costs: Sequence[tuple[int, float]] = (),
        keep_costs: Callable[[list[tuple[int, float]]], None] | None = None,
        step_target_s: float | None = None,
        make_store: Callable[[Callable[[int], float | None]], PrefixStore] | None = None,
    ) -> None:
        self._runner = runner
        self._info = runner.info
        self._sink = sink
        self._cost_model = CostModel(runner.info.max_batch_tokens)
        self._cost_model.seed(step_costs)
        self._keep_costs = keep_costs
        self._store = make_store(self._prefill_s) if make_store else None
        self._is_stored = False  # nothing is cached that is not in files, too
        self._scheduler = Scheduler(
            runner,
            max_num_running=max_num_running,
            cost_model=self._cost_model,
            step_target_s=step_target_s,
            store=self._store,
        )
        self._max_accepted = self._scheduler.max_num_running + max_waiting
        self._max_waiting = max_waiting
        self._changed = threading.Condition()  # guards the five below
        # A request to start, the id of one to abort, or who borrows the runner.
        self._inbox: deque[Request | str | _Loan] = deque()
        self._accepted: dict[str, None] = {}
        self._is_closing = False
        self._is_abandoned = False  # everything has been reported; later events reach nobody
        self._died_of: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="slipstream-engine", daemon=True)
        self._num_steps = 0
        self._num_computed_tokens = 0
        self._num_failed_steps = 0
        self._step_s = 0.0
        self._schedule_s = 0.0
        self._last_step = (0, 0.0, 0)

    def start(self) -> None:
        """Start the step thread. Requests may be submitted before."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Accept a request; its events go to the sink. Any thread, does not block on a step.

        A seed is drawn here if the request has none.

        Raises:
            InvalidRequestError: an empty prompt, no token id, or the id of a request that is under way.
            ContextLengthError: the prompt does not fit the context.
            QueueFullError: too many requests wait.
            ModelUnloadedError: after `close`.
            EngineDiedError: the engine has stopped after an error.
        """
        check_request(request, self._info)
        if request.sampling.seed is None:
            request.sampling = msgspec.structs.replace(request.sampling, seed=secrets.randbits(64))
        with self._changed:
            if self._died_of is not None:
                message = f"the engine has stopped after {self._died_of!r}; load the model again"
                raise EngineDiedError(message)
            if self._is_closing:
                message = "the engine is closed; load the model again"
                raise ModelUnloadedError(message)
            if request.request_id in self._accepted:
                message = f"request id {request.request_id!r} is under way; choose another one"
                raise InvalidRequestError(message, param="request_id")
            if len(self._accepted) >= self._max_accepted:
                message = (
                    f"{len(self._accepted)} requests run or wait, and no more than {self._max_waiting} may wait; "
                    "try again later"
                )
                raise QueueFullError(message)
            self._accepted[request.request_id] = None
            self._inbox.append(request)
            self._changed.notify()

    def abort(self, request_id: str) -> None:
        """End a request with ABORT before the next step; nothing happens if it has ended. Any thread."""
        with self._changed:
            if request_id in self._accepted:
                self._inbox.append(request_id)
                self._changed.notify()

    def lend(self, use: Callable[[ModelRunner], None]) -> None:
        """Have the step thread call `use` with the runner, its memory empty, and wait for the end of that.

        For measurements between requests: those that come meanwhile wait, and cached prefixes are lost. Any thread but
        the step thread.

        Raises:
            InvalidRequestError: a request is under way.
            ModelUnloadedError: after `close`, or closed meanwhile.
            Exception: what `use` raises. The engine goes on.
        """
        loan = _Loan(use)
        with self._changed:
            if self._is_closing:
                message = "the engine is closed; load the model again"
                raise ModelUnloadedError(message)
            if self._accepted:
                message = f"{len(self._accepted)} requests are under way; wait for their ends"
                raise InvalidRequestError(message)
            self._inbox.append(loan)
            self._changed.notify()
        loan.done.result()

    def stats(self) -> EngineStats:
        """Return a snapshot of the figures. Any thread."""
        scheduler, store = self._scheduler, self._store
        kv_cache, speculator = scheduler.kv_cache, scheduler.speculator
        drafts = speculator.counters if speculator else SpeculationCounters()
        num_tokens, seconds, num_threads = self._last_step
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=max(0, len(self._accepted) - scheduler.num_running),
            num_kv_cells=self._info.num_kv_cells,
            num_live_cells=kv_cache.num_live_cells,
            num_cached_cells=kv_cache.num_idle_cells,
            num_stored_bytes=store.num_host_bytes if store else 0,
            num_file_bytes=store.num_file_bytes if store else 0,
            num_steps_total=self._num_steps,
            prompt_tokens_total=scheduler.num_prompt_tokens,
            cached_prompt_tokens_total=scheduler.num_cached_tokens,
            computed_tokens_total=self._num_computed_tokens,
            output_tokens_total=scheduler.num_output_tokens,
            drafted_tokens_total=drafts.num_drafted,
            accepted_tokens_total=drafts.num_accepted,
            rejected_tokens_total=drafts.num_rejected,
            ignored_tokens_total=drafts.num_ignored,
            draft_s_total=speculator.draft_s if speculator else 0.0,
            preemptions_total=scheduler.num_preemptions,
            swaps_total=scheduler.num_swaps,
            evicted_tokens_total=kv_cache.num_evicted_tokens,
            restored_tokens_total=kv_cache.num_restored_tokens,
            host_hits_total=store.num_host_hits if store else 0,
            file_hits_total=store.num_file_hits if store else 0,
            failed_steps_total=self._num_failed_steps,
            step_s_total=self._step_s,
            schedule_s_total=self._schedule_s - (speculator.draft_s if speculator else 0.0),
            last_step_tokens=num_tokens,
            last_step_s=seconds,
            last_step_threads=num_threads,
            step_cost_curve=self._cost_model.curve(),
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Fail what runs with ModelUnloadedError, close the runner and end the thread. Idempotent, any thread.

        Args:
            timeout_s: How long to wait for a step that does not heed `interrupt`. After that the requests get their
                events from here, and the thread and the runner are left behind.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if threading.current_thread() is self._thread:
            return  # called by the sink: the loop ends after this step
        if self._thread.ident is None:
            self._shut_down()
            return
        deadline = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._runner.interrupt()  # again and again: it says nothing to a step that has not begun
            self._thread.join(_INTERRUPT_EVERY_S)
        if self._thread.is_alive():
            _log.error(
                "a step did not end within %.1f s; the engine thread is left behind", timeout_s
            )
            self._fail_accepted()

    def _run(self) -> None:
        try:
            while self._take_commands():
                try:
                    self._step()
                except Exception as error:
                    _log.exception("a step failed for an unforeseen reason; every request fails")
                    self._num_failed_steps += 1
                    self._scheduler.fail_all(error)
                self._emit()
        except Exception as error:
            _log.exception("the engine cannot go on")
            with self._changed:
                self._died_of = error
        finally:
            self._shut_down()

    def _take_commands(self) -> bool:
        """Carry out what was asked for since the last step; wait if there is nothing to do. False when closing."""
        scheduler = self._scheduler
        if not self._inbox and scheduler.has_requests and not self._is_closing:
            return True  # the usual case between two steps, without the lock
        while True:
            with self._changed:
                while not (self._inbox or scheduler.has_requests or self._is_closing):
                    if not self._changed.wait(None if self._is_stored else _IDLE_S):
                        break
                else:
                    if self._is_closing:
                        return False
                    commands, self._inbox = self._inbox, deque()
                    break
            self._is_stored = not self._store_one()
        now_s = time.monotonic()
        for command in commands:
            if isinstance(command, str):
                scheduler.abort(command, now_s)
            elif isinstance(command, _Loan):
                self._lend(command)
            else:
                scheduler.add(command, now_s)
        return True

    def _lend(self, loan: _Loan) -> None:
        """Carry out a loan; no request runs, as none was accepted before it."""
        memory = self._scheduler.kv_cache
        try:
            memory.reset()
            try:
                loan.use(self._runner)
            finally:
                memory.reset()
        except Exception as error:
            loan.done.set_exception(error)
        else:
            loan.done.set_result(None)

    def _store_one(self) -> bool:
        """Put one cached prefix into a file, for the next process; False if there is none left, or no files."""
        store = self._store
        if store is None or not store.has_files:
            return False
        return store.write_one() or self._scheduler.kv_cache.store_idle()

    def _prefill_s(self, num_tokens: int) -> float | None:
        """Return what computing so many tokens of a prompt would take; None before the first step."""
        most = min(num_tokens, self._info.max_batch_tokens)
        seconds = self._cost_model.estimate_s(most)
        return None if seconds is None else seconds * num_tokens / most

    def _step(self) -> None:
        scheduler = self._scheduler
        self._is_stored = False
        begin_s = before_s = after_s = time.monotonic()
        output = scheduler.schedule(begin_s)
        while output.scheduled:
            before_s = time.monotonic()
            try:
                result = self._runner.step(output.scheduled)
            except NoKVSlotError as error:
                _log.debug("no room for a step of %d tokens: %s", output.num_tokens, error)
                scheduler.relieve(error, time.monotonic())
                output = scheduler.schedule(time.monotonic())
                continue
            except (DecodeAborted, ComputeError) as error:
                if self._is_closing:
                    return  # stopped by close(), which reports the end of every request
                _log.error("a step failed, with %d requests: %s", len(output.requests), error)
                self._num_failed_steps += 1
                scheduler.fail_step(output, error)
                return
            after_s = time.monotonic()
            scheduler.update_from_output(output, result, after_s)
            self._count_step(output, after_s - before_s, result.num_threads)
            break
        self._schedule_s += before_s - begin_s + time.monotonic() - after_s

    def _count_step(self, output: SchedulerOutput, seconds: float, num_threads: int) -> None:
        num_tokens = output.num_tokens
        self._num_steps += 1
        self._num_computed_tokens += num_tokens
        self._step_s += seconds
        self._last_step = (num_tokens, seconds, num_threads)
        if not output.has_picture:
            self._cost_model.record(num_tokens, seconds)

    def _emit(self) -> None:
        """Hand the events since the last call to the sink."""
        events, ended_ids = self._scheduler.take_events()
        if not events:
            return
        with self._changed:
            if self._is_abandoned:
                return
            for request_id in ended_ids:
                del self._accepted[request_id]
        self._deliver(events)

    def _deliver(self, events: list[Event]) -> None:
        try:
            self._sink(events)
        except Exception:
            _log.exception("the sink failed; %d events are lost", len(events))

    def _shut_down(self) -> None:
        """Report the end of whatever is left, and close the runner, in the thread that owns it."""
        self._fail_accepted()
        if self._store is not None:
            deadline = time.monotonic() + _STORE_S
            try:
                while self._died_of is None and time.monotonic() < deadline and self._store_one():
                    pass
            except Exception:
                _log.exception("cached prefixes could not all be kept")
            self._store.close(_STORE_S)
        costs = self._cost_model.worth_keeping()
        try:
            if self._keep_costs is not None and self._died_of is None and costs:
                self._keep_costs(costs)
        except Exception:
            _log.exception("what steps cost could not be kept")
        try:
            self._runner.close()
        except Exception:
            _log.exception("the runner cannot be closed")

    def _fail_accepted(self) -> None:
        with self._changed:
            self._is_closing = self._is_abandoned = True
            request_ids = list(self._accepted)
            self._accepted.clear()
            loans = [command for command in self._inbox if isinstance(command, _Loan)]
            self._inbox.clear()
        error: Exception = ModelUnloadedError(
            "the model was unloaded while the request was under way; the next request loads it again"
        )
        if self._died_of is not None:
            error = EngineDiedError(f"the engine has stopped after {self._died_of!r}")
        for loan in loans:
            loan.done.set_exception(error)
        if request_ids:
            self._deliver([failure(request_id, error) for request_id in request_ids])
