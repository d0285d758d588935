"""Has a draft model guess ahead, token by token, as long as one more is worth its time. Knows no scheduling."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from slipstream.base.errors import SlipstreamError
from slipstream.engine.acceptance import ModelAcceptance
from slipstream.engine.cost_model import CostModel
from slipstream.engine.spec_decode import plan_depth

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.engine.request import Request
    from slipstream.engine.runner import ModelRunner

_log = logging.getLogger(__name__)
MAX_MODEL_DRAFT_TOKENS = 8  # of one sequence in one step
_LEAST_GAIN = 1.03  # expected of drafting, or it is left alone: costs are known no better
_PROBE_EVERY = 256  # steps between two tries of a draft model that does not pay
_PROBE_DEPTH = 2
_PROBE_PART = 0.05  # of the time of those steps goes into reading what it has missed
_CATCH_UP_S = 0.05  # of reading prompts per step, while other requests stream
_LEAST_CATCH_UP = 32
_EXPECTED_TOKENS = 256  # still to come, of a request that may be longer
_REQUEST_WEIGHT = 8.0  # observations that the average of all requests counts as, for one of them
_MAX_FAILURES = 3


class ModelDrafts:
    """Drafts by the runner's draft model.

    It decides before the first token whether and how deep to draft (`plan_depth`), then after every token which
    sequences go on: those whose next token is expected to give more tokens per second than the step has anyway. A
    sequence whose text the draft model has not read is only caught up with if the time can come back. Where drafting
    does not pay it is tried again every `_PROBE_EVERY` steps, with the sequences whose missed text is read soonest, a
    piece a step.

    All on the engine thread.

    Args:
        runner: Has a draft model.
        cost_model: T(n) of the target.
        clock: Seconds.

    Attributes:
        acceptance: What was learnt.
        draft_s: Seconds spent drafting so far.
        is_probing: The latest drafts are there to be judged, whether that pays or not.
    """

    def __init__(
        self,
        runner: ModelRunner,
        cost_model: CostModel,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._draft_costs = CostModel(runner.info.max_batch_tokens)
        self._target_costs = cost_model
        self.is_probing = False
        self._num_idle_steps = 0  # since anything was drafted
        self._num_failures = 0
        self.acceptance = ModelAcceptance()
        self.draft_s = 0.0

    def draft(
        self,
        requests: Sequence[Request],
        depths: Sequence[int],
        num_base_tokens: int,
        costs_s: Sequence[float],
    ) -> list[tuple[list[int], list[float]]]:
        """Draft for some sequences of a step.

        Args:
            requests: Owners of the sequences.
            depths: Most drafts of each.
            num_base_tokens: Rows the step has anyway.
            costs_s: costs_s[n] is T(n).

        Returns:
            For each sequence its drafts and the draft model's confidence in each; empty where it does not pay.
        """
        drafts: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
        if self._num_failures >= _MAX_FAILURES:
            return drafts
        if not self._draft_costs.curve():
            self._draft_costs.seed(
                [
                    (round(n), seconds * self._runner.info.draft_cost_ratio)
                    for n, seconds in self._target_costs.curve()
                ]
            )
        chances = [self._chance(request) for request in requests]
        free = [i for i, r in enumerate(requests) if r.speculation_options.num_tokens is None]
        draft_costs_s = self._draft_costs_s(len(requests))
        depth, rate = plan_depth(
            [chances[i] for i in free],
            num_base_tokens,
            costs_s,
            draft_costs_s,
            MAX_MODEL_DRAFT_TOKENS,
        )
        base_rate = num_base_tokens / costs_s[num_base_tokens]
        if rate < _LEAST_GAIN * base_rate:
            depth = 0
        self._num_idle_steps += 1
        self.is_probing = depth == 0 and self._num_idle_steps > _PROBE_EVERY
        if self.is_probing:
            depth, rate = _PROBE_DEPTH, 0.0  # the text may have changed
            chosen = self._soonest_read(requests, free, costs_s[num_base_tokens])
        else:
            chosen = {
                i for i in free if depth and self._is_worth_reading(requests[i], base_rate, rate)
            }
        active = [
            i for i in range(len(requests)) if depths[i] > 0 and (i in chosen or i not in free)
        ]
        max_rows = self._max_rows(len(requests), is_bounded=self.is_probing or len(requests) > 1)
        survivals = [1.0] * len(requests)
        row_s = _marginal_s(costs_s, num_base_tokens)
        while active:
            tokens = self._extend([requests[i].seq_id for i in active], max_rows)
            going_on = []
            for i, (token, confidence) in zip(active, tokens, strict=True):
                if token < 0:
                    continue
                if i in chosen:
                    self._num_idle_steps = 0
                drafts[i][0].append(token)
                drafts[i][1].append(confidence)
                survivals[i] *= self.acceptance.chance(confidence)
                if len(drafts[i][0]) < depths[i]:
                    going_on.append(i)
            cost_s = row_s + draft_costs_s[min(len(active), len(draft_costs_s) - 1)] / len(active)
            active = [
                i
                for i in going_on
                if requests[i].speculation_options.num_tokens is not None
                or (rate == 0.0 and len(drafts[i][0]) < depth)
                or (rate > 0.0 and survivals[i] * chances[i] > rate * cost_s)
            ]
        return drafts

    def _max_rows(self, num_requests: int, *, is_bounded: bool) -> int:
        """Return how many tokens the draft model may compute at a time."""
        max_rows = self._runner.info.max_batch_tokens
        if is_bounded:
            affordable = self._draft_costs.num_tokens_within(_CATCH_UP_S)
            max_rows = min(max_rows, max(affordable or 0, _LEAST_CATCH_UP, num_requests))
        return max_rows

    def _extend(self, seq_ids: list[int], max_rows: int) -> list[tuple[int, float]]:
        """Get one more token of each; a draft model that fails costs no request anything."""
        begin_s = self._clock()
        try:
            tokens, num_rows = self._runner.draft(seq_ids, max_rows)
        except SlipstreamError as error:
            self._num_failures += 1
            is_last = self._num_failures >= _MAX_FAILURES
            _log.warning(
                "the draft model fails%s: %s",
                "; it is not used any more" if is_last else "",
                error,
            )
            tokens, num_rows = [(-1, 0.0)] * len(seq_ids), 0
        seconds = self._clock() - begin_s
        self.draft_s += seconds
        if num_rows:
            self._num_failures = 0
            self._draft_costs.record(num_rows, seconds)
        return tokens

    def _chance(self, request: Request) -> float:
        """Return the chance that a next draft for a request is right: its own record, leaning on that of all."""
        counters, chance = request.speculation, self.acceptance.next_token.chance
        at_risk = counters.num_accepted + counters.num_rejected
        return (_REQUEST_WEIGHT * chance + counters.num_accepted) / (_REQUEST_WEIGHT + at_risk)

    def _is_worth_reading(self, request: Request, base_rate: float, rate: float) -> bool:
        """Tell whether what drafts would save pays for reading the text the draft model has not read yet."""
        lag = self._runner.draft_lag(request.seq_id)
        if lag <= _LEAST_CATCH_UP:
            return True
        cost_s = self._draft_costs.estimate_s(lag) or 0.0
        num_left = min(request.max_num_tokens - len(request.token_ids), _EXPECTED_TOKENS)
        return rate > 0.0 and cost_s < num_left * (1.0 / base_rate - 1.0 / rate)

    def _soonest_read(
        self, requests: Sequence[Request], free: Sequence[int], step_s: float
    ) -> set[int]:
        """Return those whose text is read in a small part of the time the steps since the last try have taken."""
        left_s, chosen = _PROBE_PART * _PROBE_EVERY * step_s, set()
        for lag, i in sorted((self._runner.draft_lag(requests[i].seq_id), i) for i in free):
            left_s -= self._draft_costs.estimate_s(lag) or 0.0
            if left_s < 0:
                break
            chosen.add(i)
        return chosen

    def _draft_costs_s(self, most: int) -> list[float]:
        estimates = [self._draft_costs.estimate_s(n) for n in range(most + 1)]
        return [cost for cost in estimates if cost is not None]


def _marginal_s(costs_s: Sequence[float], num_rows: int) -> float:
    """Return what a further row costs near `num_rows`."""
    last = min(num_rows + 4, len(costs_s) - 1)
    return (costs_s[last] - costs_s[num_rows]) / max(1, last - num_rows)
