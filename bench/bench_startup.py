"""What starting costs: `slipstream version`, `import slipstream`, and the memory of the API process before any model.

    python bench/bench_startup.py [--repeats 11] [--starts 3] [--json FILE]

Every sample is a fresh process. Arms run in turn, round by round; `python -c pass` is the floor under all of them.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from slipstream.base.config import demo_model_path
from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import summarize

if TYPE_CHECKING:
    from collections.abc import Callable

SLIPSTREAM = str(Path(sys.executable).with_name("slipstream"))
MAX_VERSION_MS = 300.0
MAX_API_RSS_MIB = 120.0
BANNED = ("numpy", "pydantic", "starlette", "slipstream._core")  # until they are used
TIMEOUT_S = 60

# Prints the milliseconds of the import, then what it brought along.
IMPORT = """
import sys, time
before = set(sys.modules)
begin = time.perf_counter()
import slipstream
print((time.perf_counter() - begin) * 1e3)
print(*sorted(set(sys.modules) - before))
"""

# The API process of `slipstream serve` with a model that waits for its first request: what it imports, no load.
SERVE = """
import socket
from pathlib import Path
import slipstream.cli.main
from slipstream.base import log
from slipstream.runtime.model_manager import ModelManager, ServedModel
from slipstream.runtime.settings import ServerSettings
from slipstream.server.serve import run

log.configure("error")
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
manager = ModelManager([ServedModel(key="waiting", path=Path("waiting.gguf"))])
run(manager, ServerSettings(port=port), on_ready=lambda url: print(url, flush=True))
"""


def wall_ms(*command: str) -> float:
    """Run a command to its end."""
    begin_s = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    return (time.perf_counter() - begin_s) * 1e3


def import_ms(modules: set[str]) -> float:
    """Import the package in a fresh interpreter; add what that loaded to `modules`."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    milliseconds, names = done.stdout.splitlines()
    modules.update(names.split())
    return float(milliseconds)


def api_process(command: list[str]) -> tuple[float, float]:
    """Start an API process; return the milliseconds until it answers and its MiB then, without its engines."""
    import httpx2

    begin_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found, "the server did not start"
            url = found[0]
            ready_ms = (time.perf_counter() - begin_s) * 1e3
            for path in ("/health", "/v1/models", "/metrics"):  # what a first request still brings
                httpx2.get(url + path, timeout=TIMEOUT_S).raise_for_status()
            return ready_ms, psutil.Process(process.pid).memory_info().rss / 2**20
        finally:
            process.terminate()


def measure(num_repeats: int, num_starts: int) -> tuple[dict[str, list[float]], set[str]]:
    """Return samples by arm, and the modules that the import brought."""
    modules: set[str] = set()
    arms: dict[str, Callable[[], float]] = {
        "python -c pass, ms": lambda: wall_ms(sys.executable, "-c", "pass"),
        "slipstream version, ms": lambda: wall_ms(SLIPSTREAM, "version"),
        "slipstream --help, ms": lambda: wall_ms(SLIPSTREAM, "--help"),
        "import slipstream, ms": lambda: import_ms(modules),
    }
    samples: dict[str, list[float]] = {}
    for number in range(num_repeats + 1):  # the first round warms the page cache
        for arm, run in arms.items():
            sample = run()
            if number:
                samples.setdefault(arm, []).append(sample)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    servers = {"before any model": [sys.executable, "-c", SERVE]}
    if demo_model_path().is_file():
        options = ("--port", port, "--log-level", "error")
        servers["with demo loaded"] = [SLIPSTREAM, "serve", "demo", *options]
    for _ in range(num_starts):
        for state, command in servers.items():
            ready_ms, rss_mib = api_process(command)
            samples.setdefault(f"API process ready {state}, ms", []).append(ready_ms)
            samples.setdefault(f"API process {state}, MiB", []).append(rss_mib)
    return samples, modules


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--starts", type=int, default=3, help="of the API process")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    samples, modules = measure(args.repeats, args.starts)
    bars = {
        "slipstream version, ms": MAX_VERSION_MS,
        "API process before any model, MiB": MAX_API_RSS_MIB,
    }
    report: dict[str, Any] = {"benchmark": "startup", **provenance(), "arms": {}}
    print(f"{'':40} median   lowest  highest")
    for arm, values in samples.items():
        s = summarize(values)
        bar = bars.get(arm)
        verdict = (
            "" if bar is None else f"  bar {bar:.0f}: {'met' if s.median <= bar else 'MISSED'}"
        )
        print(f"{arm:40}{s.median:7.1f}{s.lowest:9.1f}{s.highest:9.1f}{verdict}")
        report["arms"][arm] = {**asdict(s), "samples": values, "bar": bar}
    banned = [name for name in BANNED if name in modules]
    report["import_slipstream"] = {"modules": sorted(modules), "banned": banned}
    print(
        f"import slipstream brings {len(modules)} modules, of {', '.join(BANNED)}: "
        f"{', '.join(banned) + ' (MISSED)' if banned else 'none'}"
    )
    if args.json:
        target = Path(args.json)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
