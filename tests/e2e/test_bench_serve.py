"""`slipstream bench serve` against our own server with a tiny model."""

import asyncio
import json
from contextlib import closing

import pytest

from slipstream.benchmark.serve import (
    WORKLOADS,
    Arm,
    Client,
    Load,
    Plan,
    Target,
    figures_of,
    make_workload,
    run_rounds,
    run_workload,
    workloads,
)  # fmt: skip
from slipstream.benchmark.serve.compare import sane
from tests.support.processes import start_server
from tests.support.tiny_gguf import write_tiny_model

pytestmark = pytest.mark.e2e
CONTEXT = 65536  # a letter is a token to the tiny model, so prompts are long
MAX_TOKENS = 6


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench-serve")
    model = write_tiny_model(folder / "tiny.gguf", n_ctx_train=CONTEXT)
    options = ("--context-length", str(CONTEXT), "--parallel", "8", "--threads", "2")
    with closing(
        start_server(str(model), *options, env={"SLIPSTREAM_HOME": str(folder)})
    ) as server:
        yield server


def hold(server, name, num, load):
    async def run():
        async with Client(Target(url=server.url)) as client:
            workload = make_workload(name, num=num, max_tokens=MAX_TOKENS)
            return await run_workload(client, workload, load)

    return asyncio.run(run())


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_runs_and_every_answer_has_its_tokens(tiny_server, name, monkeypatch):
    monkeypatch.setattr(
        workloads, "INTRUDER_WORDS", 150
    )  # 3000 are 20,000 tokens to the tiny model
    run = hold(tiny_server, name, 2, Load(concurrency=2))
    figures = figures_of(run)
    assert figures.errors == {}
    assert figures.from_usage
    assert {result.num_output_tokens for result in run.results} == {MAX_TOKENS}
    assert figures.ttft_ms.p50 > 0
    assert figures.num_prompt_tokens > 0


def test_a_shared_prefix_is_found_in_the_cache(tiny_server):
    figures = figures_of(hold(tiny_server, "shared-prefix", 4, Load(concurrency=1)))
    assert figures.num_cached_tokens > figures.num_prompt_tokens / 2


def test_an_open_loop_answers_all(tiny_server):
    figures = figures_of(hold(tiny_server, "short", 10, Load(rate=50.0)))
    assert (figures.num_requests, figures.num_failed) == (10, 0)


def test_a_server_compared_with_itself_does_the_same_work(tiny_server):
    plan = Plan(workload="short", num=2, rounds=5, max_tokens=MAX_TOKENS)
    target = Target(url=tiny_server.url)
    arms = [Arm(name="a", target=target), Arm(name="b", target=target)]
    asyncio.run(run_rounds(plan, arms))
    assert sane(arms, plan) == []


def test_a_server_that_dies_under_load_fails_requests_not_the_run(tmp_path):
    model = write_tiny_model(tmp_path / "tiny.gguf")
    with closing(start_server(str(model), "--parallel", "2")) as server:

        async def run():
            async with Client(Target(url=server.url, timeout_s=30)) as client:
                workload = make_workload("short", num=40, max_tokens=200)
                one_is_done = asyncio.Event()
                load = Load(concurrency=4)
                task = asyncio.create_task(
                    run_workload(client, workload, load, progress=lambda _: one_is_done.set())
                )
                await one_is_done.wait()
                server.signal(9)
                return await task

        figures = figures_of(asyncio.run(run()))
    assert figures.num_requests == 40
    assert figures.num_failed > 0
    json.dumps(figures.errors)
