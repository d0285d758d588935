"""Speed-ups from readings and costs: the rounds a text needs, times what each of them takes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.benchmark.pair.acceptance import Acceptance, count
from slipstream.benchmark.pair.data import TARGET
from slipstream.benchmark.pair.plan import MAX_ROWS_DRAFTED, NGRAM, PROBABILITY_CUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.data import Measured
    from slipstream.benchmark.pair.plan import PairSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What drafting with one length is expected to do.

    Attributes:
        gamma: Draft length.
        cut: Probability below which the draft model stops.
        speedup: Tokens per second beside none.
        acceptance: What becomes of the drafts.
    """

    gamma: int
    cut: float
    speedup: float
    acceptance: Acceptance


class Predictor:
    """Predicts from what is measured.

    Args:
        measured: Has costs, texts and readings.
        settings: Of the run.
    """

    def __init__(self, measured: Measured, settings: PairSettings) -> None:
        self._measured = measured
        self._settings = settings
        self._target = measured.costs[TARGET]
        self.step_s = self._target.seconds(1)
        self.overhead_s = self._overhead_s()

    def _overhead_s(self) -> float:
        """Return what the engine adds to a step: sampling, planning, handing out. From the texts' own generation."""
        per_token = [
            text.decode_s / (len(text.output) - 1)
            for texts in self._measured.texts.values()
            for text in texts.values()
            if len(text.output) > 1 and text.decode_s > 0
        ]
        return max(0.0, statistics.median(per_token) - self.step_s) if per_token else 0.0

    @property
    def overhead(self) -> float:
        """The same in plain steps: o."""
        return self.overhead_s / self.step_s

    def verify(self, num_rows: float) -> float:
        """Return V(n): what a step of n rows costs, in plain steps."""
        return self._target.seconds(num_rows) / self.step_s

    def draft(self, candidate: str, num_rows: float = 1) -> float:
        """Return c: what a draft token of so many sequences costs, in plain steps; 0 for n-grams."""
        if candidate == NGRAM:
            return 0.0
        return self._measured.costs[candidate].seconds(num_rows) / self.step_s

    def predict(
        self,
        candidate: str,
        temperature: float,
        gamma: int,
        *,
        batch: int = 1,
        cut: float = 0.0,
        category: str | None = None,
    ) -> Prediction | None:
        """Return what one draft length does; None where nothing was read, or a batch has no room for it."""
        if batch * gamma > MAX_ROWS_DRAFTED:
            return None
        texts = self._measured.texts_of(temperature, category)
        rounds = self._measured.rounds(
            candidate, texts, temperature, gamma, cut, self._settings.num_tokens
        )
        if not rounds:
            return None
        found = count(rounds)
        c, o = self.draft(candidate, batch), self.overhead
        if batch == 1:
            cost = sum(
                # A cut is found out by computing the token that falls below it.
                (offered + (cut > 0 and offered < gamma)) * c + self.verify(1 + offered) + o
                for offered, _ in rounds
            )
        else:
            offered = found.drafted / found.num_rounds
            cost = found.num_rounds * (offered * c + self.verify(batch * (1 + offered)) + o)
        plain = found.num_tokens * (self.verify(batch) + o)
        return Prediction(gamma=gamma, cut=cut, speedup=plain / cost, acceptance=found)

    def by_gamma(
        self, candidate: str, temperature: float, batch: int = 1, category: str | None = None
    ) -> list[Prediction]:
        """Return the predictions of all draft lengths asked for."""
        found = [
            self.predict(candidate, temperature, gamma, batch=batch, category=category)
            for gamma in sorted(self._settings.gammas)
        ]
        return [prediction for prediction in found if prediction]

    def best(
        self, candidate: str, temperature: float, batch: int = 1, category: str | None = None
    ) -> Prediction | None:
        """Return the fastest draft length, though it may be slower than none."""
        return fastest(self.by_gamma(candidate, temperature, batch, category))

    def best_cut(self, candidate: str, temperature: float) -> Prediction | None:
        """Return the fastest pair of draft length and probability cut, for engines that have such a setting."""
        found = [
            self.predict(candidate, temperature, gamma, cut=cut)
            for gamma in sorted(self._settings.gammas)
            for cut in PROBABILITY_CUTS
        ]
        return fastest([prediction for prediction in found if prediction])


def fastest(predictions: Sequence[Prediction]) -> Prediction | None:
    """Return the one with the highest speed-up."""
    return max(predictions, key=lambda p: p.speedup) if predictions else None
