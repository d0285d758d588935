"""How likely a draft token is right, learnt from what became of earlier ones. Knows no requests."""

from __future__ import annotations

from bisect import bisect_right

from slipstream.base.limits import MAX_DRAFT_TOKENS

_MATCH_BUCKETS = (3, 5, 8, 16)  # a match of at least this length is in the next bucket
_NGRAM_PRIORS = (0.35, 0.5, 0.65, 0.8, 0.9)  # acceptance before anything was seen, by bucket
_CONFIDENCE_BUCKETS = (0.3, 0.5, 0.7, 0.85, 0.95)
_MODEL_PRIORS = (0.25, 0.4, 0.6, 0.75, 0.88, 0.96)
_MODEL_RATE_PRIOR = 0.65
_PRIOR_WEIGHT = 4.0
_MAX_AT_RISK = 200.0


class NgramAcceptance:
    """How likely n-gram drafts are right: by the length of the match they came from and by position.

    ::

        match length   2 | 3-4 | 5-7 | 8-15 | 16+        per bucket and position: a Beta estimate
        survival(j)  = a_1 * a_2 * ... * a_j             a_j = (prior + accepted_j) / (weight + at risk_j)

    A position is at risk only if all drafts before it were accepted, so that late positions are not blamed for
    early ones. Counts are halved beyond a limit and by `forget`, so that the estimates follow the text and a drafter
    that was switched off is tried again some day. One thread.
    """

    def __init__(self) -> None:
        self._at_risk = [[0.0] * MAX_DRAFT_TOKENS for _ in _NGRAM_PRIORS]
        self._accepted = [[0.0] * MAX_DRAFT_TOKENS for _ in _NGRAM_PRIORS]
        self._survival: list[list[float] | None] = [None] * len(_NGRAM_PRIORS)

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
            prior = _NGRAM_PRIORS[bucket] * _PRIOR_WEIGHT
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
        self._survival = [None] * len(_NGRAM_PRIORS)


class Estimate:
    """A chance as a Beta estimate: what was seen, and a prior that counts as a few observations.

    Args:
        prior: The chance before anything was seen.
    """

    __slots__ = ("_accepted", "_at_risk", "_prior")

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._at_risk = self._accepted = 0.0

    @property
    def chance(self) -> float:
        """The estimate."""
        return (self._prior * _PRIOR_WEIGHT + self._accepted) / (_PRIOR_WEIGHT + self._at_risk)

    def record(self, is_accepted: bool) -> None:
        """Learn from one token that was at risk."""
        self._at_risk += 1.0
        self._accepted += is_accepted
        if self._at_risk > _MAX_AT_RISK:
            self.forget()

    def forget(self) -> None:
        """Halve what was learnt."""
        self._at_risk /= 2
        self._accepted /= 2


class ModelAcceptance:
    """How likely the tokens of a draft model are right, by its confidence. Calibrates it, in other words.

    Attributes:
        next_token: Of a next draft of whatever confidence.
    """

    def __init__(self) -> None:
        self._by_confidence = [Estimate(prior) for prior in _MODEL_PRIORS]
        self.next_token = Estimate(_MODEL_RATE_PRIOR)

    def chance(self, confidence: float) -> float:
        """Return the chance that a token is right, given that those before it are."""
        return self._by_confidence[bisect_right(_CONFIDENCE_BUCKETS, confidence)].chance

    def record(self, confidences: list[float], num_accepted: int) -> None:
        """Learn from one verified draft: its tokens up to the first that was rejected."""
        for position, confidence in enumerate(confidences[: num_accepted + 1]):
            is_accepted = position < num_accepted
            self._by_confidence[bisect_right(_CONFIDENCE_BUCKETS, confidence)].record(is_accepted)
            self.next_token.record(is_accepted)

    def forget(self) -> None:
        """Halve what was learnt."""
        for estimate in (*self._by_confidence, self.next_token):
            estimate.forget()
