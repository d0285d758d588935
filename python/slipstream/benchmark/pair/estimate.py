"""How long a run will take, from the costs of steps: for the promise at its beginning and the time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.benchmark.pair.plan import NGRAM, arms_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.plan import PairSettings
    from slipstream.benchmark.pair.prompts import PairPrompt

_CHARS_PER_TOKEN = 4
_ASSUMED_STEP_S = 0.05
_ROWS = 32  # of a step that reads a prompt
_LOAD_S = 10.0  # of models and costs
_READ_SHARE = 0.35  # of writing a text, to read it with the target and a draft model
_WARM_SHARE = 0.15  # of an arm
_TIMED_STEPS = 24  # before each block, to time what its steps take


class Estimate:
    """Seconds of the parts of a run.

    Args:
        settings: Of the run.
        prompts: Of the run.
        num_drafts: Draft models.
        ngram: N-grams are looked at, too.

    Attributes:
        text_s: Of writing one text.
        scan_s: Of reading one with one model.
        arm_s: Of one request of one arm.
        timing_s: Of timing the steps of a block, for each of its requests.
    """

    def __init__(
        self,
        settings: PairSettings,
        prompts: Sequence[PairPrompt],
        num_drafts: int,
        *,
        ngram: bool,
    ) -> None:
        self._settings = settings
        self._num_texts = max(1, len(prompts) * len(settings.temperatures))
        chars = sum(len(m["content"]) for prompt in prompts for m in prompt.messages)
        self._prompt_tokens = chars / _CHARS_PER_TOKEN / max(1, len(prompts))
        self._num_drafts = num_drafts
        self._num_sessions = self._sessions()
        gammas = sorted(settings.gammas)
        middle = gammas[len(gammas) // 2]
        name = "draft" if num_drafts else NGRAM
        self._num_arms = [
            len(arms_of(name, middle, gammas, middle if ngram else None, batch))
            for batch in settings.batches
        ]
        self._done_s = 0.0
        self.learn([(1, _ASSUMED_STEP_S), (_ROWS, 3 * _ASSUMED_STEP_S)])

    def _sessions(self) -> int:
        if self._settings.confirm == "none":
            return 0
        return max(1, self._num_drafts) if self._settings.confirm == "all" else 1

    def learn(self, curve: Sequence[tuple[float, float]]) -> None:
        """Take over (rows, seconds) of steps of the target, rising."""
        if curve:
            step_s = curve[0][1]
            row_s = min(seconds / rows for rows, seconds in curve)
            read_s = self._prompt_tokens * row_s
            self.text_s = read_s + self._settings.num_tokens * step_s
            self.scan_s = self.text_s * _READ_SHARE
            self.arm_s = self._settings.num_tokens * step_s * (1 + _WARM_SHARE)
            self.timing_s = read_s + _TIMED_STEPS * step_s
        passes = self._settings.blocks * self._num_sessions
        self._total_s = _LOAD_S + self._num_texts * (
            self.text_s
            + (1 + self._num_drafts) * self.scan_s
            + passes * (sum(self._num_arms) * self.arm_s + len(self._num_arms) * self.timing_s)
        )

    def add(self, seconds: float) -> tuple[float, float]:
        """Count expected seconds as done, and return those done and in all."""
        self._done_s += seconds
        return min(self._done_s, self._total_s), self._total_s

    @property
    def seconds_left(self) -> float:
        """Expected seconds that are not done."""
        return max(0.0, self._total_s - self._done_s)
