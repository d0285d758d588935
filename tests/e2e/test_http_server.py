"""Granian, the app and its shutdown, as a real process over a scripted generation."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from slipstream.base.errors import ServerError
from slipstream.runtime.settings import ServerSettings
from slipstream.server.serve import check_port, url_of
from tests.support.processes import ServerProcess, free_port, start_fake_server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e
CHAT = "/v1/chat/completions"
MAX_API_RSS_BYTES = 120 << 20


@pytest.fixture(scope="module")
def fake_server() -> Iterator[ServerProcess]:
    process = start_fake_server()
    yield process
    process.close()


@pytest.fixture
def own_fake_server() -> Iterator[ServerProcess]:
    process = start_fake_server()
    yield process
    process.close()


def post(fake_server: ServerProcess, word: str, **fields: object) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", fake_server.port, timeout=20)
    body = {"messages": [{"role": "user", "content": word}], **fields}
    connection.request("POST", CHAT, json.dumps(body))
    return connection


def num_closed(fake_server: ServerProcess) -> int:
    return fake_server.get_json("/health")["models"][0]["num_deaths"]  # see fake_server.py


def in_flight(fake_server: ServerProcess) -> int:
    return fake_server.get_json("/health")["requests_in_flight"]


def test_stream_arrives_piece_by_piece(fake_server: ServerProcess) -> None:
    connection = post(fake_server, "forever", stream=True)
    response = connection.getresponse()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = [response.readline() for _ in range(6)]
    assert lines[0].startswith(b'data: {"id":"chatcmpl-')
    assert lines[1] == b"\n"
    connection.close()


def num_closed_when_idle(fake_server: ServerProcess) -> int:
    """Count the closed generations once those of earlier tests, whose clients have left, are among them."""
    wait_until(lambda: in_flight(fake_server) == 0, "earlier requests to end")
    return num_closed(fake_server)


@pytest.mark.parametrize(
    ("word", "stream"), [("forever", True), ("forever", False), ("silent", False)]
)
def test_disconnect_closes_the_generation(
    fake_server: ServerProcess, word: str, stream: bool
) -> None:
    before = num_closed_when_idle(fake_server)
    connection = post(fake_server, word, stream=stream)
    if stream:
        response = connection.getresponse()
        response.readline()
        response.close()  # else it holds the socket open
    else:
        wait_until(lambda: in_flight(fake_server) == 1, "the request to run")
    start_s = time.monotonic()
    connection.close()
    wait_until(lambda: num_closed(fake_server) == before + 1, "the generation to be closed")
    assert time.monotonic() - start_s < 2
    wait_until(lambda: in_flight(fake_server) == 0, "the request to end")


def test_client_that_does_not_read_is_not_buffered_without_end(fake_server: ServerProcess) -> None:
    rss_before = psutil.Process(fake_server.pid).memory_info().rss
    before = num_closed_when_idle(fake_server)
    connection = post(fake_server, "many", stream=True, max_tokens=200_000)
    wait_until(lambda: in_flight(fake_server) == 1, "the request to run")
    wait_until(lambda: is_idle(fake_server.pid), "the stream to fill its buffers")
    assert psutil.Process(fake_server.pid).memory_info().rss - rss_before < 200 << 20
    connection.close()
    wait_until(lambda: num_closed(fake_server) == before + 1, "the generation to be closed")


def is_idle(pid: int) -> bool:
    return psutil.Process(pid).cpu_percent(interval=0.2) < 10


def test_comments_keep_a_waiting_stream_alive(fake_server: ServerProcess) -> None:
    connection = post(fake_server, "silent", stream=True)
    response = connection.getresponse()
    assert response.status == 200
    assert [response.readline() for _ in range(4)] == [b": keep-alive\n", b"\n"] * 2
    response.close()
    connection.close()
    wait_until(lambda: in_flight(fake_server) == 0, "the request to end")


def test_large_body_is_answered_with_an_error_object(fake_server: ServerProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fake_server.port, timeout=20)
    connection.request("POST", CHAT, b" " * 40_000_000)
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_api_process_is_small(fake_server: ServerProcess) -> None:
    assert psutil.Process(fake_server.pid).memory_info().rss < MAX_API_RSS_BYTES


def test_second_server_on_the_port_is_refused(fake_server: ServerProcess) -> None:
    with pytest.raises(ServerError, match=f"port {fake_server.port} on 127.0.0.1 is taken"):
        check_port("127.0.0.1", fake_server.port)


def test_taken_port_names_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        with pytest.raises(ServerError, match=f"process {os.getpid()}"):
            check_port("127.0.0.1", port)


def test_port_of_a_stopped_server_is_free_at_once(own_fake_server: ServerProcess) -> None:
    connection = post(own_fake_server, "hi")
    connection.getresponse().read()
    own_fake_server.signal(signal.SIGTERM)
    assert own_fake_server.wait_exit(6) == 0
    check_port("127.0.0.1", own_fake_server.port)
    connection.close()


def test_foreign_address_is_refused() -> None:
    with pytest.raises(ServerError, match="no address of this machine"):
        check_port("192.0.2.1", free_port())


def test_unknown_host_is_refused() -> None:
    with pytest.raises(ServerError, match="no address to listen on"):
        check_port("not a host", free_port())


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::1", "http://[::1]:1"),
        ("::", "http://[::1]:1"),
        ("box.local", "http://box.local:1"),
    ],
)
def test_url_is_one_a_local_client_can_use(host: str, url: str) -> None:
    assert url_of(ServerSettings(host=host, port=1)) == url


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_an_idle_server(own_fake_server: ServerProcess, number: int) -> None:
    own_fake_server.signal(number)
    assert own_fake_server.wait_exit(5) == 0
    assert own_fake_server.lines[-1] == "stopped"


def test_signal_ends_open_streams_with_an_error_event(own_fake_server: ServerProcess) -> None:
    transcripts: list[bytes] = []
    connection = post(own_fake_server, "forever", stream=True)
    response = connection.getresponse()
    response.readline()
    reader = threading.Thread(target=lambda: transcripts.append(response.read()))
    reader.start()
    plain = post(own_fake_server, "silent")
    wait_until(lambda: in_flight(own_fake_server) == 2, "both requests to run")
    own_fake_server.signal(signal.SIGTERM)
    assert own_fake_server.wait_exit(5) == 0
    reader.join(5)
    *_, error, done, last = transcripts[0].split(b"\n\n")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "server_shutting_down"
    assert (done, last) == (b"data: [DONE]", b"")
    answer = plain.getresponse()
    assert answer.status == 503
    assert json.loads(answer.read())["error"]["code"] == "server_shutting_down"
    connection.close()
    plain.close()


def test_requests_that_are_nearly_done_end_normally(own_fake_server: ServerProcess) -> None:
    connection = post(own_fake_server, "many", max_tokens=20_000)
    wait_until(lambda: in_flight(own_fake_server) == 1, "the request to run")
    own_fake_server.signal(signal.SIGTERM)
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read()
    assert own_fake_server.wait_exit(5) == 0
    connection.close()


def test_idle_keep_alive_connection_does_not_hold_the_server(
    own_fake_server: ServerProcess,
) -> None:
    connection = post(own_fake_server, "hi")
    connection.getresponse().read()
    own_fake_server.signal(signal.SIGTERM)
    start_s = time.monotonic()
    assert own_fake_server.wait_exit(5) == 0
    assert time.monotonic() - start_s < 4
    connection.close()


def test_second_signal_ends_the_process_at_once(own_fake_server: ServerProcess) -> None:
    connection = post(own_fake_server, "silent")
    wait_until(lambda: in_flight(own_fake_server) == 1, "the request to run")
    own_fake_server.signal(signal.SIGINT)
    own_fake_server.wait_line("stopping")
    own_fake_server.signal(signal.SIGINT)
    assert own_fake_server.wait_exit(2) in (0, 1)
    connection.close()


def test_signal_while_a_model_loads_ends_the_server() -> None:
    loading = start_fake_server("--loading")
    try:
        loading.signal(signal.SIGINT)
        assert loading.wait_exit(5) == 0
        assert loading.lines[-1] == "stopped"
    finally:
        loading.close()
