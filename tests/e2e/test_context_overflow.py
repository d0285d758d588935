"""A conversation and an answer that do not fit the context, by each policy, on each route, with a real model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.support.processes import ServerProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
CONTEXT = 256
POLICIES = ("error", "truncate_middle", "rolling_window")
ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/v1/chat")


@pytest.fixture(scope="module")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("home")
    arguments = ("--context-length", str(CONTEXT), "--parallel", "1", "--threads", "2")
    process = start_server(str(demo_model), *arguments, env={"SLIPSTREAM_HOME": str(home)})
    process.home = home
    yield process
    process.close()


def choose(server: Any, policy: str) -> None:
    """Change the setting while the server runs, as `slipstream settings set` does."""
    (server.home / "settings.json").write_text(f'{{"context_overflow": "{policy}"}}')


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json=body, timeout=120)


def turns(num: int) -> list[dict[str, str]]:
    """A system prompt, `num` turns and a question."""
    talk = [{"role": "system", "content": "You count rivers."}]
    for number in range(num):
        talk.append({"role": "user", "content": f"River number {number} is a very long river."})
        talk.append({"role": "assistant", "content": f"I have counted river {number}."})
    return [*talk, {"role": "user", "content": "How many?"}]


def ask(server: ServerProcess, route: str, num: int, max_tokens: int) -> httpx2.Response:
    """Send a conversation of so many turns to a route; /api/v1/chat gets it turn by turn in one message."""
    model = server.get_json("/v1/models")["data"][0]["id"]
    messages = turns(num)
    if route == "/v1/chat/completions":
        body: dict[str, Any] = {"messages": messages, "max_tokens": max_tokens, "ignore_eos": True}
    elif route == "/v1/responses":
        body = {"input": messages, "max_output_tokens": max_tokens, "ignore_eos": True}
    elif route == "/v1/messages":
        body = {
            "system": messages[0]["content"],
            "messages": messages[1:],
            "max_tokens": max_tokens,
        }
    else:
        text = " ".join(message["content"] for message in messages)
        body = {"input": text, "max_output_tokens": max_tokens}
    return post(server, route, {"model": model, **body})


def num_input_tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage") or answer["stats"]
    if "cache_read_input_tokens" in usage:
        return usage["input_tokens"] + usage["cache_read_input_tokens"]
    return usage.get("prompt_tokens") or usage["input_tokens"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_chat_that_does_not_fit_is_an_error_or_shortened(
    server: ServerProcess, route: str
) -> None:
    for policy in POLICIES:
        choose(server, policy)
        answer = ask(server, route, num=20, max_tokens=8)
        if policy == "error":
            assert answer.status_code == 400
            assert "context" in answer.json()["error"]["message"]
            continue
        assert answer.status_code == 200, answer.text
        assert CONTEXT // 3 < num_input_tokens(answer.json()) < CONTEXT


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_that_fills_the_context_ends_or_goes_on(
    server: ServerProcess, policy: str
) -> None:
    choose(server, "error")
    body = {"messages": turns(2), "ignore_eos": True, "max_tokens": CONTEXT + 50, "temperature": 0}
    answer = post(server, "/v1/chat/completions", {**body, "context_overflow": policy}).json()
    usage = answer["usage"]
    assert answer["choices"][0]["finish_reason"] == "length"
    if policy == "error":
        assert usage["total_tokens"] == CONTEXT
    else:
        assert usage["completion_tokens"] == CONTEXT + 50


def test_a_stored_conversation_goes_on_for_ever_where_it_may(server: ServerProcess) -> None:
    choose(server, "rolling_window")
    model = server.get_json("/v1/models")["data"][0]["id"]
    previous = None
    for number in range(8):
        text = f"{number}: tell me more of the long river."
        body = {"model": model, "input": text, "max_output_tokens": 40}
        if previous:
            body["previous_response_id"] = previous
        answer = post(server, "/api/v1/chat", body)
        assert answer.status_code == 200, answer.text
        previous = answer.json()["response_id"]
        assert num_input_tokens(answer.json()) < CONTEXT
