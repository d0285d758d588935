"""Adds drafts to a step where they pay, and learns from what became of them. Between scheduler and runner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.engine.spec_decode import MAX_DRAFT_TOKENS, AcceptanceModel, plan_drafts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.engine.cost_model import CostModel
    from slipstream.engine.request import Request
    from slipstream.engine.runner import ModelRunner, ScheduledSequence

_REFRESH_STEPS = 32  # between two looks at the cost curve
_FORGET_STEPS = 1024  # between two halvings of what was learnt


class Speculator:
    """Drafts by n-gram lookup, verified in the batch, as many as the cost curve says are worth their rows.

    Per step: the runner proposes for every decoding sequence, `plan_drafts` chooses how many of each to verify, and
    the answer teaches the acceptance model. Tokens never change by it, only how many come per step.

    Args:
        runner: Proposes and verifies.
        cost_model: Gives T(n); nothing is drafted before its first step.
    """

    def __init__(self, runner: ModelRunner, cost_model: CostModel) -> None:
        self._runner = runner
        self._cost_model = cost_model
        self._acceptance = AcceptanceModel()
        self._max_drafts = runner.info.max_drafts
        self._max_rows = runner.info.max_num_seqs + self._max_drafts
        self._costs_s: list[float] = []
        self._num_steps = 0
        self._matches: dict[
            str, int
        ] = {}  # request id -> match length of its drafts in the step under way
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0

    def add_drafts(
        self, requests: Sequence[Request], scheduled: Sequence[ScheduledSequence], room: int
    ) -> int:
        """Append drafts to the sequences of a step in which every one of them decodes a single token.

        Args:
            requests: Owners of `scheduled`.
            scheduled: Changed in place.
            room: Further tokens that the batch and the KV cache can take.

        Returns:
            Drafts added.
        """
        self._matches.clear()
        self._count_step()
        limit = min(room, self._max_drafts)
        if limit <= 0 or len(self._costs_s) <= len(scheduled):
            return 0
        proposals = self._runner.propose([s.seq_id for s in scheduled], MAX_DRAFT_TOKENS)
        survivals = []
        for request, (match_length, draft) in zip(requests, proposals, strict=True):
            # The last token of a request is sampled, never drafted.
            useful = min(len(draft), request.max_num_tokens - len(request.token_ids) - 1)
            survivals.append(self._acceptance.survival(match_length)[: max(0, useful)])
        if not any(survivals):
            return 0
        counts = plan_drafts(survivals, len(scheduled), self._costs_s, limit)
        for request, sequence, (match_length, draft), count in zip(
            requests, scheduled, proposals, counts, strict=True
        ):
            if count:
                sequence.token_ids = [*sequence.token_ids, *draft[:count]]
                sequence.num_drafts = count
                self._matches[request.request_id] = match_length
        return sum(counts)

    def record(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """Learn what became of a request's drafts in the step that was computed."""
        request.speculation.record(num_drafted, num_accepted)
        self._acceptance.record(self._matches[request.request_id], num_drafted, num_accepted)
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted

    def _count_step(self) -> None:
        if self._num_steps % _REFRESH_STEPS == 0 or not self._costs_s:
            estimates = [self._cost_model.estimate_s(n) for n in range(self._max_rows + 1)]
            self._costs_s = [cost for cost in estimates if cost is not None]
        self._num_steps += 1
        if self._num_steps % _FORGET_STEPS == 0:
            self._acceptance.forget()
