"""ASGI layers around every route: request log, CORS and body limit.

Pure ASGI, since Starlette's BaseHTTPMiddleware costs 60 us for each chunk of a stream.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from slipstream.server.errors import ErrorDetail

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

# A client that is still sending does not read; take in this much more so that it sees the answer.
_DRAIN_BYTES = 64 << 20
_INTERNAL_ERROR = 500


class Cors:
    """Lets pages of other origins in, those of the moment; without any there are no CORS headers at all.

    Args:
        app: What is inside.
        origins: Those of the moment; "*" for all.
    """

    def __init__(self, app: ASGIApp, origins: Callable[[], tuple[str, ...]]) -> None:
        self._app = app
        self._origins = origins
        self._made_for: tuple[str, ...] = ()
        self._cors = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner app, with CORS around it if there are origins."""
        origins = self._origins()
        if origins != self._made_for:
            self._made_for = origins
            self._cors = self._app
            if origins:
                self._cors = CORSMiddleware(
                    self._app,
                    allow_origins=origins,
                    allow_methods=["GET", "POST", "DELETE"],
                    allow_headers=["*"],
                    max_age=3600,
                )
        await self._cors(scope, receive, send)


class _BodyTooLarge(Exception):
    """The body passed the limit while the app was reading it."""


class BodyLimit:
    """Answer a request whose body is larger than `max_body_bytes` with `reply`, read no more of it than needed.

    Args:
        app: What is inside.
        max_body_bytes: Largest body let through.
        reply: Makes the answer; an ASGI app, so that the HTTP status stays in app.py.
    """

    def __init__(
        self, app: ASGIApp, max_body_bytes: int, reply: Callable[[ErrorDetail], ASGIApp]
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner app with a counting `receive`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        num_bytes = 0
        more_body = True
        started = False

        async def counting_receive() -> Message:
            nonlocal num_bytes, more_body
            message = await receive()
            if message["type"] == "http.request":
                more_body = message.get("more_body", False)
                num_bytes += len(message.get("body", b""))
                if num_bytes > self._max_body_bytes:
                    raise _BodyTooLarge
            return message

        async def watching_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        if _content_length(scope) > self._max_body_bytes:
            await _drain(receive)
            await self._refuse(scope, receive, send)
            return
        try:
            await self._app(scope, counting_receive, watching_send)
        except _BodyTooLarge:
            if started:
                raise
            if more_body:
                await _drain(receive)
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_mib = self._max_body_bytes / (1 << 20)
        message = f"the request body is larger than {limit_mib:g} MiB, the limit of this server"
        detail = ErrorDetail(message, "invalid_request_error", None, "request_too_large")
        await self._reply(detail)(scope, receive, send)


async def _drain(receive: Receive) -> None:
    num_bytes = 0
    while num_bytes < _DRAIN_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


class RequestLog:
    """Log one line for each request: method, path, status and milliseconds. Never the content.

    Args:
        app: What is inside.
        observe: Called with (endpoint or None, status, seconds) when the request has ended.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[object, int, float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner app and note the status it sent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        start_s = time.monotonic()

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        except Exception:
            status = status or _INTERNAL_ERROR  # the layer outside answers
            raise
        finally:
            elapsed_s = time.monotonic() - start_s
            self._observe(scope.get("endpoint"), status, elapsed_s)
            # status 0: the client went away before there was an answer
            _log.info(
                "%s %r %d %.1f ms", scope["method"], scope["path"][:200], status, elapsed_s * 1e3
            )
