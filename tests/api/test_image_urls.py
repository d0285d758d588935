"""Images named by a URL are fetched where the settings allow it: from whom, how much, how long. Over loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from slipstream.base.errors import InvalidRequestError, QueueFullError
from slipstream.runtime.settings import ServerSettings
from slipstream.server import image_fetch
from slipstream.server.app import create_app
from slipstream.server.image_fetch import is_public
from slipstream.server.images import MAX_IMAGE_BYTES, MAX_IMAGES
from tests.support.fake_generation import FakeGeneration, FakeManager

if TYPE_CHECKING:
    from collections.abc import Iterator

PIXELS = b"\x89PNG pixels"
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXELS).decode()}"
ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens")


class _Images(BaseHTTPRequestHandler):
    """Answers by the path; `server.asked` has the requests, `server.released` ends those that hang."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["host"]))
        head, _, rest = self.path.partition("/to/")
        if rest:
            self._head(302, {"location": rest})
        elif head.startswith("/large"):
            self._head(200, {"content-length": str(MAX_IMAGE_BYTES + 1)})
        elif head.startswith("/endless"):
            self._head(200, {"content-type": "image/png"})
            while not self.server.released.is_set():
                self.wfile.write(b"x" * 65536)
        elif head.startswith("/cut"):
            self._head(200, {"content-length": "100"})
            self.wfile.write(PIXELS)
        elif head.startswith("/hangs"):
            self.server.released.wait()
        elif head.startswith("/drips"):
            while not self.server.released.wait(0.01):
                self.wfile.write(b"x")
        elif head.startswith("/missing"):
            self._head(404, {})
        else:
            self._head(200, {"content-type": "image/png", "content-length": str(len(PIXELS))})
            self.wfile.write(PIXELS)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client has had enough
            super().handle()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def images() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Images)
    server.daemon_threads = True
    server.asked, server.released = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[tuple[TestClient, FakeGeneration]]:
    generation = FakeGeneration(FakeManager())
    app = create_app(generation, generation.models, ServerSettings(**settings))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, generation


def body(route: str, *urls: str) -> dict[str, Any]:
    if route == "/v1/responses":
        images = [{"type": "input_image", "image_url": url} for url in urls]
        text = {"type": "input_text", "text": "What is this?"}
        return {"model": "", "input": [{"role": "user", "content": [*images, text]}]}
    if route == "/v1/chat/completions":
        images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    else:
        images = [{"type": "image", "source": {"type": "url", "url": url}} for url in urls]
    text = {"type": "text", "text": "What is this?"}
    made = {"model": "", "messages": [{"role": "user", "content": [*images, text]}]}
    return made | ({"max_tokens": 5} if route == "/v1/messages" else {})


def refusal(client: TestClient, *urls: str, route: str = ROUTES[0]) -> str:
    answer = client.post(route, json=body(route, *urls))
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_fetched_unless_a_setting_says_so(images: Any, route: str) -> None:
    with serving() as (client, _):
        assert "image_urls" in refusal(client, images.url, route=route)
    assert images.asked == []


@pytest.mark.parametrize("route", ROUTES)
def test_an_image_that_is_fetched_is_like_one_that_was_sent(images: Any, route: str) -> None:
    with serving(image_urls="any") as (client, generation):
        url = f"{images.url}/a%20b/ü?size=1"
        assert client.post(route, json=body(route, url, DATA_URL, url)).status_code == 200
        specs = generation.specs or [generation.queries[-1].spec]  # type: ignore[attr-defined]
    content = specs[-1].messages[0]["content"]
    assert [part["image_url"]["url"] for part in content[:3]] == [DATA_URL] * 3
    assert images.asked == [("/a%20b/%C3%BC?size=1", images.url.removeprefix("http://"))], "once"


def test_all_choices_get_the_image(images: Any) -> None:
    with serving(image_urls="any") as (client, generation):
        client.post(ROUTES[0], json=body(ROUTES[0], images.url) | {"n": 3})
    urls = [spec.messages[0]["content"][0]["image_url"]["url"] for spec in generation.specs]
    assert urls == [DATA_URL] * 3


def test_a_stored_answer_keeps_what_was_fetched(images: Any) -> None:
    with serving(image_urls="any") as (client, generation):
        made = client.post("/v1/responses", json=body("/v1/responses", images.url)).json()
        following = {"model": "", "input": "And now?", "previous_response_id": made["id"]}
        assert client.post("/v1/responses", json=following).status_code == 200
    content = generation.specs[-1].messages[0]["content"]
    assert content[0]["image_url"]["url"] == DATA_URL
    assert len(images.asked) == 1


