"""Adds drafts to a step where they pay, and learns from what became of them. Between scheduler and runner."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipstream.base.errors import SlipstreamError
from slipstream.base.limits import MAX_DRAFT_TOKENS
from slipstream.engine.acceptance import NgramAcceptance
from slipstream.engine.model_drafts import MAX_MODEL_DRAFT_TOKENS, ModelDrafts
from slipstream.engine.spec_decode import SpeculationCounters, plan_drafts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.engine.cost_model import CostModel
    from slipstream.engine.request import Request
    from slipstream.engine.runner import ModelRunner, ScheduledSequence

_log = logging.getLogger(__name__)
_REFRESH_STEPS = 32  # between two looks at the cost curve
_FORGET_STEPS = 1024  # between two halvings of what was learnt


@dataclass(slots=True)
class Draft:
    """What may come next in one sequence: tokens of the draft model, then of the n-gram index.

    Attributes:
        token_ids: Both kinds.
        survival: For each token, the chance that it and all before it are right.
        confidences: Of the draft model in its tokens, which are the first ones.
        match_length: What the others come from.
        is_fixed: Verified as it is, whatever it costs.
    """

    token_ids: list[int] = field(default_factory=list)
    survival: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    match_length: int = 0
    is_fixed: bool = False


class Speculator:
    """Drafts by n-gram lookup and by a draft model, verified in the batch, as many as are worth their rows.

    ::

        sequence --> n-gram index --> a match that promises more than the draft model does? --> its tokens
                         |  no, or none
                         '--> draft model, as deep as it pays --> n-gram index behind that --> both
        all sequences --> plan_drafts over T(n) --> the batch --> record: what was accepted teaches the estimates

    The output is what it is without drafts: the same tokens, or with drafts drawn at random
    (`RunnerInfo.is_draft_sampled`) tokens of the same distribution.

    Args:
        runner: Proposes and verifies.
        cost_model: Gives T(n); nothing is drafted before its first step.
    """

    def __init__(self, runner: ModelRunner, cost_model: CostModel) -> None:
        self._runner = runner
        self._info = runner.info
        self._cost_model = cost_model
        self._ngrams = NgramAcceptance()
        self._model = ModelDrafts(runner, cost_model) if runner.info.has_draft_model else None
        self._max_drafts = runner.info.max_drafts
        self._max_rows = runner.info.max_num_seqs + self._max_drafts
        self._costs_s: list[float] = []
        self._num_steps = 0
        self._drafts: dict[str, Draft] = {}  # by request id, of the step under way
        self.counters = SpeculationCounters()  # of all requests

    @property
    def draft_s(self) -> float:
        """Seconds the draft model has taken so far."""
        return self._model.draft_s if self._model else 0.0

    def add_drafts(
        self,
        requests: Sequence[Request],
        scheduled: Sequence[ScheduledSequence],
        num_other_tokens: int,
        room: int,
    ) -> int:
        """Append drafts to sequences that decode a single token in a step.

        Args:
            requests: Owners of `scheduled`.
            scheduled: Changed in place.
            num_other_tokens: Of prompts, in the same step.
            room: Further tokens that the batch and the KV cache can take.

        Returns:
            Drafts added.
        """
        self._drafts.clear()
        self._count_step()
        limit = min(room, self._max_drafts)
        costs_s = self._costs_beside(num_other_tokens, len(scheduled) + limit)
        if limit <= 0 or len(costs_s) <= len(scheduled):
            return 0
        # The last token of a request is sampled, never drafted.
        depths = [r.max_drafts for r in requests]
        drafts = self._ngram_drafts(requests, depths)
        if self._model:
            self._add_model_drafts(requests, depths, drafts, limit, costs_s)
        for request, draft in zip(requests, drafts, strict=True):
            self._cut_forbidden(request, draft)
        counts = self._plan(drafts, len(scheduled), limit, costs_s)
        for request, sequence, draft, count in zip(
            requests, scheduled, drafts, counts, strict=True
        ):
            if count:
                sequence.token_ids = [*sequence.token_ids, *draft.token_ids[:count]]
                sequence.num_drafts = count
                self._drafts[request.request_id] = draft
        return sum(counts)

    def record(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """Learn what became of a request's drafts in the step that was computed."""
        request.speculation.record(num_drafted, num_accepted)
        self.counters.record(num_drafted, num_accepted)
        draft = self._drafts[request.request_id]
        num_of_model = min(len(draft.confidences), num_drafted)
        if num_of_model and self._model:
            self._model.acceptance.record(draft.confidences[:num_of_model], num_accepted)
        if num_drafted > num_of_model and num_accepted >= num_of_model:
            self._ngrams.record(
                draft.match_length, num_drafted - num_of_model, num_accepted - num_of_model
            )

    def _cut_forbidden(self, request: Request, draft: Draft) -> None:
        """Leave out what the request's grammar does not allow; rejection sampling has to see what was drawn."""
        is_drawn = bool(draft.confidences) and self._info.is_draft_sampled
        if request.matcher is not None and draft.token_ids and not is_drawn:
            num_allowed = request.matcher.num_allowed(draft.token_ids)
            del draft.token_ids[num_allowed:], draft.survival[num_allowed:]
            del draft.confidences[num_allowed:]

    def _ngram_drafts(self, requests: Sequence[Request], depths: Sequence[int]) -> list[Draft]:
        drafts = []
        proposals = self._propose([request.seq_id for request in requests])
        for request, depth, (match_length, token_ids) in zip(
            requests, depths, proposals, strict=True
        ):
            options = request.speculation_options
            if not token_ids or options.source not in ("auto", "ngram"):
                drafts.append(Draft())
                continue
            most = depth if options.num_tokens is None else min(depth, options.num_tokens)
            survival = self._ngrams.survival(match_length)[: min(most, len(token_ids))]
            draft = Draft(token_ids[: len(survival)], survival, [], match_length)
            draft.is_fixed = options.num_tokens is not None
            drafts.append(draft)
        return drafts

    def _add_model_drafts(
        self,
        requests: Sequence[Request],
        depths: Sequence[int],
        drafts: list[Draft],
        limit: int,
        costs_s: Sequence[float],
    ) -> None:
        """Replace drafts by those of the draft model where it is likelier right, and let the index go on behind."""
        assert self._model is not None
        chance = self._model.acceptance.next_token.chance
        chosen = [
            i
            for i, request in enumerate(requests)
            if request.speculation_options.source in ("auto", "draft")
            and depths[i] > 0
            and not (drafts[i].survival and drafts[i].survival[0] >= chance)
        ]
        if not chosen:
            return
        share = max(1, limit // len(chosen))  # drafts that the batch has room for
        most = []
        for i in chosen:
            fixed = requests[i].speculation_options.num_tokens
            most.append(min(depths[i], share, MAX_MODEL_DRAFT_TOKENS if fixed is None else fixed))
        found = self._model.draft([requests[i] for i in chosen], most, len(requests), costs_s)
        for i, (token_ids, confidences) in zip(chosen, found, strict=True):
            if not token_ids:
                continue
            survival, alive = [], 1.0
            for confidence in confidences:
                alive *= self._model.acceptance.chance(confidence)
                survival.append(alive)
            is_fixed = (
                requests[i].speculation_options.num_tokens is not None
                or self._info.is_draft_sampled
                or self._model.is_probing
            )
            drafts[i] = Draft(token_ids, survival, confidences, 0, is_fixed)
        self._chain(
            requests, depths, [drafts[i] if i in chosen else None for i in range(len(drafts))]
        )

    def _chain(
        self, requests: Sequence[Request], depths: Sequence[int], drafts: Sequence[Draft | None]
    ) -> None:
        """Go on behind the draft model's tokens with what followed them earlier in the text."""
        behind = [
            (request, depth, draft)
            for request, depth, draft in zip(requests, depths, drafts, strict=True)
            if draft is not None
            and draft.confidences
            and not draft.is_fixed
            and request.speculation_options.source == "auto"
        ]
        if not behind:
            return
        proposals = self._propose(
            [request.seq_id for request, _, _ in behind],
            [draft.token_ids for _, _, draft in behind],
        )
        for (_request, depth, draft), (match_length, token_ids) in zip(
            behind, proposals, strict=True
        ):
            num_more = min(len(token_ids), depth - len(draft.token_ids))
            if num_more > 0:
                alive = draft.survival[-1]
                more = [alive * s for s in self._ngrams.survival(match_length)[:num_more]]
                draft.token_ids = draft.token_ids + token_ids[: len(more)]
                draft.survival = draft.survival + more
                draft.match_length = match_length

    def _plan(
        self, drafts: Sequence[Draft], num_base_tokens: int, limit: int, costs_s: Sequence[float]
    ) -> list[int]:
        """Choose how many drafts of each sequence are verified; fixed ones come first, as far as there is room."""
        counts = [0] * len(drafts)
        for i, draft in enumerate(drafts):
            if draft.is_fixed:
                counts[i] = min(len(draft.token_ids), limit)
                limit -= counts[i]
                num_base_tokens += counts[i]
        survivals = [() if draft.is_fixed else draft.survival for draft in drafts]
        if any(survivals) and limit > 0 and num_base_tokens < len(costs_s):
            planned = plan_drafts(survivals, num_base_tokens, costs_s, limit)
            counts = [a + b for a, b in zip(counts, planned, strict=True)]
        return counts

    def _propose(
        self, seq_ids: list[int], behind: Sequence[Sequence[int]] = ()
    ) -> list[tuple[int, list[int]]]:
        if self._info.has_ngrams:
            try:
                return self._runner.propose(seq_ids, MAX_DRAFT_TOKENS, behind)
            except SlipstreamError:
                _log.exception("no drafts by n-grams in this step")
        return [(0, [])] * len(seq_ids)

    def _costs_beside(self, num_other_tokens: int, most: int) -> Sequence[float]:
        """Return what steps of n rows cost beside so many tokens of prompts, for n up to `most` at least."""
        if not num_other_tokens:
            return self._costs_s
        estimates = [self._cost_model.estimate_s(num_other_tokens + n) for n in range(most + 1)]
        return [cost for cost in estimates if cost is not None]

    def _count_step(self) -> None:
        if self._num_steps % _REFRESH_STEPS == 0 or not self._costs_s:
            estimates = [self._cost_model.estimate_s(n) for n in range(self._max_rows + 1)]
            self._costs_s = [cost for cost in estimates if cost is not None]
        self._num_steps += 1
        if self._num_steps % _FORGET_STEPS == 0:
            self._ngrams.forget()
            if self._model:
                self._model.acceptance.forget()
