"""The events of a few requests as an async iterator; the reading half of EngineClient."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from slipstream.base.types import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from slipstream.base.types import Event
    from slipstream.engine.client import EngineClient


class EventStream:
    """The events of the requests of one submit, in the order they come.

    An async iterator for one task; it ends after the last terminal event (a delta with `finish_reason`, or
    RequestFailed). `close`, cancelling the task that waits in it, or dropping it aborts what still runs.
    """

    def __init__(self, client: EngineClient, request_ids: Sequence[str]) -> None:
        self._client = client
        self._open_ids = set(request_ids)
        self._events: deque[Event] = deque()
        self._wake: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if not self._open_ids:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            self._client.waiting.add(self)
            try:
                await self._wake
            except asyncio.CancelledError:
                self.close()
                raise
            finally:
                self._client.waiting.discard(self)
                self._wake = None
        return self._events.popleft()

    def push(self, event: Event) -> None:
        """Take the next event; for the client."""
        self._events.append(event)
        if isinstance(event, RequestFailed) or event.finish_reason is not None:
            self._open_ids.discard(event.request_id)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        """Abort what still runs and forget what has come. Idempotent, never blocks."""
        self._events.clear()
        if self._open_ids:
            self._client.abandon(self._open_ids)
            self._open_ids = set()
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def aclose(self) -> None:
        """Do what `close` does, for contextlib.aclosing."""
        self.close()

    def __del__(self) -> None:
        if self._open_ids:  # a caller that neither read to the end nor closed
            self._client.abandon_later(self._open_ids)
