#!/usr/bin/env python3
"""Run a command with its output in a log file, and show one line of progress meanwhile.

On a terminal the line is rewritten in place; elsewhere it comes every ten seconds. A command that is done within
two seconds shows nothing, one that fails shows the end of its log. V=1 in the environment shows all output instead.

usage: progress.py LABEL LOG -- COMMAND ...
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

QUIET_S = 2.0
PLAIN_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.25
TAIL_LINES = 60
CLEAR_LINE = "\r\033[K"
STEP = re.compile(rb"\[(\d+)/(\d+)\]")  # how ninja counts


class Reader(threading.Thread):
    """Copies the command's output to the log and remembers ninja's last count."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(daemon=True)
        self.process, self.log, self.step = process, log, ""

    def run(self) -> None:
        with self.log.open("wb") as out:
            for line in self.process.stdout or ():
                out.write(line)
                out.flush()
                if found := STEP.search(line):
                    self.step = f" [{found[1].decode()}/{found[2].decode()}]"


def show(label: str, reader: Reader) -> int:
    """Print progress until the command ends; return its exit code."""
    terminal = sys.stderr.isatty()
    interval = TERMINAL_INTERVAL_S if terminal else PLAIN_INTERVAL_S
    started = time.monotonic()
    delay = QUIET_S
    while True:
        reader.join(delay)
        elapsed = time.monotonic() - started
        if not reader.is_alive():
            break
        line = f"{label}{reader.step} {elapsed:.0f} s"
        print(
            f"{CLEAR_LINE}{line}" if terminal else line,
            end="" if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
        delay = interval
    code = reader.process.wait()
    if elapsed >= QUIET_S and code == 0:
        print(
            f"{CLEAR_LINE if terminal else ''}{label}: done in {elapsed:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return code


def main() -> int:
    label, log, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    if os.environ.get("V") == "1":
        return subprocess.call(command)
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    reader = Reader(process, path)
    reader.start()
    try:
        code = show(label, reader)
    except KeyboardInterrupt:  # the command got the signal, too
        process.wait()
        return 130
    if code:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        print("\n".join([f"\n{label}: failed; the end of {log}:", *lines]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
