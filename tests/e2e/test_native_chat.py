"""POST /api/v1/chat against a real server with the demo model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
TIMEOUT_S = 60


def ask(server: ServerProcess, text: str, **fields) -> dict:
    model = server.get_json("/v1/models")["data"][0]["id"]
    body = {"model": model, "input": text, "temperature": 0, "max_output_tokens": 12, **fields}
    answer = httpx2.post(f"{server.url}/api/v1/chat", json=body, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    if fields.get("stream"):
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        return {"events": [json.loads(line) for line in lines]}
    return answer.json()


def test_a_chat_goes_on_from_its_id(server: ServerProcess) -> None:
    first = ask(server, "My name is Ada.", system_prompt="You are terse.")
    assert first["output"][0]["type"] == "message"
    assert 0 < first["stats"]["total_output_tokens"] <= 12
    assert first["stats"]["tokens_per_second"] > 0
    branches = [ask(server, "Who am I?", previous_response_id=first["response_id"]) for _ in "ab"]
    counts = {branch["stats"]["input_tokens"] for branch in branches}
    assert len(counts) == 1
    assert counts.pop() > first["stats"]["input_tokens"] + 5


def test_a_stream_has_the_same_text_as_its_end(server: ServerProcess) -> None:
    events = ask(server, "Count to five.", stream=True)["events"]
    text = "".join(event["content"] for event in events if event["type"] == "message.delta")
    assert events[-1]["result"]["output"] == [{"type": "message", "content": text}]
    assert events[-1]["result"]["stats"]["total_output_tokens"] > 0


def test_a_model_whose_engine_died_is_loaded_with_events(own_server: ServerProcess) -> None:
    import os
    import signal

    os.kill(own_server.engine_pid(), signal.SIGKILL)
    wait_until(
        lambda: own_server.get_json("/health")["models"][0]["state"] == "not-loaded", "the death"
    )
    events = ask(own_server, "Hello.", stream=True)["events"]
    names = [event["type"] for event in events]
    assert names[:2] == ["chat.start", "model_load.start"]
    assert names.index("model_load.end") < names.index("prompt_processing.start")
    assert events[-1]["result"]["stats"]["model_load_time_seconds"] > 0


def test_a_client_that_goes_away_ends_its_request_and_leaves_no_answer(
    server: ServerProcess,
) -> None:
    model = server.get_json("/v1/models")["data"][0]["id"]
    body = {"model": model, "input": "Write a very long story.", "stream": True}
    url = f"{server.url}/api/v1/chat"
    with httpx2.stream("POST", url, json=body, timeout=TIMEOUT_S) as response:
        for line in response.iter_lines():
            if "message.delta" in line:
                break
    wait_until(lambda: server.metric("slipstream_engine_running") == 0, "the end of the request")
    wait_until(
        lambda: server.get_json("/health")["requests_in_flight"] == 0, "the end of the answer"
    )