def test_private_addresses_are_out_of_bounds(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port = images.url.rpartition(":")[2]
    connected: list[Any] = []
    monkeypatch.setattr(image_fetch.socket, "create_connection", lambda *at: connected.append(at))
    with serving(image_urls="public") as (client, _):
        for host in ("127.0.0.1", "localhost", "[::1]"):
            assert "private" in refusal(client, f"http://{host}:{port}/a.png")
        for host in ("2130706433", "[::ffff:127.0.0.1]"):  # not every resolver knows these
            message = refusal(client, f"http://{host}:{port}/a.png")
            assert "private" in message or "cannot be fetched" in message, message
    assert connected == []


def test_the_checked_address_is_the_one_that_is_used(
    images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address when it is asked for again (DNS rebinding) gains nothing."""
    port = int(images.url.rpartition(":")[2])
    lookups = []
    real = socket.getaddrinfo

    def rebinding(host: str, *rest: Any, **options: Any) -> Any:
        if host == "images.example":
            lookups.append(host)
            host = "127.0.0.1" if len(lookups) == 1 else "127.0.0.2"
        return real(host, *rest, **options)

    monkeypatch.setattr(image_fetch.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(image_fetch, "is_public", lambda address: address == "127.0.0.1")
    with serving(image_urls="public") as (client, _):
        url = f"http://images.example:{port}/a.png"
        assert client.post(ROUTES[0], json=body(ROUTES[0], url)).status_code == 200
        assert lookups == ["images.example"]
        assert images.asked == [("/a.png", f"images.example:{port}")]
        assert "private" in refusal(client, url), "the next request is checked anew"
    assert len(images.asked) == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:1::1", False),
        ("2001:0:1::1", False),
        ("64:ff9b::7f00:1", False),
        ("no address", False),
    ],
)
def test_what_a_public_address_is(address: str, expected: bool) -> None:
    assert is_public(address) is expected


def test_redirects_are_followed_three_times_and_checked(
    images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(image_urls="any") as (client, _):
        url = f"{images.url}/1/to//2/to//3/to//a.png"
        assert client.post(ROUTES[0], json=body(ROUTES[0], url)).status_code == 200
        assert "redirects" in refusal(client, f"{images.url}/0/to//1/to//2/to//3/to//a.png")
        for elsewhere in ("file:///etc/passwd", "http://u:p@127.0.0.1/", "gopher://127.0.0.1/"):
            assert "no http or https" in refusal(client, f"{images.url}/1/to/{elsewhere}")
    monkeypatch.setattr(image_fetch, "is_public", lambda address: address == "127.0.0.1")
    with serving(image_urls="public") as (client, _):
        port = images.url.rpartition(":")[2]
        assert "private" in refusal(client, f"{images.url}/1/to/http://127.0.0.2:{port}/a.png")
    assert ("/a.png", f"127.0.0.2:{port}") not in images.asked


@pytest.mark.parametrize("path", ["large", "endless"])
def test_an_image_has_a_largest_size(images: Any, path: str) -> None:
    with serving(image_urls="any") as (client, _):
        assert "20 MiB" in refusal(client, f"{images.url}/{path}")


def test_all_images_together_have_one(images: Any) -> None:
    settings = ServerSettings(image_urls="any", max_body_bytes=2 * len(PIXELS))
    for number in (2, 3):
        urls = [f"{images.url}/{index}" for index in range(number)]
        messages = body(ROUTES[0], *urls)["messages"]
        work = image_fetch.fetch_images(messages, settings)
        if number == 2:
            assert len(asyncio.run(work)) == 1
            continue
        with pytest.raises(InvalidRequestError, match="together"):
            asyncio.run(work)


def test_a_request_names_so_many_images_at_most(images: Any) -> None:
    with serving(image_urls="any") as (client, _):
        made = body(ROUTES[0], *(f"{images.url}/{number}" for number in range(20)))
        made["messages"] += body(ROUTES[0], *(f"{images.url}/{n}" for n in range(20, 40)))[
            "messages"
        ]
        answer = client.post(ROUTES[0], json=made)
    assert answer.status_code == 400
    assert str(MAX_IMAGES) in answer.json()["error"]["message"]
    assert images.asked == []


@pytest.mark.parametrize("path", ["hangs", "drips"])
def test_a_server_has_so_long_at_most(images: Any, path: str) -> None:
    with serving(image_urls="any", image_timeout_s=0.3) as (client, _):
        assert "0.3 seconds" in refusal(client, f"{images.url}/{path}")


@pytest.mark.parametrize(
    ("path", "words"),
    [("/missing", "404"), ("/cut", "IncompleteRead"), (":1/", "cannot be fetched")],
)
def test_what_cannot_be_fetched_is_a_bad_request(images: Any, path: str, words: str) -> None:
    base = "http://127.0.0.1" if path.startswith(":") else images.url
    with serving(image_urls="any") as (client, _):
        assert words in refusal(client, f"{base}{path}?key=secret")
        assert "secret" not in refusal(client, f"{base}{path}?key=secret")


def test_fetches_take_no_thread_that_others_wait_for(
    images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose name takes for ever to resolve keeps no server from stopping; further fetches are refused."""
    has_begun, is_over = threading.Event(), threading.Event()

    def resolve(*_: Any, **__: Any) -> list[Any]:
        has_begun.set()
        is_over.wait(30)
        return []

    monkeypatch.setattr(image_fetch.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(image_fetch, "_threads", threading.Semaphore(1))
    messages = body(ROUTES[0], f"{images.url}/a.png")["messages"]
    settings = ServerSettings(image_urls="any")

    async def run() -> None:
        first = asyncio.create_task(image_fetch.fetch_images(messages, settings))
        assert await asyncio.to_thread(has_begun.wait, 30)
        with pytest.raises(QueueFullError, match="try again later"):
            await image_fetch.fetch_images(messages, settings)
        first.cancel()

    try:
        asyncio.run(run())  # does not wait for the thread
    finally:
        is_over.set()
