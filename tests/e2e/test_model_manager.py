"""Loading and unloading on a real server with real engines: on request, by hand, and what goes wrong meanwhile."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.support.processes import is_alive, run_slipstream, start_server, wait_until
from tests.support.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
TIMEOUT_S = 60
KEY = "acme/tiny"


@pytest.fixture
def tiny_file(slipstream_home: Path) -> Path:
    path = slipstream_home / "models" / "acme" / "tiny" / "tiny-Q4_0.gguf"
    path.parent.mkdir(parents=True)
    return write_tiny_model(path, "llama")


@pytest.fixture
def own(demo_model: Path, tiny_file: Path) -> Iterator[ServerProcess]:
    """A server of the demo model, with a tiny one in its store."""
    server = start_server(str(demo_model), "--context-length", "2048", "--threads", "1")
    yield server
    server.close()


def post(server: ServerProcess, path: str, status: int = 200, **body) -> dict:
    answer = httpx2.post(f"{server.url}{path}", json=body, timeout=TIMEOUT_S)
    assert answer.status_code == status, answer.text
    return answer.json()


def complete(server: ServerProcess, model: str = KEY, status: int = 200, **fields) -> dict:
    body = {"model": model, "prompt": "abc", "max_tokens": 4, **fields}
    return post(server, "/v1/completions", status, **body)


def instances(server: ServerProcess) -> dict[str, dict]:
    listed = server.get_json("/api/v1/models")["models"]
    return {one["id"]: one for model in listed for one in model["loaded_instances"]}


def health(server: ServerProcess, key: str) -> dict | None:
    return next((one for one in server.get_json("/health")["models"] if one["id"] == key), None)


def test_a_request_loads_a_model_of_the_store_until_it_is_idle(own: ServerProcess) -> None:
    complete(own, ttl=0.2)
    pid = wait_until(lambda: KEY not in instances(own) or health(own, KEY)["pid"], "the load")
    wait_until(lambda: KEY not in instances(own), "the end of its time")
    if isinstance(pid, int):
        wait_until(lambda: not is_alive(pid), "the end of its engine")
    complete(own)  # and once more


def test_loads_by_hand_are_told_and_answer_under_their_names(own: ServerProcess) -> None:
    first = post(own, "/api/v1/models/load", model=KEY, context_length=256, echo_load_config=True)
    second = post(own, "/api/v1/models/load", model=KEY, parallel=1)
    assert [first["instance_id"], second["instance_id"]] == [KEY, f"{KEY}:2"]
    assert first["load_config"]["context_length"] == 256
    assert complete(own, f"{KEY}:2")["model"] == f"{KEY}:2"
    assert (
        post(own, "/api/v0/completions", model=KEY, prompt="abc")["stats"]["generation_time"] >= 0
    )
    post(own, "/api/v1/models/unload", instance_id=KEY)
    assert set(instances(own)) == {f"{KEY}:2", own.get_json("/health")["models"][0]["id"]}
    assert complete(own, KEY)["model"] == f"{KEY}:2"  # of that model, one is loaded


def test_unloading_ends_what_runs_with_an_error(own: ServerProcess) -> None:
    demo = own.get_json("/health")["models"][0]["id"]
    body = {"model": demo, "prompt": "Once", "max_tokens": 1500, "stream": True, "ignore_eos": True}
    url = f"{own.url}/v1/completions"
    with httpx2.stream("POST", url, json=body, timeout=TIMEOUT_S) as response:
        lines = response.iter_lines()
        next(line for line in lines if '"text":"' in line)
        post(own, "/api/v1/models/unload", instance_id=demo)
        rest = [line[6:] for line in lines if line.startswith("data: ")]
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["error"]["code"] == "model_unloaded"
    assert complete(own, demo)["model"] == demo  # the next request loads it again


def test_a_deleted_file_serves_on_and_is_told_when_it_is_needed_again(
    own: ServerProcess, tiny_file: Path
) -> None:
    post(own, "/api/v1/models/load", model=KEY)
    tiny_file.unlink()
    complete(own)
    os.kill(health(own, KEY)["pid"], signal.SIGKILL)
    wait_until(lambda: health(own, KEY)["state"] == "not-loaded", "the death")
    message = complete(own, status=500)["error"]["message"]
    assert tiny_file.name in message


@pytest.mark.usefixtures("tiny_file")
def test_an_idle_time_shorter_than_the_queue_ends_no_request_in_it() -> None:
    server = start_server("--no-load", "--parallel", "1", "--threads", "1")
    try:
        body = {"prompt": "abc", "max_tokens": 200, "ignore_eos": True, "ttl": 0.05}
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: complete(server, KEY, **body), range(4)))
        assert [answer["usage"]["completion_tokens"] for answer in answers] == [200] * 4
        wait_until(lambda: KEY not in instances(server), "the end of its time")
    finally:
        server.close()


def test_two_loads_that_do_not_fit_together_are_one_load_and_one_refusal(
    own: ServerProcess,
) -> None:
    wanted = post(own, "/api/v1/models/estimate", model=KEY)["total_bytes"]
    demo = next(iter(instances(own).values()))["memory_bytes"]
    run_slipstream("settings", "set", "guardrail_bytes", int(demo + 1.5 * wanted))
    run_slipstream("settings", "set", "guardrails", "custom")

    def load(_number: int) -> int:
        body = {"model": KEY}
        return httpx2.post(f"{own.url}/api/v1/models/load", json=body, timeout=60).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(load, range(2))) == [200, 507]


def test_two_requests_at_once_share_a_load(own: ServerProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: complete(own, name), [KEY, "tiny", "ACME/Tiny", KEY]))
    assert {answer["model"] for answer in answers} == {KEY}
    assert health(own, KEY)["num_loads"] == 1


def test_a_killed_server_has_lost_no_finished_answer(
    demo_model: Path, tiny_file: Path, slipstream_home: Path
) -> None:
    server = start_server(str(demo_model), "--context-length", "2048", "--threads", "1")
    try:
        kept = post(server, "/api/v1/chat", model=KEY, input="abc", max_output_tokens=4)
        server.signal(signal.SIGKILL)
        server.wait_exit(10)
    finally:
        server.close()
    server = start_server(str(demo_model), "--context-length", "2048", "--threads", "1")
    try:
        fields = {"model": KEY, "input": "def", "max_output_tokens": 4}
        again = post(server, "/api/v1/chat", previous_response_id=kept["response_id"], **fields)
        assert again["stats"]["input_tokens"] > kept["stats"]["input_tokens"]
    finally:
        server.close()
