"""How many threads share a step of few tokens: fewer where other programs take the cores away. Knows no model."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ROWS = 16  # steps of more tokens are long between two barriers, and their shares are claimed, not dealt out
_MISSING = 0.2  # threads that had no core, from which on fewer are tried
_SMOOTHING = 0.2
_MIN_STEPS = 8  # seen before a trial
_TRIAL_STEPS = 4  # of each number of threads
_GAIN = 0.95  # a trial wins with at most this share of the time
_SHORTEST_S, _LONGEST_S = 0.25, 16.0  # between trials
_ROW_SHARE = 0.1  # of one row's time, for each further row; only to compare steps of several sizes


class ThreadChoice:
    """Chooses the threads of each step by what steps took. One thread at a time.

    All threads of a step wait for each other some hundred times. When another program takes a core, the thread that
    lost it holds up all others, and n threads can be slower than n - 1 that keep their cores: on two cores beside a
    busy loop one thread is twice as fast as two. Threads spin while they wait, so a step that had its cores used n
    times its time of CPU. Where it used less, fewer threads are tried, in turn with as many as before, and kept if
    they are quicker. From time to time one more is tried. A trial that loses doubles the time to the next one.

    Args:
        most: Threads on a machine that is ours alone.
        wall_s: Clock.
        cpu_s: CPU time of this process. Work it does beside the steps hides cores that were lost.

    Attributes:
        num_trials: Begun so far.
    """

    def __init__(
        self,
        most: int,
        *,
        wall_s: Callable[[], float] = time.perf_counter,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self.num_trials = 0
        self._most = self._chosen = most
        self._wall_s, self._cpu_s = wall_s, cpu_s
        self._missing = 0.0
        self._num_steps = 0  # since the last decision
        self._tried = 0  # number of threads under trial; 0: none
        self._samples: tuple[list[float], list[float]] = ([], [])  # of the chosen and the tried
        self._wait_s = _SHORTEST_S
        self._next_trial_s = 0.0
        self._rows = self._running = 0
        self._begin = (0.0, 0.0)

    def begin_step(self, num_rows: int) -> int:
        """Return the threads for a step of so many tokens, which begins now."""
        self._rows, self._running = num_rows, self._most
        if num_rows <= MAX_ROWS:
            chosen, tried = self._samples
            self._running = self._tried if len(tried) < len(chosen) else self._chosen
            self._begin = self._wall_s(), self._cpu_s()
        return self._running

    def end_step(self) -> None:
        """Note that the step is done. Not for one that failed."""
        if self._rows > MAX_ROWS or self._most == 1:
            return
        now_s = self._wall_s()
        seconds = max(now_s - self._begin[0], 1e-9)
        if self._tried:
            sample = seconds / (1 + _ROW_SHARE * (self._rows - 1))
            self._samples[self._running == self._tried].append(sample)
            if len(self._samples[1]) == _TRIAL_STEPS:
                self._decide(now_s)
            return
        missing = self._running - (self._cpu_s() - self._begin[1]) / seconds
        self._missing += _SMOOTHING * (missing - self._missing)
        self._num_steps += 1
        if self._num_steps >= _MIN_STEPS and now_s >= self._next_trial_s:
            self._begin_trial()

    def _begin_trial(self) -> None:
        if self._missing > _MISSING and self._chosen > 1:
            # A busy program that shares a core with a thread leaves it half of it.
            num_others = max(1, round(2 * self._missing))
            self._tried = max(1, self._chosen - num_others)
        elif self._chosen < self._most:
            self._tried = self._chosen + 1
        else:
            return
        self.num_trials += 1
        self._samples = ([], [])

    def _decide(self, now_s: float) -> None:
        chosen, tried = map(statistics.median, self._samples)
        if tried < _GAIN * chosen:
            self._chosen, self._wait_s = self._tried, _SHORTEST_S
        else:
            self._wait_s = min(2 * self._wait_s, _LONGEST_S)
        self._tried, self._samples = 0, ([], [])
        self._missing, self._num_steps = 0.0, 0
        self._next_trial_s = now_s + self._wait_s
