"""Starts, watches and ends one engine process. Runs in the API process; never imports the native core."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from slipstream.base.errors import ModelLoadError
from slipstream.engine.client import EngineClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from slipstream.base.load_config import LoadConfig
    from slipstream.base.types import ModelInstanceInfo

_log = logging.getLogger(__name__)
_KEPT_LINES = 200
_SHOWN_LINES = 3
_MAX_LINE_CHARS = 400
_SHUTDOWN_S = 2.0
_EXIT_AFTER_SOCKET_S = 2.0
_KILL_S = 2.0
_OWN_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (slipstream\b.*)")
# What a dying process writes past our logging: ggml's and C++'s last words, Python's stack dump.
_LAST_WORDS = re.compile(
    r"\S+\.\w+:\d+: |terminate called|\s+what\(\): |Fatal Python error: |(Current t|T)hread 0x|\s+File \""
)
# What a dying process says about its cause, in order of worth; the rest is stack dumps.
_CAUSES = (
    re.compile(
        r"GGML_ASSERT|GGML_ABORT|ggml_abort|terminate called|what\(\):|out of memory|bad_alloc"
    ),
    re.compile(r"Fatal Python error|Error\b|error:|failed"),
)


def worker_command(fd: int, log_level: int) -> list[str]:
    """Return the command line of an engine process that serves the inherited socket `fd`."""
    module = "slipstream.runtime.worker"
    return [sys.executable, "-m", module, "--fd", str(fd), "--log-level", str(log_level)]


class EngineProcess:
    """An engine process and its client. Made by `start`; belongs to the event loop.

    Args:
        process: Just started.
        name: For the log.
    """

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self._process = process
        self._name = name
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._exited: Future[int] = Future()
        self._is_loaded = False
        self._is_ending = False
        self._client: EngineClient | None = None
        watcher = threading.Thread(target=self._watch, name=f"engine-{process.pid}", daemon=True)
        watcher.start()

    @classmethod
    async def start(
        cls,
        name: str,
        path: str,
        config: LoadConfig,
        *,
        before: Callable[[], Awaitable[None]] | None = None,
        progress: Callable[[float], None] | None = None,
        on_lost: Callable[[str], None] = lambda _: None,
        command: Callable[[int, int], list[str]] = worker_command,
    ) -> Self:
        """Start a process and have it load a model. Cancelling ends the process.

        Args:
            name: For the log.
            path: Model file.
            config: How to load it.
            before: Awaited while the process starts and before it loads; what it raises ends the process.
            progress: Called on the event loop with 0 … 1.
            on_lost: Called on the event loop when the process has ended, in whatever way, with a description.
            command: Makes the command line; tests put another program there.

        Returns:
            The process with a loaded model.

        Raises:
            ModelLoadError: the file is no usable model, or the process died over it.
            SlipstreamError: whatever else the load ended with, or `before`. The process is gone in every case.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # A few ms on the event loop, once per load: a thread could not be cancelled half-way.
                process = _spawn(command(theirs.fileno(), _log.getEffectiveLevel()), theirs)
            except OSError as error:
                ours.close()
                message = f"cannot start an engine process for {path}: {error}"
                raise ModelLoadError(message, path=path) from error
        engine = cls(process, name)
        try:
            client = await EngineClient.connect(ours, engine.wait_end, on_lost)
            engine._client = client
            if before is not None:
                await before()
            info = await client.load(path, config, progress)
            engine._is_loaded = True
        except BaseException:
            engine.kill()
            ours.close() if engine._client is None else engine._client.close()
            await asyncio.shield(engine._wait_exit(_KILL_S))
            raise
        _log.info("%s: loaded in %.1f s by process %d", name, info.load_s, info.pid)
        return engine

    @property
    def client(self) -> EngineClient:
        """Where to send requests."""
        assert self._client is not None
        return self._client

    @property
    def info(self) -> ModelInstanceInfo:
        """What the process holds."""
        return self.client.info

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests."""
        return not self._is_ending and self.client.is_alive and not self._exited.done()

    async def wait_end(self) -> str:
        """Wait for the exit after the socket closed, killing what does not go, and describe it."""
        code = await self._wait_exit(_EXIT_AFTER_SOCKET_S)
        if code is None:
            self.kill()
            await self._wait_exit(_KILL_S)
            how = "closed its socket without ending, and was killed"
        elif self._is_ending:
            return "was stopped"
        else:
            how = describe_exit(code, list(self._lines))
        _log.error("%s: the engine process %s", self._name, how)
        return how

    async def terminate(self) -> None:
        """Let it end its requests and exit; kill it after 2 s. Idempotent."""
        self._is_ending = True
        self.client.shutdown()
        if await self._wait_exit(_SHUTDOWN_S) is None:
            _log.warning("%s: process %d did not stop in time and is killed", self._name, self.pid)
            self.kill()
            await self._wait_exit(_KILL_S)
        self.client.close()

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self._is_ending = True
        if not self._exited.done():
            self._process.kill()  # Popen knows if it was reaped already

    async def _wait_exit(self, timeout_s: float) -> int | None:
        """Return the exit code, None if it still runs after `timeout_s`."""
        exited = asyncio.wrap_future(self._exited)
        done, _ = await asyncio.wait({exited}, timeout=timeout_s)
        return exited.result() if done else None

    def _watch(self) -> None:
        """Log what the process writes, then reap it. The watcher thread."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip()[:_MAX_LINE_CHARS]
                if line:
                    level, text = read_line(line, self._is_loaded)
                    _log.log(level, "%s: %s", self._name, text)
                    if level > logging.DEBUG:
                        self._lines.append(line)
        self._exited.set_result(self._process.wait())


def read_line(line: str, is_loaded: bool) -> tuple[int, str]:
    """Tell how a line of an engine process' output is logged.

    Native code writes to stderr past its log, too. While it loads, that is about the model; later it may quote what
    a user sent (a grammar that does not parse), so only what is plainly of a dying process stays above debug.

    Args:
        line: Without its end.
        is_loaded: Whether the process takes requests.

    Returns:
        Level and text.
    """
    own = _OWN_LINE.match(line)
    if own is not None:
        return logging.getLevelNamesMapping()[own[1]], own[2]
    if is_loaded and not _LAST_WORDS.match(line):
        return logging.DEBUG, line
    return logging.WARNING, line


def _spawn(command: list[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment.setdefault("GGML_NO_BACKTRACE", "1")  # else an abort starts a debugger first
    return subprocess.Popen(
        command,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal is for the API process alone
        env=environment,
    )


def describe_exit(code: int, lines: list[str]) -> str:
    """Say how a process ended, with the lines of its output that tell why.

    Args:
        code: As subprocess gives it: negative for a signal.
        lines: Last lines of its output.

    Returns:
        A phrase that follows "the engine process", e.g. "was killed by SIGKILL".
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        text = f"was killed by {name}" if code != -signal.SIGABRT else "aborted (SIGABRT)"
    elif code == 128 + signal.SIGABRT:
        text = f"ended with exit code {code} (abort)"
    else:
        text = f"ended with exit code {code}"
    shown = _telling_lines(lines) if code not in (0, -signal.SIGKILL, -signal.SIGTERM) else []
    return f"{text}: {' | '.join(shown)}" if shown else text


def _telling_lines(lines: list[str]) -> list[str]:
    for pattern in _CAUSES:
        found = [line for line in lines if pattern.search(line)]
        if found:
            return found[-_SHOWN_LINES:]
    return lines[-_SHOWN_LINES:]
