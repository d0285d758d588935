"""Server processes for e2e tests: start, wait for the ready line, stop, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
READY_S = 120.0
# The clients' own environments do not hold the package.
SLIPSTREAM = Path(sys.executable).with_name("slipstream")
PYTHON = os.environ.get("SLIPSTREAM_TEST_PYTHON", sys.executable)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Ask until the answer is true; a process on the other side gives no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < deadline_s, f"timed out waiting for {what}"
        time.sleep(0.01)
    return answer


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # the second while it is read
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def run_slipstream(*args: object, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `slipstream ARGS` with nothing on stdin and these variables, and check its exit code."""
    done = subprocess.run(
        [SLIPSTREAM, *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == status, done.stderr
    return done


class ServerProcess:
    """A server started by a command line, which gets `--port N` or N appended."""

    def __init__(self, command: list[str], port: int, env: dict[str, str] | None = None) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            start_new_session=True,  # a Ctrl-C at the tests is not one at the server
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_ready(self) -> None:
        """Wait for the line with the URL."""
        self.wait_line(self.url, READY_S)

    def wait_line(self, text: str, timeout_s: float = 10.0) -> str:
        """Wait for a line of output with `text` in it."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                ended = not self._reader.is_alive()
                left_s = deadline_s - time.monotonic()
                if ended or left_s <= 0:
                    output = "\n".join(self.lines)
                    raise AssertionError(f"no line with {text!r} came; the output was:\n{output}")
                self._changed.wait(min(left_s, 1.0))

    @property
    def pid(self) -> int:
        return self._process.pid

    def get(self, path: str) -> str:
        """Body of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return response.read().decode("utf-8")

    def get_json(self, path: str) -> Any:
        """Decoded body of a GET."""
        return json.loads(self.get(path))

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of `name` with these labels in /metrics."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in self.get("/metrics").splitlines():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(label in head for label in wanted):
                total += float(value)
        return total

    def engine_pid(self) -> int:
        """Process id of the engine of the only model."""
        return self.get_json("/health")["models"][0]["pid"]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_exit(self, timeout_s: float) -> int:
        """Wait for the process and for its output; return the exit code."""
        code = self._process.wait(timeout_s)
        self._reader.join(5)
        return code

    def close(self) -> None:
        """End the process and all it started, however it is doing."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()  # its engines see their socket close and exit
                self._process.wait(10)
        self._reader.join(5)
        self._process.stdout.close()


def start_fake_server(*options: str) -> ServerProcess:
    """A server over a scripted generation; wait for its first line."""
    port = free_port()
    script = str(ROOT / "tests" / "support" / "fake_server.py")
    server = ServerProcess([PYTHON, script, str(port), *options], port)
    server.wait_line("loading" if options else f":{port}", READY_S)
    return server


def start_server(*arguments: str, env: dict[str, str] | None = None) -> ServerProcess:
    """`slipstream serve` with these arguments, once it is ready."""
    port = free_port()
    command = [PYTHON, "-m", "slipstream", "serve", *arguments, "--port", str(port)]
    server = ServerProcess(command, port, env)
    try:
        server.wait_ready()
    except BaseException:
        server.close()
        raise
    return server
