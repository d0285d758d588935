"""What speculation has to decide and to count; drafting and verifying are the runner's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_SURVIVAL = 0.05


class SpeculationCounters(msgspec.Struct, array_like=True):
    """What became of the draft tokens of one request. The last three add up to the first.

    Attributes:
        num_drafted: Proposed to the target.
        num_accepted: Were what the target sampled.
        num_rejected: Were not; at most one a step.
        num_ignored: Came after a rejected one, so that they were never judged.
        positions: By position in the draft: how many tokens were judged there, all before them being accepted, and how
            many of those were accepted.
    """

    num_drafted: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    num_ignored: int = 0
    positions: list[tuple[int, int]] = []

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
        num_judged = min(num_accepted + 1, num_drafted)
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self.num_rejected += num_judged - num_accepted
        self.num_ignored += num_drafted - num_judged
        positions = self.positions
        while len(positions) < num_judged:
            positions.append((0, 0))
        for position in range(num_judged):
            at_risk, accepted = positions[position]
            positions[position] = (at_risk + 1, accepted + (position < num_accepted))


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


def plan_depth(
    chances: Sequence[float],
    num_base_tokens: int,
    costs_s: Sequence[float],
    draft_costs_s: Sequence[float],
    limit: int,
) -> tuple[int, float]:
    """Choose how deep a draft model looks ahead, before it has, for the most tokens per second.

    With depth d, R sequences of which A draft get R + sum over the A of (a + a^2 + ... + a^d) tokens in
    T(n + A d) + d T_draft(A) seconds, where a is the chance that a next draft of the sequence is right.

    Args:
        chances: Per drafting sequence, a.
        num_base_tokens: Rows the step has anyway, n; R of them are one for each sequence.
        costs_s: costs_s[n] is T(n).
        draft_costs_s: draft_costs_s[n] is what the draft model takes for n tokens.
        limit: The largest depth.

    Returns:
        The depth, 0 if none pays, and the tokens per second expected of it.
    """
    num_drafting = len(chances)
    num_tokens = float(num_base_tokens)
    best_depth, best_rate = 0, num_tokens / costs_s[num_base_tokens]
    survivals = list(chances)
    for depth in range(1, limit + 1):
        num_rows = num_base_tokens + num_drafting * depth
        if num_rows >= len(costs_s) or num_drafting >= len(draft_costs_s):
            break
        num_tokens += sum(survivals)
        rate = num_tokens / (costs_s[num_rows] + depth * draft_costs_s[num_drafting])
        if rate > best_rate:
            best_depth, best_rate = depth, rate
        survivals = [survival * chance for survival, chance in zip(survivals, chances, strict=True)]
    return best_depth, best_rate
