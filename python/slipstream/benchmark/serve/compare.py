"""Runs a workload over rounds, on one server or on several in turn, and compares them round by round.

Servers take turns within each round and the order turns around from one round to the next, so that what slows the
machine slows all of them. Every server gets the same texts in a round, and every round has new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve.client import Client, Target
from slipstream.benchmark.serve.driver import Load, Run, run_workload
from slipstream.benchmark.serve.figures import Figures, Slo, figures_of
from slipstream.benchmark.serve.workloads import make_workload
from slipstream.benchmark.stats import Ratio, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.benchmark.serve.client import Result

    Progress = Callable[[str, int, int], None]

MAX_ROUNDS = 1000
_OTHER_TEXTS = (
    1_000_000  # added to the seed where a server must not know the texts from its other arm
)


def _percentile_of(values: str, which: str) -> Callable[[Figures], float | None]:
    """Return what picks one percentile of the figures, None where there are no samples."""

    def pick(figures: Figures) -> float | None:
        percentiles = getattr(figures, values)
        return None if percentiles is None else float(getattr(percentiles, which))

    return pick


_COMPARED: dict[str, Callable[[Figures], float | None]] = {
    "output tok/s": lambda figures: figures.output_tokens_per_s,
    "requests/s": lambda figures: figures.requests_per_s,
    "TTFT p50": _percentile_of("ttft_ms", "p50"),
    "TTFT p99": _percentile_of("ttft_ms", "p99"),
    "ITL p50": _percentile_of("itl_ms", "p50"),
    "ITL p99": _percentile_of("itl_ms", "p99"),
    "TPOT p50": _percentile_of("tpot_ms", "p50"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run how often.

    Attributes:
        workload: One of workloads.WORKLOADS.
        num: Conversations in a round.
        max_tokens: Of an answer, None for the workload's own.
        load: How conversations arrive.
        rounds: That are counted.
        warm_up: Hold one short chat with each server first, which is not counted.
        seed: Of texts, sampling and arrivals.
        slo: The limits goodput is counted by.

    Raises:
        InvalidRequestError: `rounds` is out of range, or the workload is not one.
    """

    workload: str = "short"
    num: int = 32
    max_tokens: int | None = None
    load: Load = field(default_factory=lambda: Load(concurrency=8))
    rounds: int = 1
    warm_up: bool = True
    seed: int = 0
    slo: Slo = field(default_factory=Slo)

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= MAX_ROUNDS:
            message = f"rounds is {self.rounds}; it must be between 1 and {MAX_ROUNDS}"
            raise InvalidRequestError(message, param="rounds")
        make_workload(self.workload, num=self.num, max_tokens=self.max_tokens)


@dataclass(slots=True, kw_only=True)
class Arm:
    """One server in a comparison.

    Attributes:
        name: Shown for it.
        target: Where it is.
        other_texts: Ask for other texts of the same shape than the other arms: for a second arm on the same server.
        model: That answered.
        runs: One for each round.
    """

    name: str
    target: Target
    other_texts: bool = False
    model: str = ""
    runs: list[Run] = field(default_factory=list)

    def figures(self, slo: Slo | None = None) -> list[Figures]:
        """Figures of each round."""
        return [figures_of(run, slo) for run in self.runs]


async def run_rounds(plan: Plan, arms: Sequence[Arm], progress: Progress | None = None) -> None:
    """Run a plan on servers in turn; the arms keep the results.

    Args:
        plan: What to run.
        arms: At least one, with names of their own.
        progress: Called with what is running, requests done and requests in all.

    Raises:
        InvalidRequestError: a server does not answer, or answers the warm-up with an error.
    """
    clients = [Client(arm.target) for arm in arms]
    try:
        for arm, client in zip(arms, clients, strict=True):
            arm.model = await client.find_model()
        if plan.warm_up:
            for client in clients:
                await _warm_up(client, plan)
        done = 0
        per_run = make_workload(plan.workload, num=plan.num, max_tokens=1).num_requests
        total = plan.rounds * len(arms) * per_run
        for number in range(plan.rounds):
            turns = list(zip(arms, clients, strict=True))
            for arm, client in turns if number % 2 == 0 else reversed(turns):
                title = f"{arm.name} {number + 1}/{plan.rounds}"
                arm.runs.append(
                    await _one_round(
                        plan, arm, client, number, _counter(title, done, total, progress)
                    )
                )
                done += per_run
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)


def _counter(
    title: str, done: int, total: int, progress: Progress | None
) -> Callable[[Result], None]:
    """Return what counts results on; a progress that is not there is called by nobody."""
    count = done
    if progress is not None:
        progress(title, count, total)

    def note(_result: Result) -> None:
        nonlocal count
        count += 1
        if progress is not None:
            progress(title, count, total)

    return note


async def _warm_up(client: Client, plan: Plan) -> None:
    workload = make_workload("short", num=1, seed=-1 - plan.seed, max_tokens=8)
    run = await run_workload(client, workload, Load(concurrency=1))
    result = run.results[0]
    if result.error is not None:
        message = f"{client.target.base_url} does not answer a short chat: {result.error}: {result.detail}"
        raise InvalidRequestError(message, param="url")


async def _one_round(
    plan: Plan, arm: Arm, client: Client, number: int, note: Callable[[Result], None]
) -> Run:
    seed = plan.seed + number + (_OTHER_TEXTS if arm.other_texts else 0)
    workload = make_workload(plan.workload, num=plan.num, seed=seed, max_tokens=plan.max_tokens)
    return await run_workload(client, workload, plan.load, seed=plan.seed + number, progress=note)


def ratios(upper: Arm, lower: Arm) -> dict[str, Ratio]:
    """Compare two arms round by round.

    Args:
        upper: Above the line.
        lower: Below it.

    Returns:
        The ratio of each figure that every round of both has, and has above 0.
    """
    made = {}
    for name, pick in _COMPARED.items():
        above = [pick(figures) for figures in upper.figures()]
        below = [pick(figures) for figures in lower.figures()]
        if above and all(above) and all(below) and len(above) == len(below):
            made[name] = paired_ratio(_numbers(above), _numbers(below))
    return made


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def sane(arms: Sequence[Arm], plan: Plan) -> list[str]:
    """Return what makes a comparison doubtful, nothing if both servers did the same work without an error."""
    doubts = []
    totals: dict[str, Any] = {}
    for arm in arms:
        rounds = arm.figures()
        failed = sum(figures.num_failed for figures in rounds)
        if failed:
            doubts.append(f"{arm.name}: {failed} requests failed")
        if not arm.other_texts:
            totals[arm.name] = sum(figures.num_output_tokens for figures in rounds)
        if not all(figures.from_usage for figures in rounds):
            doubts.append(f"{arm.name}: tokens are counted by pieces of text, as it tells no usage")
    if len(set(totals.values())) > 1:
        doubts.append(f"output tokens differ: {totals}; was ignore_eos obeyed?")
    if plan.rounds < 5 and len(arms) > 1:
        doubts.append(f"{plan.rounds} rounds are few for an interval; take 5 or more")
    return doubts
