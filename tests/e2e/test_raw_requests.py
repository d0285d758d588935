"""Bytes no client library would send: sizes that contradict each other, or that nobody means."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ServerProcess, start_fake_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e
SILENCE_S = 0.7
BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]})
POST = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def fake_server() -> Iterator[ServerProcess]:
    process = start_fake_server()
    yield process
    process.close()


def answers(server: ServerProcess, text: str) -> list[int]:
    """Statuses of everything the server says to these bytes before it closes or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SILENCE_S) as connection:
        said = b""
        try:
            connection.sendall(text.encode("latin-1"))
            while piece := connection.recv(65536):
                said += piece
        except (TimeoutError, ConnectionError):
            pass
    return [int(line.split()[1]) for line in said.splitlines() if line.startswith(b"HTTP/1.")]


def test_a_usual_request_is_answered(fake_server: ServerProcess) -> None:
    assert answers(fake_server, f"{POST}Content-Length: {len(BODY)}\r\n\r\n{BODY}") == [200]


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 99999999999999999999999999\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length : 5\r\n",
    ],
)
def test_a_size_that_is_none_is_refused(fake_server: ServerProcess, head: str) -> None:
    statuses = answers(fake_server, f"{POST}{head}\r\n{SMUGGLED}")
    assert all(400 <= status < 500 for status in statuses), statuses
    assert len(statuses) <= 1
    assert fake_server.get_json("/health")["status"] == "ok"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", f"0\r\n\r\n{SMUGGLED}"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", f"0\r\n\r\n{SMUGGLED}"),
    ],
)
def test_two_sizes_at_once_end_the_connection(
    fake_server: ServerProcess, head: str, body: str
) -> None:
    statuses = answers(fake_server, f"{POST}{head}\r\n{body}")
    assert len(statuses) <= 1, statuses
    assert all(status == 400 for status in statuses)


@pytest.mark.parametrize(
    "chunks",
    [
        "FFFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "zz\r\nx\r\n0\r\n\r\n",
        "5\r\nab",
        "7FFFFFFFFFFFFFFF\r\nabc",
    ],
)
def test_a_chunk_whose_size_is_a_lie_costs_its_own_connection(
    fake_server: ServerProcess, chunks: str
) -> None:
    statuses = answers(fake_server, f"{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}")
    assert 200 not in statuses
    assert fake_server.get_json("/health")["status"] == "ok"


def test_a_head_without_end_is_refused(fake_server: ServerProcess) -> None:
    statuses = answers(fake_server, f"{POST}X-Long: {'a' * 4_000_000}\r\n\r\n")
    assert 200 not in statuses
    assert fake_server.get_json("/health")["status"] == "ok"


def test_a_rebound_host_is_refused(fake_server: ServerProcess) -> None:
    assert answers(fake_server, "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n") == [403]
    assert answers(fake_server, "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n") == [200]
