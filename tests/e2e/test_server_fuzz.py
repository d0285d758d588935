"""Damaged model files against a running server: an engine process may die of one, but every request is answered."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.gguf_writer import gguf_bytes
from tests.support.mutations import mutated_file
from tests.support.processes import ServerProcess, start_server, wait_until
from tests.support.tiny_gguf import tiny_parts, write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KINDS = (
    "llama",
    "gemma3",
    "mamba",
    "lfm2",
)  # one served model of each: requests to them run side by side
NUM_FILES = int(os.environ.get("SLIPSTREAM_FUZZ_FILES", "120"))
FIRST_SEED = 10_000  # test_load_faults.py loads those from 0 on
MAX_KILLS = 2  # per 500 files, as in test_load_faults.py
MAX_API_RSS_BYTES = 120 << 20
# What a client may be told about a file, by the status it comes with.
CODES = {
    400: {None, "context_length_exceeded"},
    500: {None, "model_load_failed", "context_create_failed"},
    503: {"engine_died"},
    507: {"insufficient_memory"},  # what a damaged header asks for, refused by the guardrails
}


@pytest.fixture
def tiny_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of one tiny model of each kind."""
    paths = [str(write_tiny_model(tmp_path / f"{kind}.gguf", kind)) for kind in KINDS]
    options = ("--context-length", "64", "--parallel", "2", "--threads", "1")
    process = start_server(*paths, *options, "--log-level", "error")
    yield process
    process.close()


class Slot:
    """A served model whose file changes from request to request."""

    def __init__(self, server: ServerProcess, path: Path) -> None:
        self.key = path.stem
        self.parts = tiny_parts(path.stem)
        self._server = server
        self._path = path

    def answer_from(self, file: bytes) -> tuple[int, dict]:
        """Put `file` in the model's place and ask it something; the answer's status and document."""
        self._unload()
        fresh = self._path.with_suffix(".fresh")
        fresh.write_bytes(file)
        fresh.replace(self._path)
        body = {"model": self.key, "prompt": "Hello", "max_tokens": 4, "logprobs": 2}
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        with closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read(), parse_constant=pytest.fail)

    def _health(self) -> dict:
        return next(m for m in self._server.get_json("/health")["models"] if m["id"] == self.key)

    def _unload(self) -> None:
        pid = self._health()["pid"]
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self._health()["state"] == "not-loaded", "the end of an engine")


def outcome(seed: int, status: int, document: dict) -> str:
    """Check an answer and put it into a word or two."""
    what = f"seed {seed}: {status} {document}"
    if status == 200:
        assert isinstance(document["choices"][0]["text"], str), what
        assert 1 <= document["usage"]["completion_tokens"] <= 4, what
        return "answered"
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"}, what
    assert error["message"], what
    assert error["code"] in CODES[status], what
    killed = error["code"] == "engine_died" or "engine process" in error["message"]
    return "engine killed" if killed else f"{status} {error['code']}"


def num_requests(server: ServerProcess) -> float:
    return server.metric("slipstream_http_requests_total", route="/v1/completions")


def test_every_damaged_file_is_answered_and_the_server_lives_on(
    tiny_server: ServerProcess, tmp_path: Path
) -> None:
    slots = [Slot(tiny_server, tmp_path / f"{kind}.gguf") for kind in KINDS]

    def run(place: int) -> list[str]:
        slot, outcomes = slots[place], []
        for seed in range(FIRST_SEED + place, FIRST_SEED + NUM_FILES, len(slots)):
            file = mutated_file(*slot.parts, random.Random(seed))
            outcomes.append(outcome(seed, *slot.answer_from(file)))
        return outcomes

    with ThreadPoolExecutor(len(slots)) as pool:
        counts = Counter(word for words in pool.map(run, range(len(slots))) for word in words)
    print(dict(counts))  # pytest -s shows the figures
    assert counts.total() == NUM_FILES
    assert counts["engine killed"] <= max(1, MAX_KILLS * NUM_FILES // 500), counts
    assert counts["answered"] >= NUM_FILES // 50  # harmless changes still load
    assert num_requests(tiny_server) == NUM_FILES

    # Nothing is lost: the whole files load again, one engine process each, in the same API process.
    for slot in slots:
        assert slot.answer_from(gguf_bytes(*slot.parts))[0] == 200
    api = psutil.Process(tiny_server.pid)
    assert len(api.children(recursive=True)) == len(slots)
    assert api.memory_info().rss < MAX_API_RSS_BYTES
    assert tiny_server.get_json("/health")["status"] == "ok"
