"""The engine process: one model behind a socket. Imports no web framework and ends when its socket does.

main thread     load, then wait for the end
reader thread   commands from the socket; at its end the process exits, whatever else is going on
writer thread   replies to the socket; steps whose events it could not send yet become one frame
prompt, engine  of EngineHost; compute of EmbeddingHost
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from slipstream.base.errors import (
    EngineDiedError,
    InvalidRequestError,
    ModelLoadError,
    SlipstreamError,
)
from slipstream.base.queries import QueryFailed
from slipstream.base.types import RequestFailed
from slipstream.engine import frames
from slipstream.models.facts import pooling_kind
from slipstream.models.gguf import check_model_file
from slipstream.runtime.host import EngineHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.types import Event
    from slipstream.runtime.embedding_host import EmbeddingHost

    Host = EngineHost | EmbeddingHost

_log = logging.getLogger(__name__)
_PROGRESS_EVERY_S = 0.05
_FLUSH_S = 1.0
_CLOSE_S = 1.0
EXIT_LOAD_FAILED = 3
EXIT_ENGINE_DIED = 4


class ReplyWriter:
    """Sends replies from a thread of its own, so that a slow reader never holds up a step. Any thread may call it.

    Args:
        sock: Where to.
    """

    def __init__(self, sock: frames.FrameSocket) -> None:
        self._sock = sock
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._replies: list[frames.EngineReply] = []
        self._is_sending = False
        self._thread = threading.Thread(target=self._run, name="slipstream-writer", daemon=True)
        self._thread.start()

    def send(self, reply: frames.EngineReply) -> None:
        """Queue a reply other than Events."""
        with self._changed:
            self._replies.append(reply)
            self._changed.notify_all()

    def send_events(self, events: list[Event]) -> None:
        """Queue the events of a step."""
        with self._changed:
            self._events += events
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Wait until everything queued is in the socket, but no longer than `timeout_s`."""
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._events or self._replies or self._is_sending), timeout_s
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()
                while not (self._events or self._replies):
                    self._changed.wait()
                self._is_sending = True
                replies, self._replies = self._replies, []
                if self._events:
                    replies.append(frames.Events(self._events))
                    self._events = []
            for reply in replies:
                self._write(reply)

    def _write(self, reply: frames.EngineReply) -> None:
        try:
            frame = frames.encode(reply)
        except InvalidRequestError as error:
            if isinstance(reply, frames.Events):
                self._write_parts(reply.events, error)
            elif isinstance(reply, frames.AskReply):
                failed = QueryFailed(type(error).__name__, error.message)
                self._write(frames.AskReply(reply.serial, failed))
            else:
                _log.exception("a reply cannot be sent")
            return
        if not self._sock.write(frame):
            _log.debug("the API process is gone")  # the reader thread ends this one

    def _write_parts(self, events: list[Event], error: InvalidRequestError) -> None:
        """Send the events of a frame that is too large: by halves, and a failure for one too large alone."""
        if len(events) == 1:
            failed = RequestFailed(events[0].request_id, type(error).__name__, error.message)
            self._write(frames.Events([failed]))
            return
        middle = len(events) // 2
        self._write(frames.Events(events[:middle]))
        self._write(frames.Events(events[middle:]))


def load_host(path: str, config: LoadConfig, progress: Callable[[float], bool]) -> Host:
    """Load what a file holds: a model of text, or one of vectors. Arguments and errors as EngineHost.load."""
    header = check_model_file(path)
    if pooling_kind(header):
        from slipstream.runtime.embedding_host import EmbeddingHost  # brings numpy along

        return EmbeddingHost.load(path, config, progress, header)
    return EngineHost.load(path, config, progress, header)


