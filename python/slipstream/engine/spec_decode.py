"""What speculation has to decide and to count; drafting and verifying are the runner's work."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_DRAFT_TOKENS = 16  # of one sequence in one step
_MATCH_BUCKETS = (3, 5, 8, 16)  # a match of at least this length is in the next bucket
_PRIOR_MEANS = (
    0.35,
    0.5,
    0.65,
    0.8,
    0.9,
)  # acceptance per position before anything was seen, by bucket
_PRIOR_WEIGHT = 4.0
_MAX_AT_RISK = 200.0
_LEAST_SURVIVAL = 0.05


def accept_longest_prefix(draft_token_ids: Sequence[int], sampled_token_ids: Sequence[int]) -> int:
    """Return how many draft tokens agree with what the target sampled (exact verification).

    `sampled_token_ids[i]` is what the target sampled in place of `draft_token_ids[i]`, given the drafts before it;
    it means something only while all drafts before it agree. One more token than was drafted may follow (what the
    target says after the last draft), and the runner may have stopped sampling at the first disagreement. The
    output of a step is `sampled_token_ids[: accepted + 1]`: the same tokens as without drafts, with one random
    number drawn per token, so a seed gives the same output either way.

    Args:
        draft_token_ids: Proposed tokens.
        sampled_token_ids: The target's own tokens at these positions, and maybe one further.

    Returns:
        0 … len(draft_token_ids).
    """
    num_accepted = 0
    for draft, sampled in zip(draft_token_ids, sampled_token_ids, strict=False):
        if draft != sampled:
            break
        num_accepted += 1
    return num_accepted


class SpeculationCounters(msgspec.Struct, array_like=True):
    """What became of the draft tokens of one request. The last three add up to the first.

    Attributes:
        num_drafted: Proposed to the target.
        num_accepted: Were what the target sampled.
        num_rejected: Were not; at most one a step.
        num_ignored: Came after a rejected one, so that they were never judged.
    """

    num_drafted: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    num_ignored: int = 0

    def record(self, num_drafted: int, num_accepted: int) -> None:
        """Count one verified step.

        Args:
            num_drafted: Tokens proposed in this step.
            num_accepted: Of those, how many were accepted.

        Raises:
            ValueError: not 0 <= num_accepted <= num_drafted.
        """
        if not 0 <= num_accepted <= num_drafted:
            message = f"{num_accepted} accepted of {num_drafted} draft tokens; expected 0 to {num_drafted}"
            raise ValueError(message)
        num_rejected = 1 if num_accepted < num_drafted else 0
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self.num_rejected += num_rejected
        self.num_ignored += num_drafted - num_accepted - num_rejected


class AcceptanceModel:
    """How likely n-gram drafts are right: by the length of the match they came from and by position.

    ::

        match length   2 | 3-4 | 5-7 | 8-15 | 16+        per bucket and position: a Beta estimate
        survival(j)  = a_1 * a_2 * ... * a_j             a_j = (prior + accepted_j) / (weight + at risk_j)

    A position is at risk only if all drafts before it were accepted, so that late positions are not blamed for
    early ones. Counts are halved beyond a limit and by `forget`, so that the estimates follow the text and a drafter
    that was switched off is tried again some day. One thread.
    """

    def __init__(self) -> None:
        self._at_risk = [[0.0] * MAX_DRAFT_TOKENS for _ in _PRIOR_MEANS]
        self._accepted = [[0.0] * MAX_DRAFT_TOKENS for _ in _PRIOR_MEANS]
        self._survival: list[list[float] | None] = [None] * len(_PRIOR_MEANS)

    def record(self, match_length: int, num_drafted: int, num_accepted: int) -> None:
        """Learn from one verified draft."""
        bucket = bisect_right(_MATCH_BUCKETS, match_length)
        at_risk, accepted = self._at_risk[bucket], self._accepted[bucket]
        for position in range(min(num_accepted + 1, num_drafted)):
            at_risk[position] += 1.0
            if position < num_accepted:
                accepted[position] += 1.0
            if at_risk[position] > _MAX_AT_RISK:
                at_risk[position] /= 2
                accepted[position] /= 2
        self._survival[bucket] = None

    def survival(self, match_length: int) -> list[float]:
        """Return the chance that drafts 1 … j are all accepted, for each j. Not to be changed."""
        bucket = bisect_right(_MATCH_BUCKETS, match_length)
        known = self._survival[bucket]
        if known is None:
            prior = _PRIOR_MEANS[bucket] * _PRIOR_WEIGHT
            chance, known = 1.0, []
            for at_risk, accepted in zip(
                self._at_risk[bucket], self._accepted[bucket], strict=True
            ):
                chance *= (prior + accepted) / (_PRIOR_WEIGHT + at_risk)
                known.append(chance)
            self._survival[bucket] = known
        return known

    def forget(self) -> None:
        """Halve what was learnt."""
        for table in (self._at_risk, self._accepted):
            for row in table:
                row[:] = [count / 2 for count in row]
        self._survival = [None] * len(_PRIOR_MEANS)


def plan_drafts(
    survivals: Sequence[Sequence[float]], num_base_tokens: int, costs_s: Sequence[float], limit: int
) -> list[int]:
    """Choose how many drafts each sequence verifies in a step, for the most tokens per second.

    A step of R sequences with m drafts computes n = R + m rows in T(n) seconds and gives R + (sum of the survivals
    of those drafts) tokens. Drafts are taken in order of survival over all sequences, which keeps every sequence's
    drafts a prefix, and m is where tokens over seconds is highest: 0 where drafts do not pay. All m are looked at,
    not just the first that falls, because T(n) has plateaus.

    Args:
        survivals: Per sequence, the chance that its drafts 1 … j are all accepted; falling.
        num_base_tokens: Rows the step has anyway, at least as many as sequences.
        costs_s: costs_s[n] is T(n); drafts beyond its length are not considered.
        limit: Most drafts in the step.

    Returns:
        Drafts per sequence, in the order of `survivals`. O(drafts * log drafts).
    """
    candidates = sorted(
        (
            (-chance, sequence)
            for sequence, chances in enumerate(survivals)
            for chance in chances
            if chance >= _LEAST_SURVIVAL
        ),
    )[: min(limit, len(costs_s) - 1 - num_base_tokens)]
    num_tokens = float(len(survivals))
    best_rate, best = num_tokens / costs_s[num_base_tokens], 0
    for index, (chance, _sequence) in enumerate(candidates):
        num_tokens -= chance
        rate = num_tokens / costs_s[num_base_tokens + index + 1]
        if rate > best_rate:
            best_rate, best = rate, index + 1
    counts = [0] * len(survivals)
    for _chance, sequence in candidates[:best]:
        counts[sequence] += 1
    return counts
