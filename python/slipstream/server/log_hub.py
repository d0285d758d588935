"""Hands log records, and what models are asked and answer, to whoever watches. Costs nothing while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

Source = Literal["server", "runtime", "model"]
Direction = Literal["input", "output"]
SOURCES: tuple[Source, ...] = get_args(Source)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
_QUEUE_RECORDS = 1000
_ENGINE_LOGGERS = ("slipstream.runtime.", "slipstream.engine.", "slipstream.chat.")


class LogChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to see.

    Attributes:
        sources: `server`: the server's own log; `runtime`: that of the engines and who starts them; `model`: requests.
        directions: Of `model`: what is asked, what is answered.
        with_stats: Of answers: token counts and times.
        with_content: What was said, not only how much.
    """

    sources: frozenset[str] = frozenset(SOURCES)
    directions: frozenset[str] = frozenset(DIRECTIONS)
    with_stats: bool = False
    with_content: bool = False


def choose(name: str, text: str | None, allowed: Iterable[str]) -> frozenset[str]:
    """Read a comma-separated list; everything if there is none.

    Raises:
        InvalidRequestError: a word that is not allowed; `param` is `name`.
    """
    if not text:
        return frozenset(allowed)
    words = frozenset(word.strip() for word in text.split(","))
    unknown = sorted(words.difference(allowed))
    if unknown:
        message = f"{name} has {unknown[0][:50]!r}; there are: {', '.join(allowed)}"
        raise InvalidRequestError(message, param=name)
    return words


class LogHub:
    """One per app. Used on the event loop, but for the log, which any thread writes."""

    def __init__(self) -> None:
        self._subscribers: dict[_Subscriber, None] = {}  # in order of arrival

    def is_watched(self, direction: Direction) -> bool:
        """Whether somebody wants to see what models are asked or answer."""
        return bool(self._watchers(direction))

    @contextlib.contextmanager
    def _subscribed(self, choice: LogChoice) -> Any:
        subscriber = _Subscriber(choice)
        handler = None
        if choice.sources & {"server", "runtime"}:
            handler = _Handler(subscriber, asyncio.get_running_loop())
            logging.getLogger("slipstream").addHandler(handler)
        self._subscribers[subscriber] = None
        try:
            yield subscriber
        finally:
            del self._subscribers[subscriber]
            if handler is not None:
                logging.getLogger("slipstream").removeHandler(handler)

    async def records(self, choice: LogChoice) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Yield records as they come, None first: from then on none is missed. Ends when it is closed."""
        with self._subscribed(choice) as subscriber:
            yield None
            while True:
                yield await subscriber.next()

    def asked(self, model: str, request_id: str, given: dict[str, Any], num_chars: int) -> None:
        """Tell what a model is asked.

        Args:
            model: Its key.
            request_id: Of the request.
            given: What the prompt is made of.
            num_chars: Of its text.
        """
        for subscriber in self._watchers("input"):
            data = _record("llm.prediction.input", model, request_id)
            data |= {"input": given if subscriber.choice.with_content else None}
            subscriber.put(data | {"inputCharacters": num_chars})

    def answered(
        self, model: str, request_id: str, text: str, reason: str, stats: dict[str, Any]
    ) -> None:
        """Tell what a model answered.

        Args:
            model: Its key.
            request_id: Of the request.
            text: Reasoning and tool calls included, as far as it came.
            reason: Why it ended.
            stats: Token counts and times.
        """
        for subscriber in self._watchers("output"):
            data = _record("llm.prediction.output", model, request_id)
            data |= {"output": text if subscriber.choice.with_content else None}
            data |= {"outputCharacters": len(text), "finishReason": reason}
            subscriber.put(data | ({"stats": stats} if subscriber.choice.with_stats else {}))

    def _watchers(self, direction: Direction) -> list[_Subscriber]:
        return [
            each
            for each in self._subscribers
            if "model" in each.choice.sources and direction in each.choice.directions
        ]


class _Subscriber:
    """Somebody who watches: a queue that drops what a slow reader leaves, and says how much."""

    def __init__(self, choice: LogChoice) -> None:
        self.choice = choice
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_QUEUE_RECORDS)
        self._num_dropped = 0

    def put(self, data: dict[str, Any], time_s: float | None = None) -> None:
        timestamp = int((time_s or time.time()) * 1000)
        try:
            self._queue.put_nowait({"timestamp": timestamp, "data": data})
        except asyncio.QueueFull:
            self._num_dropped += 1

    async def next(self) -> dict[str, Any]:
        if self._num_dropped and self._queue.empty():
            num, self._num_dropped = self._num_dropped, 0
            return {"timestamp": int(time.time() * 1000), "data": {"type": "dropped", "count": num}}
        return await self._queue.get()


class _Handler(logging.Handler):
    """Passes log records on to one subscriber, from any thread."""

    def __init__(self, subscriber: _Subscriber, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._subscriber = subscriber
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        source = "runtime" if record.name.startswith(_ENGINE_LOGGERS) else "server"
        if source not in self._subscriber.choice.sources:
            return
        data = {
            "type": f"{source}.log",
            "level": record.levelname.lower(),
            "logger": record.name,
            "content": self.format(record),
        }
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._subscriber.put, data, record.created)


def _record(kind: str, model: str, request_id: str) -> dict[str, Any]:
    return {"type": kind, "modelIdentifier": model, "requestId": request_id}
