"""Microseconds of Python per engine step (schedule, update, events) with a runner that computes nothing.

    python bench/bench_scheduler.py [--steps N] [--repeats N] [--json FILE]

Each row is the median over the repeats of the mean step of one repeat; all requests decode, one token each a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.base.sampling import SamplingParams
from slipstream.benchmark.report import provenance
from slipstream.engine.request import Request, check_request
from slipstream.engine.runner import RunnerInfo, ScheduledSequence, StepResult
from slipstream.engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.engine.grammar import Matcher

NUM_REQUESTS = (1, 4, 16, 64)
PROMPT_TOKENS = 32
TARGET_US_AT_16 = 150.0


class CheapRunner:
    """Answers every sequence with the same token, from lists made beforehand."""

    def __init__(self, num_seqs: int, num_steps: int) -> None:
        length = PROMPT_TOKENS + num_steps + 8
        self.info = RunnerInfo(
            num_kv_cells=num_seqs * length,
            max_num_seqs=num_seqs,
            max_batch_tokens=max(512, num_seqs * PROMPT_TOKENS),
            max_sequence_length=length,
            can_trim=True,
            num_vocab=1000,
        )
        n = num_seqs
        self._result = StepResult([7] * n, [b" token"] * n, [False] * n, [None] * n, counts=[1] * n)

    def open_sequence(
        self,
        seq_id: int,
        sampling: SamplingParams,
        token_ids: Sequence[int],
        matcher: Matcher | None = None,
    ) -> None:
        pass

    def close_sequence(self, seq_id: int) -> None:
        pass

    def trim(self, seq_id: int, num_tokens: int) -> bool:
        return True

    def copy_prefix(self, source: int, seq_id: int, num_tokens: int) -> bool:
        return True

    def step(self, scheduled: Sequence[ScheduledSequence]) -> StepResult:
        return self._result

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


def step_us(num_requests: int, num_steps: int, stop: tuple[str, ...]) -> float:
    """Return the mean microseconds of a step in which every request decodes one token."""
    runner = CheapRunner(num_requests, num_steps)
    scheduler = Scheduler(runner)
    sampling = SamplingParams(stop=stop)
    for i in range(num_requests):
        request = Request(f"request-{i}", [i + 1] * PROMPT_TOKENS, sampling)
        check_request(request, runner.info)
        scheduler.add(request, time.monotonic())

    def step() -> None:
        output = scheduler.schedule(time.monotonic())
        scheduler.update_from_output(output, runner.step(output.scheduled), time.monotonic())
        events, ended_ids = scheduler.take_events()
        assert len(events) == num_requests
        assert not ended_ids

    for _ in range(5):  # the prompts, and a warm-up
        step()
    begin = time.perf_counter()
    for _ in range(num_steps):
        step()
    return (time.perf_counter() - begin) / num_steps * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    cases = [(n, stop) for n in NUM_REQUESTS for stop in ((), ("\n\nUser:", "</s>"))]
    times: dict[tuple[int, tuple[str, ...]], list[float]] = {case: [] for case in cases}
    for _ in range(args.repeats):  # interleaved, so that a slow moment hits every case
        for case in cases:
            times[case].append(step_us(case[0], args.steps, case[1]))
    rows = [
        {
            "num_running": n,
            "stop_strings": len(stop),
            "step_us": round(statistics.median(times[n, stop]), 1),
            "lowest_us": round(min(times[n, stop]), 1),
            "highest_us": round(max(times[n, stop]), 1),
        }
        for n, stop in cases
    ]
    print("running  stop strings  µs/step (median)     lowest    highest")
    for row in rows:
        print("{:7d}{:14d}{:18.1f}{:11.1f}{:11.1f}".format(*row.values()))
    print(f"target: {TARGET_US_AT_16:.0f} µs at 16 running")
    if args.json:
        settings = {"steps": args.steps, "repeats": args.repeats, "prompt_tokens": PROMPT_TOKENS}
        report = {
            "benchmark": "scheduler",
            **provenance(),
            "settings": settings,
            "bar_us_at_16": TARGET_US_AT_16,
            "rows": rows,
        }
        target = Path(args.json)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
