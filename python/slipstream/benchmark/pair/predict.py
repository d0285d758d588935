"""Speed-ups from readings and costs: the rounds a text needs, times what each of them takes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.benchmark.pair.acceptance import Acceptance, count, replay
from slipstream.benchmark.pair.data import TARGET, grouped
from slipstream.benchmark.pair.plan import MAX_ROWS_DRAFTED, NGRAM, PROBABILITY_CUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.data import Measured
    from slipstream.benchmark.pair.live import Text
    from slipstream.benchmark.pair.plan import PairSettings

    Rounds = list[tuple[int, int]]  # (offered, accepted) of each step of a text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What drafting with one length is expected to do.

    Attributes:
        gamma: Draft length.
        cut: Probability below which the draft model stops.
        speedup: Tokens per second beside none.
        acceptance: What becomes of the drafts.
        plain_tokens_per_s: Without drafts, of all requests together.
    """

    gamma: int
    cut: float
    speedup: float
    acceptance: Acceptance
    plain_tokens_per_s: float


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
        """Return what the engine adds to a step, planning and handing out, from the texts' own generation."""
        found = [t.overhead_s for texts in self._measured.texts.values() for t in texts.values()]
        return statistics.median(found) if found else 0.0

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
        costs = self._measured.costs[candidate]
        return costs.seconds(num_rows) / costs.step_s

    def predict(
        self,
        candidate: str,
        temperature: float,
        gamma: int,
        *,
        batch: int = 1,
        cut: float = 0.0,
        category: str | None = None,
        groups: Sequence[Sequence[str]] = (),
    ) -> Prediction | None:
        """Return what one draft length does; None where nothing was read, or a batch has no room for it.

        Args:
            candidate: A draft model's name, or NGRAM.
            temperature: Of the texts.
            gamma: Draft length.
            batch: Requests at the same time.
            cut: Probability below which the draft model stops.
            category: Of the texts; None for all.
            groups: Names of the texts that run at the same time, of each group; as the live runs have them if empty.
        """
        if batch * gamma > MAX_ROWS_DRAFTED:
            return None
        by_name = {t.name: t for t in self._measured.texts_of(temperature, category)}
        if not groups:
            found = grouped(list(by_name.values()), batch)
            groups = [[text.name for text in group] for group in found]
        rounds: list[tuple[int, int]] = []
        plain_s = drafted_s = 0.0
        for group in groups:
            replays = [
                self._replays(candidate, by_name[name], temperature, gamma, cut) for name in group
            ]
            if not all(replays):
                continue  # one of them was not read: the run was interrupted
            for together in zip(*replays, strict=True):
                plain_s += self._plain_s(together)
                drafted_s += self._drafted_s(candidate, together, gamma if cut > 0 else 0)
                rounds += [step for replayed in together for step in replayed]
        if not drafted_s:
            return None
        acceptance = count(rounds)
        return Prediction(
            gamma=gamma,
            cut=cut,
            speedup=plain_s / drafted_s,
            acceptance=acceptance,
            plain_tokens_per_s=acceptance.num_tokens / plain_s,
        )

    def _replays(
        self, candidate: str, text: Text, temperature: float, gamma: int, cut: float
    ) -> list[Rounds]:
        readings = self._measured.readings(
            candidate, text, temperature, cut, is_drawn=self._settings.verify == "distribution"
        )
        return [replay(reading, gamma, self._settings.num_tokens) for reading in readings]

    def _plain_s(self, together: Sequence[Rounds]) -> float:
        """Return the seconds of some texts at the same time without drafts: the batch shrinks as they end."""
        lengths = [sum(accepted + 1 for _, accepted in rounds) for rounds in together]
        return sum(
            self._step_s(sum(place < length for length in lengths))
            for place in range(max(lengths, default=0))
        )

    def _drafted_s(self, candidate: str, together: Sequence[Rounds], gamma: int) -> float:
        """Return the same with drafts, whose rounds are verified in one step.

        The draft model computes one row for each sequence and draft, and the last draft of the step before, too,
        where that was accepted.

        Args:
            candidate: Whose drafts.
            together: The rounds of each text.
            gamma: Draft length where drafts stop at a cut, as that is found out by computing the token; else 0.
        """
        total_s = 0.0
        for place in range(max(map(len, together), default=0)):
            running = [rounds for rounds in together if place < len(rounds)]
            offers = [rounds[place][0] for rounds in running]
            total_s += self._step_s(len(running) + sum(offers))
            computed = [min(gamma, offer + 1) if gamma else offer for offer in offers]
            for depth in range(max(computed)):
                num_rows = sum(depth < num for num in computed)
                if depth == 0 and place > 0:
                    num_rows += sum(
                        num > 0 and 0 < rounds[place - 1][0] == rounds[place - 1][1]
                        for num, rounds in zip(computed, running, strict=True)
                    )
                total_s += self.draft(candidate, num_rows) * self.step_s
        return total_s

    def _step_s(self, num_rows: int) -> float:
        return self._target.seconds(num_rows) + self.overhead_s

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
