"""Holds the conversations of a workload with a server: open loop, closed loop, or an intrusion."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve.client import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.benchmark.serve.client import Client
    from slipstream.benchmark.serve.workloads import Conversation, Workload

    Progress = Callable[[Result], None]

_WARM_CHUNKS = 4  # of each running stream before the intruder comes
_POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How conversations arrive. Give one of the two.

    Attributes:
        concurrency: Closed loop: so many are held at a time, the next begins when one ends.
        rate: Open loop: so many begin per second on average, as a Poisson process, however slow the server is.

    Raises:
        InvalidRequestError: both or none are given, or one is not above 0.
    """

    concurrency: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            message = "give either a concurrency (closed loop) or a rate (open loop)"
            raise InvalidRequestError(message, param="rate")
        for param, value in (("concurrency", self.concurrency), ("rate", self.rate)):
            if value is not None and not 0 < value < float("inf"):
                message = f"{param} is {value}; it must be above 0"
                raise InvalidRequestError(message, param=param)


@dataclass(slots=True, kw_only=True)
class Run:
    """One workload held once with one server.

    Attributes:
        results: Of each request, in the order in which they were sent. An intrusion has the intruders' here.
        intruded: Of the streams that ran meanwhile, cut to the time an intruder waited.
        duration_s: From the first request to the end of the last.
    """

    results: list[Result] = field(default_factory=list)
    intruded: list[Result] = field(default_factory=list)
    duration_s: float = 0.0


async def run_workload(
    client: Client,
    workload: Workload,
    load: Load,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Hold all conversations of a workload.

    Args:
        client: Sends them.
        workload: What is asked.
        load: How they arrive; an intrusion has an order of its own and ignores it.
        seed: Of the arrivals of an open loop.
        progress: Called with each result as it is complete.
    """
    run = Run()
    begin_s = time.perf_counter()
    if workload.intruded:
        await _intrude(client, workload, run, progress)
    elif load.rate is not None:
        await _open_loop(client, workload, load.rate, Random(seed), run, progress)
    else:
        await _closed_loop(client, workload, load.concurrency or 1, run, progress)
    run.duration_s = time.perf_counter() - begin_s
    return run


async def _converse(
    client: Client, conversation: Conversation, run: Run, progress: Progress | None
) -> None:
    """Hold one conversation; it ends early where an answer fails."""
    messages = conversation.opening()
    for number, turn in enumerate(conversation.turns):
        messages.append({"role": "user", "content": turn})
        result = Result(label=conversation.label, turn=number)
        run.results.append(result)
        await _send(client, conversation, messages, result)
        if progress is not None:
            progress(result)
        if result.error is not None:
            missed = conversation.turns[number + 1 :]
            run.results += [_never_sent(conversation, number + 1 + i) for i in range(len(missed))]
            return
        messages.append({"role": "assistant", "content": result.text})


async def _send(
    client: Client, conversation: Conversation, messages: list[dict[str, str]], result: Result
) -> Result:
    return await client.chat(
        list(messages),
        result=result,
        max_tokens=conversation.max_tokens,
        temperature=conversation.temperature,
        seed=conversation.seed,
    )


def _never_sent(conversation: Conversation, turn: int) -> Result:
    now_s = time.perf_counter()
    return Result(
        label=conversation.label, turn=turn, sent_s=now_s, ended_s=now_s, error="not sent",
        detail="an earlier turn failed",
    )  # fmt: skip


async def _closed_loop(
    client: Client, workload: Workload, concurrency: int, run: Run, progress: Progress | None
) -> None:
    waiting = deque(workload.conversations)

    async def worker() -> None:
        while waiting:
            await _converse(client, waiting.popleft(), run, progress)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(waiting))):
            group.create_task(worker())


async def _open_loop(
    client: Client,
    workload: Workload,
    rate: float,
    random: Random,
    run: Run,
    progress: Progress | None,
) -> None:
    due_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for conversation in workload.conversations:
            # By the clock, not by adding up sleeps: what comes late must not make the next ones late.
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            group.create_task(_converse(client, conversation, run, progress))
            due_s += random.expovariate(rate)


async def _intrude(client: Client, workload: Workload, run: Run, progress: Progress | None) -> None:
    """Start the streams, send each intruder while they run, and end them when they have gone on after the last."""
    streams = [Result(label=stream.label) for stream in workload.intruded]
    tasks = [
        asyncio.create_task(
            _send(client, stream, [*stream.opening(), {"role": "user", "content": stream.turns[0]}], result)
        )
        for stream, result in zip(workload.intruded, streams, strict=True)
    ]  # fmt: skip
    running = list(zip(tasks, streams, strict=True))
    try:
        await _until(running, lambda stream: len(stream.chunk_s) >= _WARM_CHUNKS)
        for conversation in workload.conversations:
            begin_s = time.perf_counter()
            await _converse(client, conversation, run, progress)
            intruder = run.results[-1]
            end_s = intruder.chunk_s[0] if intruder.chunk_s else intruder.ended_s
            await _until(running, partial(_came_after, end_s))
            run.intruded += [_cut(stream, begin_s, end_s) for stream in streams]
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _until(
    running: list[tuple[asyncio.Task[Result], Result]], reached: Callable[[Result], bool]
) -> None:
    """Wait until a condition holds for each stream that has not ended."""
    while not all(task.done() or reached(stream) for task, stream in running):
        await asyncio.sleep(_POLL_S)


def _came_after(moment_s: float, stream: Result) -> bool:
    return bool(stream.chunk_s) and stream.chunk_s[-1] > moment_s


def _cut(stream: Result, begin_s: float, end_s: float) -> Result:
    """Return a stream from its last piece before `begin_s` to its first after `end_s`, so that no stall is lost."""
    before = [moment for moment in stream.chunk_s if moment <= begin_s][-1:]
    during = [moment for moment in stream.chunk_s if begin_s < moment < end_s]
    after = [moment for moment in stream.chunk_s if moment >= end_s][:1]
    return Result(
        label=stream.label,
        sent_s=stream.sent_s,
        ended_s=end_s,
        chunk_s=[*before, *during, *after],
        num_output_tokens=len(during),
        finish_reason=stream.finish_reason,
        error=None if stream.error == "ended" else stream.error,
        detail=stream.detail,
    )
