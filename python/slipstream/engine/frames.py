"""What travels between the API process and an engine process, and its bytes. Knows neither end.

A frame is a 4-byte little-endian length and that many bytes of msgpack, one message of the unions below::

    API process  -> engine process   Load  Submit  Abort  Ask  GetStats  Shutdown                 (EngineCommand)
    API process <-  engine process   Progress  Ready | LoadFailed  Events  AskReply  StatsReply   (EngineReply)
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.errors import InvalidRequestError
from slipstream.base.load_config import LoadConfig
from slipstream.base.queries import Query, QueryAnswer, QueryFailed
from slipstream.base.types import Event, GenerationSpec, ModelInstanceInfo
from slipstream.engine.stats import EngineStats

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

MAX_FRAME_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")
_RECV_BYTES = 256 << 10


class Load(msgspec.Struct, tag="load"):
    """Load a model; always the first message, answered by Progress and then Ready or LoadFailed."""

    path: str
    config: LoadConfig


class Submit(msgspec.Struct, tag="submit"):
    """Start a request; its events follow in Events."""

    spec: GenerationSpec


class Abort(msgspec.Struct, tag="abort"):
    """End a request early. Unknown ids are ignored: it may just have finished."""

    request_id: str


class Ask(msgspec.Struct, tag="ask"):
    """Ask for an AskReply with the same serial."""

    serial: int
    query: Query


class GetStats(msgspec.Struct, tag="get_stats"):
    """Ask for a StatsReply with the same serial."""

    serial: int


class Shutdown(msgspec.Struct, tag="shutdown"):
    """End every request and then the process."""


class Progress(msgspec.Struct, tag="progress"):
    """How far the load is, 0 … 1."""

    fraction: float


class Ready(msgspec.Struct, tag="ready"):
    """The model is loaded."""

    info: ModelInstanceInfo


class LoadFailed(msgspec.Struct, tag="load_failed"):
    """The model could not be loaded; the process ends after it.

    Attributes:
        error: Class name in `base.errors`.
        message: For the user.
        path: The file at fault.
    """

    error: str
    message: str
    path: str


class Events(msgspec.Struct, tag="events"):
    """What one step (or several, if the reader was slow) brought, for all requests."""

    events: list[Event]


class AskReply(msgspec.Struct, tag="ask_reply"):
    """The answer to Ask."""

    serial: int
    answer: QueryAnswer | QueryFailed


class StatsReply(msgspec.Struct, tag="stats"):
    """The answer to GetStats."""

    serial: int
    stats: EngineStats


EngineCommand = Load | Submit | Abort | Ask | GetStats | Shutdown
EngineReply = Progress | Ready | LoadFailed | Events | AskReply | StatsReply

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[EngineCommand] = msgspec.msgpack.Decoder(EngineCommand)
_reply_decoder: msgspec.msgpack.Decoder[EngineReply] = msgspec.msgpack.Decoder(EngineReply)
_raw_decoder = msgspec.msgpack.Decoder()


def encode(message: EngineCommand | EngineReply) -> bytes:
    """Return the frame of a message.

    Raises:
        InvalidRequestError: it is larger than MAX_FRAME_BYTES or holds what msgpack cannot carry (an integer beyond
            64 bits, a lone surrogate, lists nested too deeply).
    """
    try:
        body = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        text = f"a value cannot be sent to the engine: {error}"
        raise InvalidRequestError(text) from error
    if len(body) > MAX_FRAME_BYTES:
        text = f"a message of {len(body)} bytes is larger than the {MAX_FRAME_BYTES} allowed"
        raise InvalidRequestError(text)
    return _LENGTH.pack(len(body)) + body


def decode_command(body: bytes) -> EngineCommand:
    """Return the message of a frame's body, in the engine process.

    Raises:
        ValueError: it is no command.
    """
    try:
        return _command_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = f"not a command: {error}"
        raise ValueError(text) from error


def decode_reply(body: bytes) -> EngineReply:
    """Return the message of a frame's body, in the API process.

    Raises:
        ValueError: it is no reply.
    """
    try:
        return _reply_decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = f"not a reply: {error}"
        raise ValueError(text) from error


def request_id_of(body: bytes) -> str | None:
    """Return the request id in a Submit that `decode_command` refused, so that it can be answered."""
    try:
        raw: Any = _raw_decoder.decode(body)
        request_id = raw["spec"]["request_id"]
    except (msgspec.MsgspecError, ValueError, RecursionError, LookupError, TypeError):
        return None
    return request_id if isinstance(request_id, str) else None


def serial_of(body: bytes) -> int | None:
    """Return the serial of an Ask that `decode_command` refused, so that it can be answered."""
    try:
        raw: Any = _raw_decoder.decode(body)
        serial = raw["serial"] if raw["type"] == "ask" else None
    except (msgspec.MsgspecError, ValueError, RecursionError, LookupError, TypeError):
        return None
    return serial if isinstance(serial, int) else None


class FrameSplitter:
    """Cuts a byte stream into the bodies of frames, however it arrives. O(1) per byte."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes and yield the body of every frame they complete. Exhaust it before the next call.

        Raises:
            ValueError: a length above MAX_FRAME_BYTES; nothing after it can be understood.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length > MAX_FRAME_BYTES:
                    text = f"a frame of {length} bytes is larger than the {MAX_FRAME_BYTES} allowed"
                    raise ValueError(text)
                end = start + _LENGTH.size + length
                if len(buffer) < end:
                    return
                body = bytes(memoryview(buffer)[start + _LENGTH.size : end])
                start = end
                yield body
        finally:
            del buffer[:start]


class FrameSocket:
    """Blocking frames on a stream socket: one thread may read while another writes.

    Args:
        sock: Connected, blocking; closed by `close`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._splitter = FrameSplitter()
        self._ready: list[bytes] = []

    def read(self) -> bytes | None:
        """Wait for the next frame's body; None at the end of the stream, even if it cuts a frame.

        Raises:
            ValueError: see FrameSplitter.feed.
        """
        while not self._ready:
            try:
                data = self._sock.recv(_RECV_BYTES)
            except OSError:  # reset by a peer that died
                return None
            if not data:
                return None
            self._ready = list(self._splitter.feed(data))
            self._ready.reverse()
        return self._ready.pop()

    def write(self, frame: bytes) -> bool:
        """Send an encoded frame, waiting as long as it takes.

        Returns:
            False if the peer is gone.
        """
        try:
            self._sock.sendall(frame)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
