"""GET /api/v1/log: who may watch, what is shown, and that content is hidden unless asked for."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx2
import pytest

from slipstream.base.errors import QueueFullError
from slipstream.runtime.tokens import TokenStore
from slipstream.server.app import create_app
from slipstream.server.log_hub import LogChoice, LogHub
from tests.support.fake_generation import MODEL, FakeGeneration, FakeManager

CHAT = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "top secret"}]}


@pytest.fixture
def headers():
    return {"authorization": f"Bearer {TokenStore().create('watcher', ['logs'])[1]}"}


@pytest.fixture(autouse=True)
def log_level():
    logger = logging.getLogger("slipstream")
    before = logger.level
    logger.setLevel("INFO")
    yield
    logger.setLevel(before)
    assert not [h for h in logger.handlers if "log_hub" in type(h).__module__]


async def watch(choice, work, num):
    """Return `num` records that come while `work` runs with (app's hub, client)."""
    app = create_app(FakeGeneration(FakeManager()), FakeManager())
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    found = []
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        records = app.state.context.log.records(choice)
        assert await anext(records) is None
        await work(client)
        for _ in range(num):
            found.append(await asyncio.wait_for(anext(records), 10))
        await records.aclose()
    return found


def watched(choice, work, num):
    return asyncio.run(watch(choice, work, num))


async def chat(client):
    for stream in (False, True):
        response = await client.post(CHAT, json={**HELLO, "stream": stream})
        assert response.status_code == 200


def test_requests_are_told_without_their_content() -> None:
    records = watched(LogChoice(sources=frozenset(["model"])), chat, 4)
    kinds = [record["data"]["type"].rpartition(".")[2] for record in records]
    assert kinds == ["input", "output"] * 2
    assert all(record["data"]["modelIdentifier"] == MODEL for record in records)
    assert records[1]["data"]["outputCharacters"] == len("Hello wörld!")
    assert records[0]["data"]["inputCharacters"] > len("top secret")
    text = json.dumps(records, ensure_ascii=False)
    assert "secret" not in text
    assert "wörld" not in text
    assert "stats" not in records[1]["data"]


def test_content_and_stats_are_told_where_asked_for() -> None:
    choice = LogChoice(sources=frozenset(["model"]), with_content=True, with_stats=True)
    asked, answered, *_ = watched(choice, chat, 4)
    assert asked["data"]["input"]["messages"] == HELLO["messages"]
    assert answered["data"]["output"] == "Hello wörld!"
    assert answered["data"]["finishReason"] == "stop"
    assert answered["data"]["stats"]["num_prompt_tokens"] == 7


@pytest.mark.parametrize("direction", ["input", "output"])
def test_one_direction(direction) -> None:
    choice = LogChoice(sources=frozenset(["model"]), directions=frozenset([direction]))
    records = watched(choice, chat, 2)
    assert {record["data"]["type"] for record in records} == {f"llm.prediction.{direction}"}


def test_the_log_of_the_server_and_of_the_engines() -> None:
    async def work(client):
        logging.getLogger("slipstream.runtime.engine_process").warning("an engine says %s", "so")
        await client.get("/health")

    server = watched(LogChoice(sources=frozenset(["server"])), work, 1)
    assert server[0]["data"]["type"] == "server.log"
    assert server[0]["data"]["content"].startswith("GET '/health' 200")
    runtime = watched(LogChoice(sources=frozenset(["runtime"])), work, 1)
    assert runtime[0]["data"] == {
        "type": "runtime.log",
        "level": "warning",
        "logger": "slipstream.runtime.engine_process",
        "content": "an engine says so",
    }


def test_an_answer_that_fails_is_told_as_far_as_it_came() -> None:
    generation = FakeGeneration(FakeManager())
    usual = generation.script
    generation.script = lambda spec: [usual(spec)[0], QueueFullError("full")]

    async def run():
        app = create_app(generation, generation.models)
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        choice = LogChoice(
            sources=frozenset(["model"]), directions=frozenset(["output"]), with_content=True
        )
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            records = app.state.context.log.records(choice)
            await anext(records)
            await client.post(CHAT, json={**HELLO, "stream": True})
            record = await asyncio.wait_for(anext(records), 10)
            await records.aclose()
        return record["data"]

    data = asyncio.run(run())
    assert (data["output"], data["finishReason"]) == ("Hello", "aborted")


def test_a_slow_reader_is_told_what_it_missed() -> None:
    async def run():
        hub = LogHub()
        records = hub.records(LogChoice(sources=frozenset(["model"])))
        await anext(records)
        for _ in range(1005):
            hub.asked(MODEL, "id", {}, 0)
        found = [await anext(records) for _ in range(1001)]
        await records.aclose()
        return found[-1]["data"]

    assert asyncio.run(run()) == {"type": "dropped", "count": 5}


def test_nobody_watches_without_a_token_that_may(client, headers) -> None:
    assert client.get("/api/v1/log").status_code == 401
    other = {"authorization": f"Bearer {TokenStore().create('other')[1]}"}
    assert client.get("/api/v1/log", headers=other).status_code == 403
    # A token that may gets as far as the parameters.
    assert client.get("/api/v1/log?source=x", headers=headers).status_code == 400


@pytest.mark.parametrize(
    "query", ["source=disk", "filter=in", "stats=yes", "content=2", "follow=true", "source=,"]
)
def test_a_wrong_parameter_is_a_400_that_names_it(client, headers, query) -> None:
    response = client.get(f"/api/v1/log?{query}", headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == query.partition("=")[0]
