"""Images that a request names by an http(s) URL, fetched where the settings allow it, as data URLs.

Who may use the server could otherwise make it ask machines only it can reach (SSRF). So names are resolved here, every
address is checked, and the connection goes to the checked address, whatever the name means a moment later; each
redirect begins anew. Proxies of the environment are not used, for nothing could be checked behind one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from slipstream.base.errors import InvalidRequestError, QueueFullError
from slipstream.server.images import MAX_IMAGE_BYTES, MAX_IMAGES, is_remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from starlette.requests import Request

    from slipstream.runtime.settings import ServerSettings
    from slipstream.server.context import ServerContext

    Message = dict[str, Any]

_MAX_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_OK = 200
_NUM_AT_ONCE = 4
_MAX_THREADS = 32
_threads = threading.Semaphore(_MAX_THREADS)  # of all requests
_PORTS = {"http": 80, "https": 443}
_UNICAST = ipaddress.ip_network(
    "2000::/3"
)  # RFC 4291; what lies outside stands for IPv4 or is local
_PATH_SAFE = "/%:@!$&'()*+,;=~-._?"
_FAILURES = (OSError, http.client.HTTPException, ssl.SSLError, UnicodeError, ValueError)


class _Found(NamedTuple):
    """What a server sent."""

    media_type: str
    data: bytes


async def fetched(
    context: ServerContext, request: Request, messages: Sequence[Message]
) -> list[Message]:
    """Do what `fetch_images` does for a request, until its client goes away."""
    if not _remote_urls(messages):
        return list(messages)
    work = fetch_images(messages, context.settings)
    return await context.in_flight.run(work, request.receive)


async def fetch_images(messages: Sequence[Message], settings: ServerSettings) -> list[Message]:
    """Return the messages with every image as a data URL.

    Args:
        messages: See GenerationSpec; images may have http(s) URLs.
        settings: `image_urls` says whether anything is fetched, `image_timeout_s` how long that may take, for all
            images together, and `max_body_bytes` how large they may be together.

    Raises:
        InvalidRequestError: fetching is off, there are too many, or one cannot be fetched.
    """
    urls = list(dict.fromkeys(_remote_urls(messages)))
    if urls and settings.image_urls == "off":
        message = (
            "an image must be a base64 data URL, as in data:image/png;base64,…; this server fetches none, "
            "unless its setting image_urls is public"
        )
        raise _refusal(message)
    if len(urls) > MAX_IMAGES:
        message = f"{len(urls)} images are to be fetched; at most {MAX_IMAGES} are"
        raise _refusal(message)
    try:
        async with asyncio.timeout(settings.image_timeout_s):
            found = await _fetch_all(urls, settings)
    except TimeoutError:
        message = f"the images did not come within {settings.image_timeout_s:g} seconds"
        raise _refusal(message) from None
    return [_with_data(message, found) for message in messages]


async def _fetch_all(urls: Sequence[str], settings: ServerSettings) -> dict[str, str]:
    deadline_s = time.monotonic() + settings.image_timeout_s
    may_be_private = settings.image_urls == "any"
    turns = asyncio.Semaphore(_NUM_AT_ONCE)
    num_left = settings.max_body_bytes

    async def one(url: str) -> str:
        nonlocal num_left
        async with turns:
            found = await _in_thread(_fetch, url, deadline_s, may_be_private)
        num_left -= len(found.data)
        if num_left < 0:
            message = f"the images have more than {settings.max_body_bytes} bytes together"
            raise _refusal(message)
        return f"data:{found.media_type};base64,{base64.b64encode(found.data).decode('ascii')}"

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {url: group.create_task(one(url)) for url in urls}
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return {url: task.result() for url, task in tasks.items()}


async def _in_thread(work: Callable[..., _Found], *arguments: object) -> _Found:
    """Do a fetch on a thread of its own.

    To resolve a name may take long and cannot be cut short: the event loop's own threads, which chats and loads wait
    for, would soon be taken by a few slow hosts, and a server that stops would wait for them.
    """
    if not _threads.acquire(blocking=False):
        message = f"{_MAX_THREADS} images are being fetched; try again later"
        raise QueueFullError(message)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Found] = loop.create_future()

    def tell(settle: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            loop.call_soon_threadsafe(lambda: None if done.done() else settle(value))

    def run() -> None:
        try:
            found = work(*arguments)
        except Exception as error:  # the thread's edge: whatever it is belongs to the request
            tell(done.set_exception, error)
        else:
            tell(done.set_result, found)
        finally:
            _threads.release()

    threading.Thread(target=run, name="slipstream-image", daemon=True).start()
    return await done


def _fetch(url: str, deadline_s: float, may_be_private: bool) -> _Found:
    """Fetch one image, on a thread. Any URL may lead on to others, which are checked like the first."""
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            found = _ask(url, deadline_s, may_be_private)
            if isinstance(found, _Found):
                return found
            url = found
    except InvalidRequestError:
        raise
    except _FAILURES as error:
        if time.monotonic() >= deadline_s:
            raise TimeoutError from error
        message = f"the image {_shown(url)} cannot be fetched: {type(error).__name__}"
        raise _refusal(message) from error
    message = f"the image {_shown(url)} cannot be fetched: more than {_MAX_REDIRECTS} redirects"
    raise _refusal(message)


def _ask(url: str, deadline_s: float, may_be_private: bool) -> _Found | str:
    """Send one request. Return the image, or where it is instead."""
    parts = _checked(url)
    with closing(_connect(parts, deadline_s, may_be_private)) as raw, _cut_at(deadline_s, raw):
        sock = raw
        if parts.scheme == "https":
            context = ssl.create_default_context()
            sock = context.wrap_socket(raw, server_hostname=parts.hostname)
        with closing(sock), closing(_send(parts, sock)) as response:
            if response.status in _REDIRECTS and (location := response.getheader("location")):
                return urljoin(url, location)
            if response.status != _OK:
                message = (
                    f"the image {_shown(url)} cannot be fetched: its server says {response.status}"
                )
                raise _refusal(message)
            kind = response.headers.get_content_type()
            is_named = kind.startswith("image/")
            return _Found(kind if is_named else "application/octet-stream", _read(response, url))


def _send(parts: SplitResult, sock: socket.socket) -> http.client.HTTPResponse:
    """Ask for a URL over a connection, and read the head of the answer."""
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.sock = sock
    target = quote(parts.path or "/", safe=_PATH_SAFE)
    target += f"?{quote(parts.query, safe=_PATH_SAFE)}" if parts.query else ""
    headers = {
        "Host": parts.netloc.encode("idna").decode("ascii"),
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": "slipstream",
    }
    connection.request("GET", target, headers=headers)
    return connection.getresponse()


@contextlib.contextmanager
def _cut_at(deadline_s: float, sock: socket.socket) -> Iterator[None]:
    """End a connection at a time, whatever it is about then: a server that drips bytes never times out."""
    handle = sock.dup()
    timer = threading.Timer(_left_s(deadline_s), _shut, (handle,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        handle.close()


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
        message = (
            f"the image {_shown(url)} cannot be fetched: it is no http or https URL without a user"
        )
        raise _refusal(message)
    return parts


def _connect(parts: SplitResult, deadline_s: float, may_be_private: bool) -> socket.socket:
    """Connect to the first address that answers; to none if one of them is not allowed."""
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not may_be_private and not all(map(is_public, addresses)):
        message = (
            f"the image {_shown(parts.geturl())} is on a private network; the setting image_urls must be "
            "any for that"
        )
        raise _refusal(message)
    last: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), _left_s(deadline_s))
        except OSError as error:
            last = error
    raise last or OSError(host)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, and stands for no other."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found not in _UNICAST or found.sixtofour is not None or found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    message = (
        f"the image {_shown(url)} is larger than the {MAX_IMAGE_BYTES >> 20} MiB an image may have"
    )
    if (response.length or 0) > MAX_IMAGE_BYTES:
        raise _refusal(message)
    data = response.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise _refusal(message)
    if response.length:  # read(n) does not tell of a body that ends early
        raise http.client.IncompleteRead(data, response.length)
    return data


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _remote_urls(messages: Sequence[Message]) -> list[str]:
    parts = [
        part
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part.get("type") == "image_url"
    ]
    urls = [str(part["image_url"]["url"]) for part in parts]
    return [url for url in urls if is_remote(url)]


def _with_data(message: Message, found: dict[str, str]) -> Message:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    made = []
    for part in content:
        url = part["image_url"]["url"] if part.get("type") == "image_url" else None
        made.append(
            {"type": "image_url", "image_url": {"url": found[url]}} if url in found else part
        )
    return {**message, "content": made}


def _shown(url: str) -> str:
    """Return a URL without its query, which may hold a secret."""
    return repr(url.partition("?")[0][:100])


def _refusal(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="messages")
