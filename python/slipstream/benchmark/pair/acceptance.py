"""Acceptance counted right: rounds of a replay or a live run, and the figures made of them. Pure arithmetic.

A round verifies `offered` drafts, of which the first `accepted` are right, and gives accepted + 1 tokens. Only drafts
whose predecessors were all accepted are judged, so accepted / drafted is no acceptance rate: with a chance of 0.8 it
reads 0.65 at 3 drafts and 0.42 at 8. What is told here is accepted / judged, in all and by position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_PRECISION = 1e-6


@dataclass(frozen=True, slots=True)
class Reading:
    """What a drafter would have said along one text of the target; position 0 is the first output token.

    Attributes:
        runs: runs[i]: so many tokens from position i on are what the drafter says there in a row.
        offers: offers[i]: so many tokens it has to offer at i; the others are as good as rejected.
    """

    runs: tuple[int, ...]
    offers: tuple[int, ...]


def runs_of(matches: Sequence[bool]) -> tuple[int, ...]:
    """Return, for each position, how many matches stand there in a row. A draft of i + 1 … sees the target's own text
    as long as it is right, so a teacher-forced reading gives exactly what drafting would.
    """  # noqa: D205
    runs = [0] * (len(matches) + 1)
    for i in range(len(matches) - 1, -1, -1):
        runs[i] = runs[i + 1] + 1 if matches[i] else 0
    return tuple(runs[:-1])


def model_reading(
    matches: Sequence[bool], confidences: Sequence[float], cut: float = 0.0
) -> Reading:
    """Return the reading of a draft model that stops before a token it gives less than `cut`.

    Args:
        matches: Whether its likeliest token at each position is the target's.
        confidences: Probability it gives to that token.
        cut: 0 to 1; 0 never stops.
    """
    offers = [0] * (len(matches) + 1)
    # Behind its first wrong token the draft goes on along another text, whose confidences are not known; those tokens
    # are ignored whatever they are, so they count as offered.
    runs = runs_of(matches)
    for i in range(len(matches) - 1, -1, -1):
        if confidences[i] < cut:
            offers[i] = 0
        elif not matches[i]:
            offers[i] = len(matches)
        else:
            offers[i] = offers[i + 1] + 1
    return Reading(runs, tuple(offers[:-1]))


def replay(reading: Reading, gamma: int, num_tokens: int | None = None) -> list[tuple[int, int]]:
    """Return the rounds (offered, accepted) that give a text with at most `gamma` drafts each.

    Args:
        reading: Of the drafter.
        gamma: Draft length.
        num_tokens: Tokens the text may have at most; its last one is sampled, never drafted. None: as many as it has.
    """
    length = len(reading.runs)
    most = length if num_tokens is None else num_tokens
    rounds = []
    place = 1  # the prompt gives the first token
    while place < length:
        offered = max(0, min(gamma, reading.offers[place], most - place - 1))
        accepted = min(offered, reading.runs[place])
        rounds.append((offered, accepted))
        place += accepted + 1
    return rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What became of the drafts of some rounds. accepted + rejected + ignored = drafted.

    Attributes:
        num_rounds: Steps of verification, those without a draft among them.
        num_silent: Rounds without a draft.
        num_tokens: Tokens they gave.
        drafted: Drafts verified.
        accepted: Were right.
        rejected: Were not; at most one a round.
        ignored: Came behind a rejected one, and were never judged.
        positions: By position in a draft: judged there, and accepted of those.
    """

    num_rounds: int
    num_silent: int
    num_tokens: int
    drafted: int
    accepted: int
    rejected: int
    ignored: int
    positions: tuple[tuple[int, int], ...]

    @property
    def alpha(self) -> float | None:
        """Maximum-likelihood chance that a judged draft is right; None if none was judged."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None

    @property
    def tau(self) -> float:
        """Tokens per round, the target's own one among them."""
        return self.num_tokens / self.num_rounds if self.num_rounds else 0.0


