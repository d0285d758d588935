"""A program on a pseudo-terminal: type to it, wait for what it shows."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time

# Makes the inherited terminal the controlling one, so that Ctrl-C becomes SIGINT as it does for a user.
_ATTACH = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """Runs a command on a terminal of its own. A context manager; leaving it ends the command.

    Args:
        command: Program with arguments; the program is a path.
        env: Of the command, on top of ours.
    """

    def __init__(self, command, env=None):
        self._fd, inner = pty.openpty()
        fcntl.ioctl(
            inner, termios.TIOCSWINSZ, b"\x28\x00\x78\x00\x00\x00\x00\x00"
        )  # 40 rows, 120 columns
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ATTACH, *map(str, command)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})},
        )
        os.close(inner)
        self.shown = ""
        self._seen = 0

    def type(self, text):
        """Send keys; \\r is Enter, \\x03 Ctrl-C, \\x04 Ctrl-D."""
        os.write(self._fd, text.encode())

    def wait_for(self, text, timeout_s=60.0):
        """Wait until `text` is shown after what an earlier wait found; return what came up to its end."""
        deadline = time.monotonic() + timeout_s
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._read(deadline), (
                f"{text!r} did not come; shown: {self.shown[self._seen :]!r}"
            )
        start, self._seen = self._seen, at + len(text)
        return self.shown[start : self._seen]

    def wait_exit(self, timeout_s=20.0):
        """Wait for the end of the command; return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline):
            pass
        return self.process.wait(timeout=max(0.1, deadline - time.monotonic()))

    def _read(self, deadline):
        ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._fd, 65536) if ready else b""
        except OSError:  # Linux says so when the other end is closed
            data = b""
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)
