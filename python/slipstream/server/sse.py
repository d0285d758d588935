"""Server-sent events: the response that streams them, and how every stream ends. Knows no API's fields."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from slipstream.base.errors import ClosedError
from slipstream.server.errors import describe
from slipstream.server.in_flight import ClientGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Receive, Scope, Send

    from slipstream.server.in_flight import InFlight

PLACE = "\x00"  # stands for a value that changes
_PLACE_JSON = json.dumps(PLACE).encode("ascii")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def data_event(body: bytes) -> bytes:
    """Return one event. `body` is JSON, so it has no raw line ends."""
    return b"data: " + body + b"\n\n"


def named_event(name: str, fields: dict[str, Any]) -> bytes:
    """Return one event with a name of its own and JSON data; ASCII, as some clients split lines at U+2028."""
    data = json.dumps(fields, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode("ascii")


def cut_event(name: str, fields: dict[str, Any]) -> list[bytes]:
    """Return a named event cut at every value that is PLACE, for what is sent with each token."""
    return named_event(name, fields).split(_PLACE_JSON)


def openai_end(error: BaseException | None) -> bytes:
    """Return how OpenAI's older streams end: with the error object, if there is an error, and [DONE]."""
    return DONE if error is None else data_event(describe(error).body()) + DONE


class SseResponse(Response):
    """Streams ready-made events.

    The head is sent with the first event, so that an error before it (a prompt too long, a model that does not load)
    still has its HTTP status. When the first event takes longer than `keep_alive_s` (a model loads, the queue is
    long) the head goes out with a comment, so that no proxy or client gives up. `end` says how a stream ends, and how
    an error after the head is told.

    Args:
        events: Closed in the end, whatever happens; it frees what belongs to it in its `finally`.
        in_flight: Ends the stream when the client goes away or the server closes.
        keep_alive_s: Seconds between comments before the first event.
        end: Makes the last events, given the error that ended the stream or None.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        in_flight: InFlight,
        keep_alive_s: float,
        end: Callable[[BaseException | None], bytes] = openai_end,
    ) -> None:
        # no-transform and X-Accel-Buffering: a proxy must not gather events
        headers = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self._events = events
        self._in_flight = in_flight
        self._keep_alive_s = keep_alive_s
        self._end = end
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end, the client goes away or the server closes."""
        with contextlib.suppress(ClientGoneError):
            await self._in_flight.run(self._feed(send), receive)

    async def _feed(self, send: Send) -> None:
        async with aclosing(self._events):
            try:
                await self._send_all(send)
                last = self._end(None)
            except asyncio.CancelledError:
                if not (self._started and self._in_flight.closing):
                    raise
                message = "the server is shutting down"
                last = self._end(ClosedError(message))
            except Exception as error:
                if not self._started:
                    raise
                last = self._end(error)
            await self._start(send)
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_all(self, send: Send) -> None:
        first = await self._first_event(send)
        if first is None:
            return
        await self._start(send)
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _first_event(self, send: Send) -> bytes | None:
        """Wait for the first event, with comments meanwhile. None: there are no events at all."""
        first = asyncio.ensure_future(anext(self._events, None))
        try:
            while True:
                done, _pending = await asyncio.wait((first,), timeout=self._keep_alive_s)
                if done:
                    return first.result()
                await self._start(send)
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        finally:
            if not first.done():
                first.cancel()
                await asyncio.wait((first,))

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