def count(rounds: Iterable[tuple[int, int]]) -> Acceptance:
    """Add up rounds of (offered, accepted)."""
    positions: list[list[int]] = []
    num_rounds = num_silent = drafted = accepted = rejected = 0
    for offered, right in rounds:
        num_rounds += 1
        num_silent += offered == 0
        drafted += offered
        accepted += right
        rejected += right < offered
        judged = min(right + 1, offered)
        while len(positions) < judged:
            positions.append([0, 0])
        for place in range(judged):
            positions[place][0] += 1
            positions[place][1] += place < right
    return Acceptance(
        num_rounds=num_rounds,
        num_silent=num_silent,
        num_tokens=num_rounds + accepted,
        drafted=drafted,
        accepted=accepted,
        rejected=rejected,
        ignored=drafted - accepted - rejected,
        positions=tuple((judged, right) for judged, right in positions),
    )


def expected_tokens(alpha: float, gamma: int) -> float:
    """Return the tokens of a round whose drafts are each right with the same chance (arXiv 2211.17192, eq. 1)."""
    return gamma + 1.0 if alpha >= 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)


def speedup(alpha: float, gamma: int, c: float, v: Callable[[int], float], o: float = 0.0) -> float:
    """Return tokens per second beside plain decoding, for equal chances at every position.

    Args:
        alpha: Chance that a judged draft is right.
        gamma: Drafts of a round.
        c: What a draft token costs, in plain steps.
        v: v(n): what verifying n rows costs, in plain steps; v(1) = 1.
        o: What the engine adds to every step, in plain steps.
    """
    return expected_tokens(alpha, gamma) * (1 + o) / (gamma * c + v(gamma + 1) + o)


def best_speedup(
    alpha: float, gammas: Sequence[int], c: float, v: Callable[[int], float], o: float = 0.0
) -> tuple[int, float]:
    """Return the draft length that is fastest, and how fast."""
    return max(((g, speedup(alpha, g, c, v, o)) for g in gammas), key=lambda pair: pair[1])


def break_even_alpha(
    gammas: Sequence[int], c: float, v: Callable[[int], float], o: float = 0.0
) -> float | None:
    """Return the chance from which on some draft length pays; None if not even perfect drafts do."""
    if best_speedup(1.0, gammas, c, v, o)[1] <= 1:
        return None
    return _first_above(lambda alpha: best_speedup(alpha, gammas, c, v, o)[1])


def break_even_cost(
    alpha: float, gammas: Sequence[int], v: Callable[[int], float], o: float = 0.0
) -> float | None:
    """Return the dearest draft token, in plain steps, that still pays; None if not even free ones do."""
    costs = [
        (expected_tokens(alpha, g) * (1 + o) - v(g + 1) - o) / g for g in gammas
    ]  # speedup = 1, solved for c
    return max(costs) if max(costs) > 0 else None


def break_even_rows(
    alpha: float, gammas: Sequence[int], c: float, v: Callable[[int], float], o: float = 0.0
) -> tuple[int, float] | None:
    """Return the draft length that is nearest to paying, and the dearest V(length + 1) at which it would; None if that
    were below a plain step.
    """  # noqa: D205
    gamma, most = max(
        ((g, expected_tokens(alpha, g) * (1 + o) - g * c - o) for g in gammas),
        key=lambda pair: pair[1] / v(pair[0] + 1),
    )
    return (gamma, most) if most > 1 else None


def _first_above(rise: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if rise(middle) <= 1 else (low, middle)
    return high


def add_positions(drafts: Iterable[Sequence[tuple[int, int]]]) -> tuple[tuple[int, int], ...]:
    """Add up (judged, accepted) by position."""
    totals: list[list[int]] = []
    for positions in drafts:
        for place, (judged, accepted) in enumerate(positions):
            if place == len(totals):
                totals.append([0, 0])
            totals[place][0] += judged
            totals[place][1] += accepted
    return tuple((judged, accepted) for judged, accepted in totals)
