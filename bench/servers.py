"""Servers for benchmarks: ours and llama-server, each in a process of its own, with the same threads and context."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LLAMA_SERVER = Path(__file__).parent.parent / "build" / "peers" / "bin" / "llama-server"
READY_S = 120
STOP_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What both servers are started with. threads 0: the physical cores."""

    model: str
    threads: int = 0
    context_length: int = 8192
    parallel: int = 8


def slipstream_command(shape: Shape, *options: str) -> list[str]:
    """`slipstream serve` of this checkout, without a port."""
    return [sys.executable, "-m", "slipstream", "serve", shape.model, "--context-length", str(shape.context_length),
            "--parallel", str(shape.parallel), "--threads", str(shape.threads), "--log-level", "error",
            *options]  # fmt: skip


def llama_server_command(shape: Shape, *options: str) -> list[str]:
    """llama-server with one KV cache for all its slots, as ours has; everything else is its default."""
    threads = ["--threads", str(shape.threads)] if shape.threads else []
    return [str(LLAMA_SERVER), "--model", shape.model, "--ctx-size", str(shape.context_length),
            "--parallel", str(shape.parallel), "--kv-unified", *threads, "--offline", *options]  # fmt: skip


@contextlib.contextmanager
def running(command: Sequence[str], **env: str) -> Iterator[str]:
    """Start a server with these variables, wait until it is healthy, yield its URL, stop it.

    Raises RuntimeError with the end of its output if it ends or does not get healthy.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | env,
        )
        try:
            _wait(process, url, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def api_process(url: str) -> psutil.Process:
    """Return the server's own process: the one that listens."""
    port = int(url.rpartition(":")[2])
    for process in psutil.Process().children():
        if any(c.laddr and c.laddr.port == port for c in process.net_connections("tcp")):
            return process
    message = f"no child listens on {port}"
    raise RuntimeError(message)


def _wait(process: subprocess.Popen[bytes], url: str, log) -> None:
    deadline_s = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(url + "/health").status_code == httpx2.codes.OK:
                return
        time.sleep(0.1)
    log.seek(0)
    raise RuntimeError(f"{process.args[0]} did not get ready:\n{log.read()[-2000:]}")
