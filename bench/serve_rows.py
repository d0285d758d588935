"""The rows that compare Slipstream with llama-server: what each asks, on servers of which shape, and its bar."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from servers import Shape, llama_server_command, running, slipstream_command

from slipstream.benchmark.serve import Arm, Load, Plan, Target, run_rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.benchmark.stats import Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure, and what its ratio to llama-server is meant to reach: at least, or at most."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def verdict(self, ratio: Ratio) -> str:
        """`met` if the median reaches the bar, `open` if only the interval does."""
        if self.at_least is not None:
            met, may = ratio.median >= self.at_least, ratio.high >= self.at_least
        else:
            limit = self.at_most or 0.0
            met, may = ratio.median <= limit, ratio.low <= limit
        return "met" if met else "open" if may else "missed"

    def __str__(self) -> str:
        return f"≥ {self.at_least}" if self.at_least is not None else f"≤ {self.at_most}"


@dataclass(slots=True, kw_only=True)
class Row:
    """What came of one row."""

    name: str
    title: str
    plan: Plan
    shape: Shape
    arms: list[Arm]
    bars: list[Bar] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of the command line."""

    model: str
    threads: int
    rounds: int
    aa: bool = False


def compare(
    options: Options, *, name: str, title: str, plan: dict[str, Any], bars: list[Bar],
    context_length: int = 8192, parallel: int = 8,
) -> Row:  # fmt: skip
    """Run a plan on both servers in turn."""
    shape = Shape(
        model=options.model,
        threads=options.threads,
        context_length=context_length,
        parallel=parallel,
    )
    made = Plan(rounds=options.rounds, **plan)
    with ExitStack() as stack:
        ours = stack.enter_context(running(slipstream_command(shape)))
        peer = stack.enter_context(running(llama_server_command(shape)))
        arms = [
            Arm(name="slipstream", target=Target(url=ours)),
            Arm(name="llama-server", target=Target(url=peer)),
        ]
        if options.aa:
            arms.append(Arm(name="slipstream again", target=Target(url=ours), other_texts=True))
        asyncio.run(run_rounds(made, arms, progress(name)))
    return Row(name=name, title=title, plan=made, shape=shape, arms=arms, bars=bars)


def one_stream(options: Options) -> Row:
    return compare(
        options, name="one-stream", title="one stream, short chat",
        plan={"workload": "short", "num": 2, "max_tokens": 64, "load": Load(concurrency=1)},
        bars=[Bar(figure="output tok/s", at_least=1.0)],
    )  # fmt: skip


def eight_streams(options: Options) -> Row:
    return compare(
        options, name="eight-streams", title="8 streams, short chats",
        plan={"workload": "short", "num": 8, "max_tokens": 64, "load": Load(concurrency=8)},
        bars=[Bar(figure="output tok/s", at_least=1.6)],
    )  # fmt: skip


def shared_prefix(options: Options) -> Row:
    return compare(
        options, name="shared-prefix", title="8 streams, one new 700-word system prompt a round",
        plan={"workload": "shared-prefix", "num": 8, "max_tokens": 16, "load": Load(concurrency=8)},
        bars=[Bar(figure="requests/s", at_least=2.0), Bar(figure="TTFT p50", at_most=0.4)],
        context_length=16384,
    )  # fmt: skip


def multi_turn(options: Options) -> Row:
    return compare(
        options, name="multi-turn", title="3-turn chats, 8 conversations on 4 parallel",
        plan={"workload": "multi-turn", "num": 8, "max_tokens": 16, "load": Load(concurrency=8)},
        bars=[Bar(figure="requests/s", at_least=1.5)],
        parallel=4,
    )  # fmt: skip


def copy_edit(options: Options) -> Row:
    return compare(
        options, name="copy-edit", title="copy-edit of a 40-line file, one stream",
        plan={"workload": "copy-edit", "num": 1, "load": Load(concurrency=1)},
        bars=[Bar(figure="output tok/s", at_least=2.2)],
    )  # fmt: skip


def creative(options: Options) -> Row:
    return compare(
        options, name="creative", title="creative text, one stream",
        plan={"workload": "creative", "num": 1, "max_tokens": 128, "load": Load(concurrency=1)},
        bars=[Bar(figure="output tok/s", at_least=0.97)],
    )  # fmt: skip


def intrusion(options: Options) -> Row:
    return compare(
        options, name="intrusion", title="4 running streams while a 4k-token prompt arrives",
        plan={"workload": "intrusion", "num": 1, "max_tokens": 8},
        bars=[Bar(figure="ITL p99", at_most=0.35), Bar(figure="TTFT p50", at_most=1.2)],
        context_length=16384,
    )  # fmt: skip


def crowd(options: Options) -> Row:
    """200 requests at once on a context that holds about six of them; no peer, as the bar is no ratio."""
    shape = Shape(model=options.model, threads=options.threads, context_length=512, parallel=16)
    plan = Plan(workload="short", num=200, max_tokens=32, load=Load(concurrency=200))
    arm_name = "slipstream"
    with running(slipstream_command(shape)) as url:
        arms = [Arm(name=arm_name, target=Target(url=url))]
        asyncio.run(run_rounds(plan, arms, progress("crowd")))
    figures = arms[0].figures()[0]
    waits = figures.ttft_ms
    checks = {
        "all 200 complete, none failed": figures.num_failed == 0,
        "each has its 32 tokens": figures.num_output_tokens == 200 * 32,
        "max wait ≤ 3 x mean": waits is not None and waits.highest <= 3 * waits.mean,
    }
    title = "200 requests on a context that holds 6"
    return Row(name="crowd", title=title, plan=plan, shape=shape, arms=arms, checks=checks)


ROWS: dict[str, Callable[[Options], Row]] = {
    "one-stream": one_stream,
    "eight-streams": eight_streams,
    "shared-prefix": shared_prefix,
    "multi-turn": multi_turn,
    "copy-edit": copy_edit,
    "creative": creative,
    "intrusion": intrusion,
    "crowd": crowd,
}


def progress(row: str) -> Callable[[str, int, int], None]:
    """Return what shows how far a row is."""

    def show(title: str, done: int, total: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{row}: {title}, {done}/{total} requests ")
            sys.stderr.flush()

    return show
