"""Start-up: wall time of `slipstream version`, `--help` and `import slipstream`, memory of the API process.

usage: bench_startup.py [RUNS]

Medians of RUNS (20) runs after one warm-up. Targets: version 300 ms, API process 120 MB before any model (it holds
none later, either: models live in processes of their own).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from slipstream.benchmark.stats import summarize

SLIPSTREAM = str(Path(sys.executable).with_name("slipstream"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import slipstream": [sys.executable, "-c", "import slipstream"],
    "slipstream version": [SLIPSTREAM, "version"],
    "slipstream --help": [SLIPSTREAM, "--help"],
}


def wall_ms(command):
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - started)


def api_process_mb():
    """Resident memory of a server that is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [SLIPSTREAM, "serve", "demo", "--port", port, "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            server.stdout.readline()
            return psutil.Process(server.pid).memory_info().rss / 1e6
        finally:
            server.terminate()


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for name, command in COMMANDS.items():
        wall_ms(command)
        summary = summarize([wall_ms(command) for _ in range(runs)])
        print(f"{name:<20} {summary.median:7.1f} ms  (lowest {summary.lowest:.1f})")
    print(f"{'API process':<20} {api_process_mb():7.1f} MB")


if __name__ == "__main__":
    main()
