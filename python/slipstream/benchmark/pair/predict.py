"""Speed-ups from readings and costs: the rounds a text needs, times what each of them takes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.benchmark.pair.acceptance import Acceptance, count, replay
from slipstream.benchmark.pair.costs import Costs
from slipstream.benchmark.pair.data import TARGET, grouped
from slipstream.benchmark.pair.plan import MAX_ROWS_DRAFTED, NGRAM, PROBABILITY_CUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.data import Block, Measured
    from slipstream.benchmark.pair.live import Text
    from slipstream.benchmark.pair.plan import PairSettings

    Rounds = list[tuple[int, int]]  # (offered, accepted) of each step of a text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What drafting with one length is expected to do.

    Attributes:
        gamma: Draft length.
        cut: Probability below which the draft model stops.
        acceptance: What becomes of the drafts.
        plain_s: Seconds that the texts take without drafts.
        drafted_s: With them.
    """

    gamma: int
    cut: float
    acceptance: Acceptance
    plain_s: float
    drafted_s: float

    @property
    def speedup(self) -> float:
        """Tokens per second beside none."""
        return self.plain_s / self.drafted_s

    @property
    def plain_tokens_per_s(self) -> float:
        """Without drafts, of all requests together."""
        return self.acceptance.num_tokens / self.plain_s


@dataclass(frozen=True, slots=True)
class _Prices:
    """What steps cost, all timed under the same conditions."""

    target: Costs
    draft: Costs | None  # None: drafts cost nothing
    overhead_s: float

    def step_s(self, num_rows: float) -> float:
        return self.target.seconds(num_rows) + self.overhead_s

    def draft_s(self, num_rows: float) -> float:
        """Seconds of a draft token; the two models may have been timed while the machine had another speed."""
        if self.draft is None:
            return 0.0
        return self.draft.seconds(num_rows) / self.draft.step_s * self.target.seconds(1)


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
        self._replayed: dict[tuple[str, str, float, int, float], list[Rounds]] = {}
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
        return self._prices(candidate).draft_s(num_rows) / self.step_s

    def _prices(self, candidate: str) -> _Prices:
        draft = None if candidate == NGRAM else self._measured.costs[candidate]
        return _Prices(self._target, draft, self.overhead_s)

    def _prices_of(self, candidate: str, block: Block) -> _Prices:
        """Return the costs timed along with a block."""
        target, *drafts = [Costs.of_json(costs) for costs in block.costs]
        draft = drafts[0] if drafts and candidate != NGRAM else None
        return _Prices(target, draft, self.overhead_s)

    def predict(
        self,
        candidate: str,
        temperature: float,
        gamma: int,
        *,
        batch: int = 1,
        cut: float = 0.0,
        category: str | None = None,
        blocks: Sequence[Block] = (),
    ) -> Prediction | None:
        """Return what one draft length does; None where nothing was read, or a batch has no room for it.

        Args:
            candidate: A draft model's name, or NGRAM.
            temperature: Of the texts.
            gamma: Draft length.
            batch: Requests at the same time.
            cut: Probability below which the draft model stops.
            category: Of the texts; None for all.
            blocks: Live ones: foretells what they come to at the costs that were timed along with each, to compare.
        """
        if batch * gamma > MAX_ROWS_DRAFTED:
            return None
        by_name = {t.name: t for t in self._measured.texts_of(temperature, category)}
        prices = self._prices(candidate)
        groups = [(group, prices) for group in grouped(list(by_name.values()), batch)]
        if blocks:
            groups = [
                ([by_name[name] for name in block.names], self._prices_of(candidate, block))
                for block in blocks
            ]
        rounds: list[tuple[int, int]] = []
        plain_s = drafted_s = 0.0
        for texts, prices in groups:
            replays = [self._replays(candidate, text, temperature, gamma, cut) for text in texts]
            if not all(replays):
                continue  # one of them was not read: the run was interrupted
            for together in zip(*replays, strict=True):
                plain_s += _plain_s(prices, together)
                drafted_s += _drafted_s(prices, together, gamma if cut > 0 else 0)
                rounds += [step for replayed in together for step in replayed]
        if not drafted_s:
            return None
        return Prediction(
            gamma=gamma, cut=cut, acceptance=count(rounds), plain_s=plain_s, drafted_s=drafted_s
        )

    def _replays(
        self, candidate: str, text: Text, temperature: float, gamma: int, cut: float
    ) -> list[Rounds]:
        """Return the rounds of each reading of a text; batches, categories and live blocks share them."""
        settings = self._settings
        key = (candidate, text.name, temperature, gamma, cut)
        if key not in self._replayed:
            readings = self._measured.readings(
                candidate, text, temperature, cut, is_drawn=settings.verify == "distribution"
            )
            self._replayed[key] = [replay(r, gamma, settings.num_tokens) for r in readings]
        return self._replayed[key]

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


def _plain_s(prices: _Prices, together: Sequence[Rounds]) -> float:
    """Return the seconds of some texts at the same time without drafts: the batch shrinks as they end."""
    lengths = [sum(accepted + 1 for _, accepted in rounds) for rounds in together]
    return sum(
        prices.step_s(sum(place < length for length in lengths))
        for place in range(max(lengths, default=0))
    )


def _drafted_s(prices: _Prices, together: Sequence[Rounds], gamma: int) -> float:
    """Return the same with drafts, whose rounds are verified in one step.

    The draft model computes one row for each sequence and draft, and the last draft of the step before, too, where
    that was accepted.

    Args:
        prices: Of steps.
        together: The rounds of each text.
        gamma: Draft length where drafts stop at a cut, as that is found out by computing the token; else 0.
    """
    total_s = 0.0
    for place in range(max(map(len, together), default=0)):
        running = [rounds for rounds in together if place < len(rounds)]
        offers = [rounds[place][0] for rounds in running]
        total_s += prices.step_s(len(running) + sum(offers))
        computed = [min(gamma, offer + 1) if gamma else offer for offer in offers]
        for depth in range(max(computed)):
            num_rows = sum(depth < num for num in computed)
            if depth == 0 and place > 0:
                num_rows += sum(
                    num > 0 and 0 < rounds[place - 1][0] == rounds[place - 1][1]
                    for num, rounds in zip(computed, running, strict=True)
                )
            total_s += prices.draft_s(num_rows)
    return total_s
