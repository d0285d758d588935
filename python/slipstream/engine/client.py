"""The API process' end of an engine process: submit, stream, abort. Knows frames, not how the process is started."""

from __future__ import annotations

import asyncio
import itertools
import logging
import weakref
from typing import TYPE_CHECKING, cast

from slipstream.base.errors import (
    EngineDiedError,
    InvalidRequestError,
    ModelLoadError,
    ModelUnloadedError,
    SlipstreamError,
    by_name,
)
from slipstream.base.queries import QueryFailed
from slipstream.base.types import RequestFailed
from slipstream.engine import frames
from slipstream.engine.event_stream import EventStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Self

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.base.types import Event, GenerationSpec, ModelInstanceInfo
    from slipstream.engine.stats import EngineStats

_log = logging.getLogger(__name__)


class EngineClient(asyncio.Protocol):
    """One engine process as the event loop sees it. Every method belongs to the loop's thread.

    Args:
        describe_end: Awaited once the socket has closed; tells how the process ended ("killed by SIGKILL").
        on_lost: Called after the waiting requests were told, with that description.

    Attributes:
        on_idle: Called when the last request has ended.
    """

    def __init__(
        self,
        describe_end: Callable[[], Awaitable[str]],
        on_lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._describe_end = describe_end
        self._on_lost = on_lost
        self._splitter = frames.FrameSplitter()
        # By request id until the terminal event; None once nobody waits for it. Weak, so that a stream that was
        # dropped is noticed; `waiting` keeps alive those (and their tasks) that wait for an event.
        self._streams: dict[str, weakref.ref[EventStream] | None] = {}
        self.waiting: set[EventStream] = set()
        self._stats_waiters: dict[int, asyncio.Future[EngineStats]] = {}
        self._askers: dict[int, asyncio.Future[QueryAnswer]] = {}
        self._serials = itertools.count()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[ModelInstanceInfo] | None = None
        self._progress: Callable[[float], None] | None = None
        self._info: ModelInstanceInfo | None = None
        self._end: str | None = None
        self._protocol_error: str | None = None
        self._end_task: asyncio.Task[None] | None = None
        self._is_ending = False
        self.on_idle: Callable[[], None] = lambda: None

    @classmethod
    async def connect(
        cls,
        sock: socket.socket,
        describe_end: Callable[[], Awaitable[str]],
        on_lost: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Attach to one end of a socketpair; the client owns it from here."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(describe_end, on_lost), sock=sock)
        return client

    @property
    def info(self) -> ModelInstanceInfo:
        """What the engine holds; only after `load`."""
        assert self._info is not None, "load() comes first"
        return self._info

    @property
    def is_alive(self) -> bool:
        """Whether the socket is open. False the moment the engine's end closes."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def num_requests(self) -> int:
        """Requests without a terminal event, questions without an answer."""
        return len(self._streams) + len(self._askers)

    async def load(
        self, path: str, config: LoadConfig, progress: Callable[[float], None] | None = None
    ) -> ModelInstanceInfo:
        """Have the engine load a model. Once, before anything else.

        Cancelling does not stop the engine: whoever started the process ends it.

        Args:
            path: The file.
            config: How to load it.
            progress: Called on the event loop with the fraction done.

        Raises:
            ModelLoadError: the file is no usable model, or the process died over it.
            SlipstreamError: what else the engine tells, e.g. ContextCreateError.
        """
        if self._end is not None:  # it ended before it was asked
            message = f"{path}: the engine process {self._end}"
            raise ModelLoadError(message, path=path)
        self._loaded = self._loop.create_future()
        self._progress = progress
        self._send(frames.Load(path, config))
        try:
            self._info = await self._loaded
        except EngineDiedError as error:
            message = f"{path}: {error.message}"
            raise ModelLoadError(message, path=path) from None
        return self._info

    def submit(self, specs: Sequence[GenerationSpec]) -> EventStream:
        """Start requests and return the one stream of their events. Errors come as RequestFailed events."""
        stream = EventStream(self, [spec.request_id for spec in specs])
        out = bytearray()
        refused: list[RequestFailed] = []
        for spec in specs:
            request_id = spec.request_id
            if request_id in self._streams:
                message = f"a request with the id {request_id!r} is running"
                refused.append(_failed(request_id, InvalidRequestError, message))
                continue
            if not self.is_alive:
                message = "the engine process ended before the request; send it again"
                refused.append(_failed(request_id, EngineDiedError, message))
                continue
            try:
                out += frames.encode(frames.Submit(spec))
            except InvalidRequestError as error:
                refused.append(_failed(request_id, InvalidRequestError, error.message))
                continue
            self._streams[request_id] = weakref.ref(stream)
        if out and self._transport is not None:
            self._transport.write(bytes(out))
        for event in refused:
            stream.push(event)
        return stream

    def abort(self, request_id: str) -> None:
        """Ask for the end of a request; its stream still gets its terminal event. Unknown ids are ignored."""
        if request_id in self._streams:
            self._send(frames.Abort(request_id))

    def abandon(self, request_ids: set[str]) -> None:
        """Abort requests whose events nobody waits for any more; their ids stay taken until they have ended."""
        for request_id in request_ids:
            if self._streams.get(request_id) is not None:
                self._streams[request_id] = None
                self._send(frames.Abort(request_id))

    def abandon_later(self, request_ids: set[str]) -> None:
        """Do what `abandon` does from a finalizer, which may run on any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.abandon, request_ids)

    async def stats(self) -> EngineStats:
        """Ask the engine for its figures.

        Raises:
            EngineDiedError: the process ended.
        """
        if not self.is_alive:
            message = "the engine process ended"
            raise EngineDiedError(message)
        serial = next(self._serials)
        waiter: asyncio.Future[EngineStats] = self._loop.create_future()
        self._stats_waiters[serial] = waiter
        self._send(frames.GetStats(serial))
        try:
            return await waiter
        finally:
            self._stats_waiters.pop(serial, None)

    async def ask(self, query: Query) -> QueryAnswer:
        """Have a question about text answered.

        Raises:
            EngineDiedError: the process ended.
            SlipstreamError: whatever the engine tells (InvalidRequestError, TemplateError …).
        """
        if not self.is_alive:
            message = "the engine process ended before the request; send it again"
            raise EngineDiedError(message)
        serial = next(self._serials)
        asker: asyncio.Future[QueryAnswer] = self._loop.create_future()
        self._askers[serial] = asker
        try:
            self._send(frames.Ask(serial, query))
            return await asker
        finally:
            self._askers.pop(serial, None)
            self._tell_idle()

    def shutdown(self) -> None:
        """Ask the engine to end; the socket closes when it has."""
        self._is_ending = True
        self._send(frames.Shutdown())

    def close(self) -> None:
        """Close the socket, which ends the engine process the hard way. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out what the engine sends. A frame that is none ends the engine: some request's end may be lost."""
        replies: list[frames.EngineReply] = []
        try:
            replies.extend(frames.decode_reply(body) for body in self._splitter.feed(data))
        except ValueError as error:
            self._protocol_error = f"it sent what is no frame ({error})"
            _log.error("the engine process is ended: %s", self._protocol_error)
            self.close()
        for reply in replies:
            self._receive(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits, once it is known how the process ended."""
        self._end_task = self._loop.create_task(self._tell_the_end())

    # end of asyncio.Protocol

    def _receive(self, reply: frames.EngineReply) -> None:
        if isinstance(reply, frames.Events):
            for event in reply.events:
                self._deliver(event)
        elif isinstance(reply, frames.StatsReply):
            waiter = self._stats_waiters.get(reply.serial)
            if waiter is not None and not waiter.done():
                waiter.set_result(reply.stats)
        elif isinstance(reply, frames.AskReply):
            asker = self._askers.get(reply.serial)
            if asker is not None and not asker.done():
                answer = reply.answer
                if isinstance(answer, QueryFailed):
                    asker.set_exception(by_name(answer.error)(answer.message, param=answer.param))
                else:
                    asker.set_result(answer)
        elif isinstance(reply, frames.Progress):
            if self._progress is not None:
                self._progress(reply.fraction)
        elif self._loaded is not None and not self._loaded.done():
            if isinstance(reply, frames.Ready):
                self._loaded.set_result(reply.info)
            else:
                self._loaded.set_exception(_load_error(reply))

    def _deliver(self, event: Event) -> None:
        reference = self._streams.get(event.request_id)
        if isinstance(event, RequestFailed) or event.finish_reason is not None:
            self._streams.pop(event.request_id, None)
        stream = reference() if reference is not None else None
        if stream is not None:  # else abandoned while this was under way
            stream.push(event)
        self._tell_idle()

    def _tell_idle(self) -> None:
        if not self.num_requests:
            self.on_idle()

    async def _tell_the_end(self) -> None:
        try:
            how = await self._describe_end()
        except Exception:  # the edge of the task: the waiting requests must hear of it
            _log.exception("no description of the engine's end")
            how = "ended for an unknown reason"
        if self._protocol_error is not None:
            how = f"{how} after {self._protocol_error}"
        kind: type[SlipstreamError] = EngineDiedError
        message = f"the engine process {how}"
        if self._is_ending:
            kind, message = ModelUnloadedError, "the model was unloaded"
        text = f"{message}; the next request loads the model again"
        for request_id in list(self._streams):
            self._deliver(_failed(request_id, kind, text))
        for future in (self._loaded, *self._stats_waiters.values(), *self._askers.values()):
            if future is not None and not future.done():
                future.set_exception(kind(message))
        self._end = how
        self._on_lost(how)

    def _send(self, message: frames.EngineCommand) -> None:
        if self._transport is not None and self.is_alive:
            self._transport.write(frames.encode(message))


def _failed(request_id: str, error: type[Exception], message: str) -> RequestFailed:
    return RequestFailed(request_id, error.__name__, message)


def _load_error(reply: frames.LoadFailed) -> Exception:
    cls = by_name(reply.error)
    if issubclass(cls, ModelLoadError):
        return cls(reply.message, path=reply.path)
    return cls(reply.message)
