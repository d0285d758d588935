"""What the model manager costs: python bench/bench_manager.py [--server]. Medians; see bench/README.md.

Without a model: listing 500 models over the app in process, and the manager's share of a request. With --server, on
the demo model: a load on request from the page cache to the first token, and the memory of 200 idle event streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from typing import TYPE_CHECKING

from servers import api_process, running
from starlette.testclient import TestClient

from slipstream.base.config import demo_model_path
from slipstream.runtime import loader
from slipstream.runtime.generation import Generation
from slipstream.runtime.model_manager import ModelManager
from slipstream.server.app import create_app
from tests.support.fake_engine import FakeEngine, machine, small
from tests.support.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    import psutil

NUM_MODELS = 500
NUM_STREAMS = 200


def median_ms(action, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin_s)
    return statistics.median(times) * 1e3


def fill_store(home: Path) -> None:
    source = write_tiny_model(home / "tiny.gguf", "llama")
    for i in range(NUM_MODELS):
        target = home / f"models/pub-{i % 20}/model-{i}-GGUF/model-{i}-Q4_K_M.gguf"
        target.parent.mkdir(parents=True)
        target.hardlink_to(source)


def listing() -> dict[str, float]:
    manager = ModelManager(estimates=small, memory=machine())
    library = manager._instances._library
    with TestClient(create_app(Generation(manager), manager)) as client:
        client.get("/api/v1/models")
        figures = {}
        for path in ("/api/v1/models", "/api/v0/models", "/v1/models"):

            def ask(path: str = path) -> None:
                library._scanned_s = -1e9  # as a second later: the folders are looked at again
                assert client.get(path).status_code == 200

            figures[f"list {NUM_MODELS} models, {path} (ms)"] = median_ms(ask, 15)
        return figures


async def per_request() -> dict[str, float]:
    loader.EngineProcess = FakeEngine
    FakeEngine.at_once = True
    manager = ModelManager(estimates=small, memory=machine())
    names = {"identifier": "pub-7/model-7", "another spelling": "MODEL-7"}
    await manager.client("pub-7/model-7")
    figures = {}
    for kind, name in names.items():
        await manager.resolve(name)
        times = []
        for _ in range(2000):
            begin_s = time.perf_counter()
            client = await manager.client(await manager.resolve(name))
            client.on_idle()
            times.append(time.perf_counter() - begin_s)
        figures[f"manager's share of a request by {kind} (us)"] = statistics.median(times) * 1e6
    await manager.close()
    return figures


def rss_mib(process: psutil.Process) -> float:
    return process.memory_info().rss / (1 << 20)


def connect(port: int, body: dict) -> socket.socket:
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), 60)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    connection.sendall(head.encode() + data)
    return connection


def first_token_s(port: int, body: dict) -> float:
    begin_s = time.perf_counter()
    with connect(port, body) as connection:
        seen = b""
        while b'"delta":{"content"' not in seen:
            part = connection.recv(65536)
            assert part, seen
            seen += part
    return time.perf_counter() - begin_s


def with_server() -> dict[str, float]:
    import httpx2

    demo = demo_model_path()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "models/pub/demo/demo.gguf"
        target.parent.mkdir(parents=True)
        target.symlink_to(demo)
        command = [sys.executable, "-m", "slipstream", "serve", str(demo), "--log-level", "error"]
        with running(command, SLIPSTREAM_HOME=folder) as url:
            port = int(url.rpartition(":")[2])
            key = httpx2.get(f"{url}/v1/models").json()["data"][0]["id"]
            body = {
                "model": key,
                "messages": [{"role": "user", "content": "Say hello."}],
                "max_tokens": 8,
                "stream": True,
            }
            times = []
            for _ in range(9):
                httpx2.post(f"{url}/api/v1/models/unload", json={"instance_id": key}, timeout=30)
                times.append(first_token_s(port, body))
            warm = [first_token_s(port, body) for _ in range(9)]
            process = api_process(url)
            before = rss_mib(process)
            body["max_tokens"] = 100000
            streams = [connect(port, body) for _ in range(NUM_STREAMS)]
            time.sleep(3.0)
            after = rss_mib(process)
            for stream in streams:
                stream.close()
            return {
                "load on request to the first token (s)": statistics.median(times),
                "first token of a loaded model (s)": statistics.median(warm),
                f"memory of {NUM_STREAMS} waiting streams (MiB)": after - before,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", action="store_true", help="also what needs the demo model")
    options = parser.parse_args()
    figures = with_server() if options.server else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SLIPSTREAM_HOME"] = folder
        fill_store(Path(folder))
        figures |= listing()
        figures |= asyncio.run(per_request())
    for name, value in figures.items():
        print(f"{name:60} {value:10.3f}")


if __name__ == "__main__":
    main()
