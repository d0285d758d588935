"""Decides what every step computes and what its tokens mean for each request. Knows no threads and no clock."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import SlipstreamError
from slipstream.base.types import FinishReason, OutputDelta
from slipstream.engine.kv_cache import KVCache
from slipstream.engine.pictures import picture_at
from slipstream.engine.prefix_tree import num_common_tokens
from slipstream.engine.request import NO_SEQUENCE, Request, RequestStatus, failure
from slipstream.engine.runner import ScheduledSequence
from slipstream.engine.speculator import Speculator
from slipstream.engine.step_budget import share_tokens, step_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import Event
    from slipstream.engine.cost_model import CostModel
    from slipstream.engine.kv_cache import Stored
    from slipstream.engine.pictures import PromptPicture
    from slipstream.engine.prefix_store import PrefixStore
    from slipstream.engine.prefix_tree import PrefixMatch
    from slipstream.engine.runner import ModelRunner, StepResult

_log = logging.getLogger(__name__)
# A new request waits for a running one to compute at least so many tokens of the prefix they have in common.
_WORTH_WAITING = 32


@dataclass(slots=True)
class SchedulerOutput:
    """One step. `requests[i]` is the owner of `scheduled[i]`.

    Attributes:
        requests: Whose tokens are computed.
        scheduled: What the runner is asked to compute.
        num_tokens: Of all sequences together.
        has_picture: Whether one of them is computing a picture, which says nothing about what tokens cost.
    """

    requests: list[Request] = field(default_factory=list)
    scheduled: list[ScheduledSequence] = field(default_factory=list)
    num_tokens: int = 0
    has_picture: bool = False


class Scheduler:
    """Continuous batching with chunked prefill, admission in order of arrival.

    ::

        add --> waiting --admit--> running --> finished        events: take_events()
                   ^ front            |
                   '---- preempt -----'  newest first, when the cells run out

    `running` is in order of arrival and everything in `waiting` arrived later, so that preempting the newest lets
    the oldest always go on, to its end: a request alone fits by `check_request`. Nothing is admitted between a
    preemption and the next end of a request, or two requests could evict each other for ever.

    All methods are for the engine thread; the counters can be read from any.

    Args:
        runner: Its `info`, `trim`, `open_sequence` and `close_sequence` are used here, `step` is not.
        max_num_running: Most requests that run at the same time; more wait.
        cost_model: What steps cost; without it nothing is drafted and chunks of prompts are as long as a step allows.
        step_target_s: While some requests decode, see `step_tokens`.
        store: Second tiers of the prefix cache.

    Attributes:
        kv_cache: The accounts of its memory.
        num_prompt_tokens: Prompt tokens of the requests admitted so far.
        num_cached_tokens: Of those, found in the KV cache.
        num_output_tokens: Sampled so far.
        num_preemptions: So far.
        num_swaps: Of those, how many left their state in the second tiers.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        max_num_running: int | None = None,
        cost_model: CostModel | None = None,
        step_target_s: float | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        self._runner = runner
        self._max_batch_tokens = runner.info.max_batch_tokens
        self.max_num_running = min(
            runner.info.max_num_seqs,
            self._max_batch_tokens,
            max_num_running or runner.info.max_num_seqs,
        )
        self.kv_cache = KVCache(runner, store)
        self.speculator = (
            Speculator(runner, cost_model) if cost_model and runner.info.max_drafts else None
        )
        self._cost_model = cost_model
        self._step_target_s = step_target_s
        self._requests: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._is_admitting = True
        self._has_drafts = False  # in the latest plan
        self._is_tight = False  # the runner found no room for it: the next one has none
        self._events: list[Event] = []
        self._ended_ids: list[str] = []
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_output_tokens = 0
        self.num_preemptions = self.num_swaps = 0

    @property
    def num_running(self) -> int:
        """Requests that take part in steps."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait, preempted ones among them."""
        return len(self._waiting)

    @property
    def has_requests(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._requests)

    def add(self, request: Request, now_s: float) -> None:
        """Queue a request that has passed `check_request`.

        With `max_tokens` 0 there is nothing to generate: it ends at once with LENGTH, and nothing is computed.
        """
        assert request.max_num_tokens, "check_request comes first"
        assert request.request_id not in self._requests, request.request_id
        self._requests[request.request_id] = request
        self._waiting.append(request)
        if request.max_num_tokens <= request.num_prompt_tokens:
            self._finish(request, FinishReason.LENGTH, now_s)

    def abort(self, request_id: str, now_s: float) -> None:
        """End a request with ABORT. Nothing happens if it has ended already."""
        request = self._requests.get(request_id)
        if request is not None:
            self._finish(request, FinishReason.ABORT, now_s)

    def schedule(self, now_s: float) -> SchedulerOutput:
        """Plan a step: a token of every request that is up to date, shares of prompts, new ones too, and drafts.

        Nothing is counted as computed before `update_from_output`, so a plan may be thrown away and made again.

        Returns:
            The step; empty only if there are no requests.
        """
        output = SchedulerOutput()
        running = self._running
        if self.kv_cache.num_free_cells < len(running):
            self._secure_decodes()
        requests, scheduled, behind = output.requests, output.scheduled, []
        for request in running:
            start = request.num_computed_tokens
            if start + 1 == len(request.token_ids):
                requests.append(request)
                scheduled.append(
                    ScheduledSequence(request.seq_id, start, request.token_ids[start:], True)
                )
            else:
                behind.append(request)
        num_decodes = output.num_tokens = len(scheduled)
        if self._waiting:
            behind += self._admit(now_s)
        most = self._max_batch_tokens
        budget = step_tokens(num_decodes, most, self._cost_model, self._step_target_s) - num_decodes
        missing = [len(request.token_ids) - request.num_computed_tokens for request in behind]
        for request, num_tokens in zip(behind, share_tokens(missing, budget), strict=True):
            self._schedule_chunk(output, request, num_tokens)
        num_drafts = 0
        if self.speculator and num_decodes and not (self._is_tight or output.has_picture):
            num_drafts = self.speculator.add_drafts(
                requests[:num_decodes],
                scheduled[:num_decodes],
                output.num_tokens - num_decodes,
                min(self.kv_cache.num_free_cells, most) - output.num_tokens,
            )
        self._has_drafts = num_drafts > 0
        output.num_tokens += num_drafts
        if not scheduled and len(running) > 1:
            # Prompts alone hold all cells: one was admitted to share what could then not be shared.
            self._preempt_newest()
            return self.schedule(now_s)
        assert scheduled or not self._requests
        return output

    def update_from_output(self, output: SchedulerOutput, result: StepResult, now_s: float) -> None:
        """Account for a step that was computed.

        Args:
            output: The plan.
            result: What the runner made of it.
            now_s: When it was done.
        """
        self._is_tight = False
        first = 0
        sampled = iter(enumerate(result.counts))
        for request, scheduled in zip(output.requests, output.scheduled, strict=True):
            index, num_sampled = next(sampled) if scheduled.sample else (-1, 0)
            num_tokens = len(scheduled.token_ids) - scheduled.num_drafts
            request.num_computed_tokens += num_tokens
            self.kv_cache.append(request.seq_id, num_tokens)
            if scheduled.num_drafts and self.speculator:
                num_accepted = _num_accepted(
                    scheduled, result.token_ids[first : first + num_sampled]
                )
                self.speculator.record(request, scheduled.num_drafts, num_accepted)
            self._take_outputs(request, result, range(first, first + num_sampled), now_s)
            first += num_sampled
            error = result.errors.get(index) if result.errors else None
            if error is not None and request.status is RequestStatus.RUNNING:
                self.fail(request, error)  # its drafts have left memory: see StepResult

    def _take_outputs(
        self, request: Request, result: StepResult, rows: range, now_s: float
    ) -> None:
        """Give a request what was sampled for it, as far as it goes on. All but the last are accepted drafts."""
        is_complete = request.matcher is not None and request.matcher.is_complete
        for row in rows:
            self.num_output_tokens += 1
            is_draft = row < rows[-1]
            delta = request.append_output(
                result.token_ids[row],
                result.pieces[row],
                result.is_eog[row],
                result.logprobs[row],
                now_s,
                is_complete=is_complete and not is_draft,
            )
            if delta.finish_reason is None:
                self._events.append(delta)
                if is_draft:  # its cell is computed already
                    request.num_computed_tokens += 1
                    self.kv_cache.append(request.seq_id, 1)
                    continue
                if request.thinking is not None and not self._end_thinking(request):
                    return
                if request.must_roll:
                    self._roll(request)
                continue
            if is_draft:  # it and those behind it are not accounted for
                self.kv_cache.truncate(request.seq_id, request.num_computed_tokens)
            delta.usage = request.usage(now_s)
            self._end(request, delta)
            return

    def _end_thinking(self, request: Request) -> bool:
        """End reasoning whose budget is spent, as if the model had; False if its grammar does not let it."""
        delta = request.end_thinking()
        if delta is None:
            return True
        self._events.append(delta)
        self.num_output_tokens += len(delta.token_ids)
        try:
            self._runner.accept(request.seq_id, delta.token_ids)
        except SlipstreamError as error:
            self.fail(request, error)
            return False
        return True

    def _roll(self, request: Request) -> None:
        """Make room in a full context. The draft model, whose memory has not rolled, drafts for it no longer."""
        num_kept = request.roll()
        request.num_computed_tokens = self.kv_cache.rewrite(
            request.seq_id, request.token_ids, num_kept
        )
        options = request.speculation_options
        if options.source in ("auto", "draft"):
            source = "ngram" if options.source == "auto" else "off"
            request.speculation_options = msgspec.structs.replace(options, source=source)

    def relieve(self, error: SlipstreamError, now_s: float) -> None:
        """Make room after the runner found none, though by our accounts there was some; then plan again.

        Idle sequences go first, then drafts, then the newest request is preempted. The last one standing ends: with
        LENGTH if it has any output, else it fails with `error`.
        """
        if self.kv_cache.evict():
            return
        if self._has_drafts:
            self._is_tight = True
            return
        if len(self._running) > 1:
            self._preempt_newest()
            return
        request = self._running[0]
        if request.num_output_tokens:
            self._finish(request, FinishReason.LENGTH, now_s)
        else:
            self.fail(request, error)

    def fail_step(self, output: SchedulerOutput, error: SlipstreamError) -> None:
        """Fail the requests of a step that left their sequences in an unknown state; the others go on."""
        for request in output.requests:
            self.kv_cache.clear(request.seq_id)
            request.num_computed_tokens = 0
            self.fail(request, error)

    def fail_all(self, error: Exception) -> None:
        """Fail every request and empty the whole memory, when nothing about its state is certain."""
        for request in list(self._requests.values()):
            request.num_computed_tokens = 0
            if request.seq_id != NO_SEQUENCE:
                self.kv_cache.clear(request.seq_id)
            self.fail(request, error)
        self.kv_cache.reset()

    def fail(self, request: Request, error: Exception) -> None:
        """End one request with an error."""
        self._end(request, failure(request.request_id, error))

    def take_events(self) -> tuple[list[Event], list[str]]:
        """Return the events since the last call, and the ids of the requests that ended with one of them."""
        taken = self._events, self._ended_ids
        self._events, self._ended_ids = [], []
        return taken

    def check_integrity(self) -> None:
        """Assert that all records agree with each other. For tests."""
        waiting, running = list(self._waiting), self._running
        assert len(self._requests) == len(waiting) + len(running)
        assert all(
            self._requests[request.request_id] is request for request in [*running, *waiting]
        )
        assert len(running) <= self.max_num_running
        assert all(request.status is RequestStatus.RUNNING for request in running)
        statuses = [request.status for request in waiting]
        num_preempted = statuses.count(RequestStatus.PREEMPTED)
        assert statuses == [RequestStatus.PREEMPTED] * num_preempted + [RequestStatus.WAITING] * (
            len(waiting) - num_preempted
        )
        for request in [*running, *waiting]:
            assert (
                0 <= request.num_computed_tokens < len(request.token_ids) < request.max_num_tokens
            )
            assert (request.seq_id == NO_SEQUENCE) == (request.status is RequestStatus.WAITING)
            assert request.status is RequestStatus.RUNNING or request.num_computed_tokens == 0
        holders = [request for request in [*running, *waiting] if request.seq_id != NO_SEQUENCE]
        live = {request.seq_id: request.num_computed_tokens for request in holders}
        assert len(live) == len(holders)
        self.kv_cache.check_integrity(live)

    def _secure_decodes(self) -> None:
        """Get a cell for each request that needs just one, by eviction, then by preempting the newest."""
        while True:
            num_decodes = sum(r.num_computed_tokens + 1 == len(r.token_ids) for r in self._running)
            if self.kv_cache.make_room(num_decodes) >= num_decodes:
                return
            self._preempt_newest()

    def _schedule_chunk(self, output: SchedulerOutput, request: Request, num_tokens: int) -> None:
        """Add as many of the next `num_tokens` of a request as there are cells for."""
        start, num_before = request.num_computed_tokens, output.num_tokens
        if request.pictures:
            picture = picture_at(request.pictures, start)
            if picture is not None and picture.start == start:
                self._schedule_picture(output, request, picture)
                return
            if picture is not None:
                num_tokens = min(num_tokens, picture.start - start)
        num_tokens = min(num_tokens, self.kv_cache.make_room(num_before + num_tokens) - num_before)
        if num_tokens <= 0:
            return
        end = start + num_tokens
        sample = end == len(request.token_ids)
        output.requests.append(request)
        output.scheduled.append(
            ScheduledSequence(request.seq_id, start, request.token_ids[start:end], sample)
        )
        output.num_tokens += num_tokens

    def _schedule_picture(
        self, output: SchedulerOutput, request: Request, picture: PromptPicture
    ) -> None:
        """Add a picture as a whole, whatever the budget: one in a step, so that streams flow between two."""
        num_needed = output.num_tokens + picture.num_tokens
        if output.has_picture or self.kv_cache.make_room(num_needed) < num_needed:
            return
        output.requests.append(request)
        token_ids = request.token_ids[picture.start : picture.end]
        output.scheduled.append(
            ScheduledSequence(request.seq_id, picture.start, token_ids, False, picture=picture)
        )
        output.num_tokens += picture.num_tokens
        output.has_picture = True

    def _admit(self, now_s: float) -> list[Request]:
        """Start waiting requests in order, as long as sequences and cells last; return which."""
        running, waiting, admitted = self._running, self._waiting, []
        if not running:
            self._is_admitting = True
        while waiting and self._is_admitting and len(running) < self.max_num_running:
            request = waiting[0]
            promised = sum(len(r.token_ids) - r.num_computed_tokens for r in running)
            if not self.kv_cache.fits(promised + 2):
                break  # whatever the prompt could share, one token and the one after it are its own
            match = self.kv_cache.find(request.token_ids)
            num_missing = len(request.token_ids) - match.num_live_cells
            if not self.kv_cache.fits(promised + num_missing + 1):
                break
            if self._is_prefix_under_way(request, match.num_tokens):
                break
            stored = self.kv_cache.find_stored(request.token_ids, match)
            if stored and not self.kv_cache.fits(promised + len(stored[0].token_ids) + 1):
                stored = None
            if request.seq_id == NO_SEQUENCE:
                if not self._open(request, match, stored, now_s):
                    continue
            else:
                request.num_computed_tokens = self._fill(request, match, stored)
            waiting.popleft()
            running.append(request)
            admitted.append(request)
            request.status = RequestStatus.RUNNING
        return admitted

    def _fill(self, request: Request, match: PrefixMatch, stored: Stored | None) -> int:
        """Give the empty sequence of a request what there is of its tokens; return how many that are."""
        kv_cache = self.kv_cache
        num_tokens = kv_cache.restore(request.seq_id, request.token_ids, stored) if stored else 0
        # What was found may have been evicted for what could then not be restored.
        return num_tokens or kv_cache.share(
            request.seq_id, kv_cache.find(request.token_ids) if stored else match
        )

    def _is_prefix_under_way(self, request: Request, num_found: int) -> bool:
        """Tell whether a running request is about to compute much more of the prompt's prefix than was found."""
        if not self.kv_cache.can_share:
            return False
        token_ids, limit = request.token_ids, len(request.token_ids) - 1
        for other in self._running:
            end = min(len(other.token_ids), limit)
            if other.num_computed_tokens < end and end - num_found >= _WORTH_WAITING:
                num_common = num_common_tokens(other.token_ids, token_ids, 0, end)
                if num_common - num_found >= _WORTH_WAITING:
                    return True
        return False

    def _open(
        self, request: Request, match: PrefixMatch, stored: Stored | None, now_s: float
    ) -> bool:
        """Give a new request a sequence and a sampler; False if the sampler is refused, which ends the request."""
        if stored:
            request.seq_id = self.kv_cache.allocate_empty(request.token_ids)
            num_cached = self._fill(request, match, stored)
        else:
            allocation = self.kv_cache.allocate(request.token_ids, match)
            assert allocation is not None, "fewer requests than sequences hold one"
            request.seq_id, num_cached = allocation
        request.num_computed_tokens = request.num_cached_tokens = num_cached
        request.first_step_s = now_s
        try:
            self._runner.open_sequence(
                request.seq_id,
                request.sampling,
                request.prompt_token_ids,
                request.matcher,
                request.pictures,
                request.calls,
            )
        except (
            Exception
        ) as error:  # the edge of one request: whatever its parameters cause must not reach others
            if not isinstance(error, SlipstreamError):
                _log.exception("the sampler of request %s cannot be made", request.request_id)
            self.fail(request, error)
            return False
        self.num_prompt_tokens += request.num_prompt_tokens
        self.num_cached_tokens += num_cached
        return True

    def _preempt_newest(self) -> None:
        """Take the cells of the newest running request; it gets its state back, or computes it, when its turn comes."""
        assert len(self._running) > 1, "a request alone fits"
        request = self._running.pop()
        self.num_swaps += self.kv_cache.stash(request.seq_id)
        self.kv_cache.clear(request.seq_id)
        request.num_computed_tokens = 0
        request.status = RequestStatus.PREEMPTED
        self._waiting.appendleft(request)
        self._is_admitting = False
        self.num_preemptions += 1

    def _finish(self, request: Request, reason: FinishReason, now_s: float) -> None:
        delta = OutputDelta(request.request_id, request.text.finish(), finish_reason=reason)
        delta.usage = request.usage(now_s)
        self._end(request, delta)

    def _end(self, request: Request, event: Event) -> None:
        """The one place where a request ends: take it off every list and keep its sequence as a cached prefix."""
        del self._requests[request.request_id]
        if request.status is RequestStatus.RUNNING:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        request.status = RequestStatus.FINISHED
        if request.seq_id != NO_SEQUENCE:
            self._runner.close_sequence(request.seq_id)
            self.kv_cache.release(request.seq_id)
            self._is_admitting = True
        self._events.append(event)
        self._ended_ids.append(request.request_id)


def _num_accepted(scheduled: ScheduledSequence, token_ids: Sequence[int]) -> int:
    """Return how many drafts of a sequence are what was sampled: all tokens but the last, and that one maybe, too."""
    drafts = scheduled.token_ids[len(scheduled.token_ids) - scheduled.num_drafts :]
    return num_common_tokens(drafts, token_ids, 0, min(len(drafts), len(token_ids)))