class Worker:
    """Serves one socket.

    Args:
        sock: Connected to an EngineClient, blocking.
        load: load_host, or a test's stand-in.
        leave: Ends the process from the reader thread; os._exit but for tests.
    """

    def __init__(
        self,
        sock: socket.socket,
        load: Callable[[str, LoadConfig, Callable[[float], bool]], Host] = load_host,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._sock = frames.FrameSocket(sock)
        self._load = load
        self._leave = leave
        self._writer = ReplyWriter(self._sock)
        self._host: Host | None = None
        self._stop = threading.Event()
        self._exit_code = 0

    def run(self) -> int:
        """Load what the first command names and serve until told to stop.

        Returns:
            Exit code of the process.
        """
        body = self._sock.read()
        if body is None:
            return 0
        command = frames.decode_command(body)
        if not isinstance(command, frames.Load):
            message = f"the first command must be Load, not {type(command).__name__}"
            raise TypeError(message)
        threading.Thread(target=self._read, name="slipstream-reader", daemon=True).start()
        host = self._load_host(command)
        if host is None:
            return EXIT_LOAD_FAILED
        self._host = host
        self._writer.send(frames.Ready(host.info))
        self._stop.wait()
        host.close(_CLOSE_S)
        self._writer.flush(_FLUSH_S)
        return self._exit_code

    def _load_host(self, command: frames.Load) -> Host | None:
        last_s = 0.0

        def progress(fraction: float) -> bool:
            nonlocal last_s
            now_s = time.monotonic()
            if now_s - last_s >= _PROGRESS_EVERY_S:
                last_s = now_s
                self._writer.send(frames.Progress(fraction))
            return not self._stop.is_set()

        try:
            return self._load(command.path, command.config, progress)
        except (
            Exception
        ) as error:  # the edge of the process: whatever it is, the other end must hear of it
            if isinstance(error, SlipstreamError):
                kind, message = type(error).__name__, error.message
            else:
                _log.exception("the load failed for an unforeseen reason")
                kind = ModelLoadError.__name__
                message = f"cannot load {command.path}: {type(error).__name__}: {error}"
            path = getattr(error, "path", "") or command.path
            self._writer.send(frames.LoadFailed(kind, message, path))
            self._writer.flush(_FLUSH_S)
            return None

    def _read(self) -> None:
        """Carry out commands; ends the process when the socket closes, without asking any other thread."""
        try:
            while (body := self._sock.read()) is not None:
                self._carry_out(body)
        except ValueError as error:
            _log.error("the commands cannot be read any further: %s", error)
        self._leave(0)

    def _carry_out(self, body: bytes) -> None:
        host = self._host
        try:
            command = frames.decode_command(body)
        except ValueError as error:
            self._refuse(body, error)
            return
        if isinstance(command, frames.Shutdown):
            self._stop.set()
        elif host is None:
            _log.warning("%s before the model is loaded is ignored", type(command).__name__)
        elif isinstance(command, frames.Submit):
            host.submit(command.spec, self._take_events)
        elif isinstance(command, frames.Abort):
            host.abort(command.request_id)
        elif isinstance(command, frames.Ask):
            serial = command.serial
            host.ask(
                command.query, lambda answer: self._writer.send(frames.AskReply(serial, answer))
            )
        elif isinstance(command, frames.GetStats):
            self._writer.send(frames.StatsReply(command.serial, host.stats()))

    def _refuse(self, body: bytes, error: ValueError) -> None:
        kind, text = InvalidRequestError.__name__, f"the request is {error}"
        request_id, serial = frames.request_id_of(body), frames.serial_of(body)
        if serial is not None:
            self._writer.send(frames.AskReply(serial, QueryFailed(kind, text)))
        elif request_id is not None:
            self._writer.send_events([RequestFailed(request_id, kind, text)])
        else:
            _log.warning("ignored: %s", error)

    def _take_events(self, events: list[Event]) -> None:
        self._writer.send_events(events)
        for event in events:
            if isinstance(event, RequestFailed) and event.error == EngineDiedError.__name__:
                # The step thread has stopped for good; a fresh process is the cure.
                self._exit_code = EXIT_ENGINE_DIED
                self._stop.set()


class LineFormatter(logging.Formatter):
    """Puts level and name before every line of a record: without them it is taken for output of native code."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, a traceback included."""
        head = f"{record.levelname} {record.name}: "
        return "\n".join(head + line for line in super().format(record).splitlines())


def main(arguments: list[str] | None = None) -> None:
    """Run the engine process; `--fd` names an inherited socket. Does not return."""
    parser = argparse.ArgumentParser(prog="python -m slipstream.runtime.worker")
    parser.add_argument("--fd", type=int, required=True, help="connected stream socket to serve")
    parser.add_argument("--log-level", type=int, default=logging.INFO)
    options = parser.parse_args(arguments)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API process' to handle
    # The API process reads these lines and logs them again under their level; see engine_process.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("slipstream").setLevel(options.log_level)
    exit_code = 1
    try:
        # While the API process still looks whether the model may be loaded.
        importlib.import_module("slipstream.engine.llama_runner")
        exit_code = Worker(socket.socket(fileno=options.fd)).run()
    except Exception:
        _log.exception("the engine process cannot go on")
    finally:
        sys.stderr.flush()
        # Not sys.exit: threads of a step that does not heed the interrupt must not keep the process.
        os._exit(exit_code)


if __name__ == "__main__":
    main()
