"""The requests being answered: each ends when its work does, when its client goes away, or when the server closes.

Granian announces ASGI 2.3 and its `send` after a disconnect only logs, so the one sign that a client is gone is the
`http.disconnect` message: the work runs in a task of its own while another waits for that message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from slipstream.base.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client closed its connection; there is nobody to answer."""


class InFlight:
    """Runs the work of requests and ends it early where need be. Used on the event loop only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closing = False

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
        """Run `work` to its end, unless the client disconnects or the server closes first.

        Args:
            work: Cancelled in the two other cases; its `finally` blocks have run when this returns.
            receive: Of the request, whose body has been read.

        Returns:
            What `work` returned.

        Raises:
            ClientGoneError: the client disconnected.
            ClosedError: the server is shutting down.
        """
        if self.closing:
            work.close()
            raise _closing()
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(receive))
        self._tasks.add(task)
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
                raise ClientGoneError
            if task.cancelled():
                raise _closing()
            return task.result()
        finally:
            self._tasks.discard(task)
            for other in (task, gone):
                if not other.done():
                    other.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def close(self, grace_s: float, cancel_s: float) -> None:
        """Refuse new work, let the running requests end by themselves, then end the rest with an error.

        Args:
            grace_s: Seconds for those that are nearly done.
            cancel_s: Seconds for the others to tell their clients.
        """
        self.closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=cancel_s)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _closing() -> ClosedError:
    message = "the server is shutting down"
    return ClosedError(message)
