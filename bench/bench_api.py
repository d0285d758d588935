"""What the API process spends on a streamed token: its CPU time while 16 clients stream, over the pieces they got.

The engine runs in a process of its own and is not counted; all else is: reading requests, its frames, making the
chunks, HTTP. The clients share the machine, so only CPU time is told, not speed. Nothing is drafted, so that a piece is
a token. The first route runs twice a round; the ratio of the two is the noise floor (A/A).

usage: python bench/bench_api.py MODEL.gguf [--streams 16] [--tokens 256] [--rounds 7] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
from servers import Shape, api_process, running, slipstream_command

from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import paired_ratio, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

BAR_US = 60.0


class Route(NamedTuple):
    """A route, the body of a request (prompt, tokens) and the mark of an event that carries text."""

    path: str
    body: Callable[[str, int], dict[str, Any]]
    mark: bytes


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


ROUTES = {
    "chat/completions": Route(
        "/v1/chat/completions",
        lambda text, n: {"messages": _turn(text), "max_tokens": n, "ignore_eos": True},
        b'"delta":{"content":',
    ),
    "completions": Route(
        "/v1/completions",
        lambda text, n: {"prompt": text, "max_tokens": n, "ignore_eos": True},
        b'"text":"',
    ),
    "responses": Route(
        "/v1/responses",
        lambda text, n: {"input": text, "max_output_tokens": n, "ignore_eos": True, "store": False},
        b"event: response.output_text.delta",
    ),
    "messages": Route(
        "/v1/messages",
        # This API has no ignore_eos; what is drawn among many words seldom ends.
        lambda text, n: {
            "model": "", "messages": _turn(text), "max_tokens": n, "temperature": 3, "top_k": 1000,
        },
        b'"type":"text_delta"',
    ),
}  # fmt: skip
AGAIN = "chat/completions again"
ARMS = {**ROUTES, AGAIN: ROUTES["chat/completions"]}


async def stream(client: httpx2.AsyncClient, route: Route, body: dict[str, Any]) -> int:
    """Read one stream to its end; return its events with text."""
    text = b""
    async with client.stream("POST", route.path, json={**body, "stream": True}) as response:
        response.raise_for_status()
        async for piece in response.aiter_raw():
            text += piece
    return text.count(route.mark)


async def one_round(url: str, route: Route, number: int, streams: int, tokens: int) -> int:
    """Let all clients stream at once; return the pieces of text they got."""
    limits = httpx2.Limits(max_connections=streams)
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        prompts = [f"{number} {i} Tell a long story." for i in range(streams)]
        bodies = [route.body(prompt, tokens) for prompt in prompts]
        return sum(await asyncio.gather(*(stream(client, route, body) for body in bodies)))


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds a process has used."""
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    """Measure, print and perhaps write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    shape = Shape(model=arguments.model, parallel=arguments.streams, context_length=16384)
    figures: dict[str, list[float]] = {arm: [] for arm in ARMS}
    pieces: dict[str, int] = dict.fromkeys(ARMS, 0)
    with running(slipstream_command(shape, "--speculation", "off")) as url:
        process = api_process(url)
        for number in range(arguments.rounds + 1):  # the first round warms up
            for arm, route in ARMS.items():
                before_s = cpu_s(process)
                num_pieces = asyncio.run(
                    one_round(url, route, number, arguments.streams, arguments.tokens)
                )
                if num_pieces < arguments.streams * arguments.tokens // 2:
                    sys.exit(f"{arm}: only {num_pieces} pieces came; the answers are too short")
                if number:
                    figures[arm].append((cpu_s(process) - before_s) * 1e6 / num_pieces)
                    pieces[arm] += num_pieces
    print(
        f"{arguments.streams} streams of up to {arguments.tokens} tokens, {arguments.rounds} rounds"
    )
    for arm, samples in figures.items():
        s = summarize(samples)
        verdict = "met" if s.median <= BAR_US else "MISSED"
        print(f"  {arm:24} {s.median:6.1f} us of CPU a token   ({s.lowest:.1f} … {s.highest:.1f}; "
              f"{pieces[arm]} tokens)   bar {BAR_US:.0f}: {verdict}")  # fmt: skip
    floor = paired_ratio(figures[AGAIN], figures["chat/completions"])
    print(f"  A/A {floor.median:.3f} [{floor.low:.3f}, {floor.high:.3f}]")
    if arguments.json:
        report = {"provenance": provenance(), "model": Path(arguments.model).name, "figures": figures,
                  "pieces": pieces, "streams": arguments.streams, "tokens": arguments.tokens,
                  "bar_us": BAR_US}  # fmt: skip
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
