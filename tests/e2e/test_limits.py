"""Contexts the machine cannot hold: told by the command line and by the API, and nothing left behind."""

import subprocess
import sys

import psutil
import pytest
from starlette.testclient import TestClient

from slipstream.base.load_config import LoadConfig
from slipstream.runtime.generation import Generation
from slipstream.runtime.model_manager import ModelManager, ServedModel
from slipstream.runtime.settings import ServerSettings
from slipstream.server.app import create_app
from tests.support.processes import free_port
from tests.support.tiny_gguf import write_tiny_model

pytestmark = pytest.mark.e2e

HUGE = 2_000_000_000
TIMEOUT_S = 60


@pytest.fixture
def tiny_file(tmp_path):
    return write_tiny_model(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("command", ["serve", "chat"])
def test_a_context_the_machine_cannot_hold_is_exit_code_1_and_no_traceback(tiny_file, command):
    options = ["--context-length", str(HUGE)]
    options += ["--port", str(free_port())] if command == "serve" else ["-p", "Hello"]
    done = subprocess.run(
        [sys.executable, "-m", "slipstream", command, tiny_file, *options],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    if command == "serve":  # the guardrails of the server look before anything is loaded
        assert last.startswith("slipstream: tiny needs about")
        assert f"a context of {HUGE} tokens" in last
        assert "ask for a shorter context" in last
    else:
        assert last.startswith(f"slipstream: a context of {HUGE} tokens needs about")
        assert "ask for fewer tokens" in last


@pytest.mark.parametrize(
    ("guardrails", "status", "code", "advice"),
    [
        ("balanced", 507, "insufficient_memory", "ask for a shorter context"),
        ("off", 500, "context_create_failed", "ask for fewer tokens"),  # the engine's own word
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_context_the_machine_cannot_hold_is_an_error_object(
    tiny_file, stream, guardrails, status, code, advice
):
    config = LoadConfig(context_length=HUGE, threads=1)
    settings = ServerSettings(guardrails=guardrails)
    models = [ServedModel(key="tiny", path=tiny_file, config=config)]
    manager = ModelManager(models, current=lambda: settings)
    body = {"prompt": "Hello", "stream": stream}
    with TestClient(create_app(Generation(manager), manager)) as client:
        for _ in range(2):  # the second one tries again
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == status
            error = answer.json()["error"]
            assert error["code"] == code
            assert advice in error["message"]
        health = client.get("/health").json()
        assert health["status"] == "ok"
        assert health["models"][0]["last_error"] == error["message"]
    children = psutil.Process().children()  # of this process itself, not of the servers it started
    assert [child for child in children if "slipstream.runtime.worker" in child.cmdline()] == []
