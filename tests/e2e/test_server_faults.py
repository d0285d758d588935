"""A real server with the demo model when its engine, or it itself, is ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.processes import is_alive, wait_until

if TYPE_CHECKING:
    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
CHAT = "/v1/chat/completions"
MAX_API_RSS_BYTES = 120 << 20


def post(server: ServerProcess, **fields: object) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    messages = [{"role": "user", "content": "Tell me a very long story."}]
    connection.request("POST", CHAT, json.dumps({"messages": messages, **fields}))
    return connection


def error_events(transcript: bytes) -> list[dict]:
    events = [event for event in transcript.split(b"\n\n") if event.startswith(b"data: {")]
    documents = [json.loads(event.removeprefix(b"data: ")) for event in events]
    return [document["error"] for document in documents if "error" in document]


def test_killed_engine_ends_every_request_and_the_next_one_works(server: ServerProcess) -> None:
    deaths = server.metric("slipstream_engine_deaths_total")
    streamed = [post(server, stream=True, ignore_eos=True) for _ in range(2)]
    responses = [connection.getresponse() for connection in streamed]
    for response in responses:
        assert response.status == 200
        assert response.readline().startswith(b"data: ")
    plain = post(server, ignore_eos=True)
    wait_until(lambda: server.metric("slipstream_engine_running") == 3, "three requests to run")

    first_pid = server.engine_pid()
    os.kill(first_pid, signal.SIGKILL)
    for response in responses:
        transcript = response.read()
        assert [error["code"] for error in error_events(transcript)] == ["engine_died"]
        assert transcript.endswith(b"data: [DONE]\n\n")
    answer = plain.getresponse()
    assert answer.status == 503
    assert json.loads(answer.read())["error"]["code"] == "engine_died"

    after = post(server, max_tokens=4)
    answer = after.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["choices"][0]["message"]["content"]
    assert server.engine_pid() != first_pid
    assert server.metric("slipstream_engine_deaths_total") == deaths + 1
    for connection in (*streamed, plain, after):
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_of_answers_ends_all_processes_in_time(
    own_server: ServerProcess, number: int
) -> None:
    engine = own_server.engine_pid()
    streamed = post(own_server, stream=True, ignore_eos=True)
    response = streamed.getresponse()
    response.readline()
    transcripts: list[bytes] = []
    reader = threading.Thread(target=lambda: transcripts.append(response.read()))
    reader.start()
    own_server.signal(number)
    assert own_server.wait_exit(5) == 0
    reader.join(5)
    assert len(error_events(transcripts[0])) == 1
    assert transcripts[0].endswith(b"data: [DONE]\n\n")
    wait_until(lambda: not is_alive(engine), "the engine process to end", 2)
    streamed.close()


def test_killed_server_leaves_no_engine_behind(own_server: ServerProcess) -> None:
    engine = own_server.engine_pid()
    assert is_alive(engine)
    own_server.signal(signal.SIGKILL)
    own_server.wait_exit(5)
    wait_until(lambda: not is_alive(engine), "the engine process to end", 5)


def test_api_process_stays_small_with_a_model(server: ServerProcess) -> None:
    connection = post(server, max_tokens=2)
    connection.getresponse().read()
    connection.close()
    assert psutil.Process(server.pid).memory_info().rss < MAX_API_RSS_BYTES
