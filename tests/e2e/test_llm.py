"""The `llm` command line against a real server with the demo model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("llm", reason="make test-clients has an environment with it")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e


@pytest.fixture
def run(server: ServerProcess, tmp_path: Path) -> Callable[..., str]:
    """Run `llm` with a model `local`, and return what it prints."""
    name = server.get_json("/v1/models")["data"][0]["id"]
    entry = f'- model_id: local\n  model_name: "{name}"\n  api_base: {server.url}/v1\n'
    (tmp_path / "extra-openai-models.yaml").write_text(entry, encoding="utf-8")
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    environment.pop("PYTHONPATH", None)

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


OPTIONS = ("-o", "temperature", "0", "-o", "max_tokens", "24")


def test_it_answers_streamed_and_not(run: Callable[..., str]) -> None:
    ask = ("-m", "local", "What is the capital of France?", *OPTIONS)
    assert run(*ask).strip()
    assert run(*ask, "--no-stream").strip()


def test_a_conversation_goes_on_and_is_logged(run: Callable[..., str]) -> None:
    run("-m", "local", "Name a river.", "-s", "Be brief.", *OPTIONS)
    assert run("-c", "Another one.", *OPTIONS).strip()
    logged = json.loads(run("logs", "--json"))
    assert len(logged) == 2
    assert logged[0]["input_tokens"] > 5
