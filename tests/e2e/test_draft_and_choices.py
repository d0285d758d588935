"""Figures of real answers: several choices share their prompt's cells, and a draft model's counts add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.support.processes import ServerProcess, start_server
from tests.support.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx2.post(f"{server.url}{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_choices_share_the_prompt(server: ServerProcess) -> None:
    before = server.metric("slipstream_engine_computed_tokens_total")
    text = "A prompt nobody has sent before: " + " ".join(f"n{number}" for number in range(150))
    body = {"messages": [{"role": "user", "content": text}], "n": 4, "max_tokens": 4, "seed": 1}
    usage = post(server, "/v1/chat/completions", body | {"ignore_eos": True})["usage"]
    computed = server.metric("slipstream_engine_computed_tokens_total") - before
    assert usage["prompt_tokens"] > 300
    assert usage["completion_tokens"] == 16
    # The prompt once, its last token for each choice, and the choices' tokens with what was drafted for them.
    assert computed < 1.5 * usage["prompt_tokens"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model and, as its own draft model, a copy: so that most of what is drafted is accepted."""
    home = tmp_path_factory.mktemp("home")
    for name in ("tiny", "small"):
        folder: Path = home / "models" / "acme" / name
        folder.mkdir(parents=True)
        write_tiny_model(folder / f"{name}-F32.gguf", "llama")
    env = {"SLIPSTREAM_HOME": str(home)}
    process = start_server("acme/tiny", "--context-length", "256", "--threads", "1", env=env)
    yield process
    process.close()


def test_a_draft_models_counts_add_up_and_change_nothing(pair: ServerProcess) -> None:
    options = {"model": "acme/small", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "abc", **options},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "abc"}], **options},
    }
    plain = {path: post(pair, path, body) for path, body in bodies.items()}
    for path, body in bodies.items():
        assert plain[path]["stats"] == {}
        drafted = post(pair, path, body | {"draft_model": "acme/tiny"})
        stats = drafted["stats"]
        assert stats["draft_model"].lower().startswith("tiny")
        kinds = ("accepted", "rejected", "ignored")
        counts = [stats[f"{kind}_draft_tokens_count"] for kind in kinds]
        assert stats["total_draft_tokens_count"] == sum(counts)
        assert drafted["choices"] == plain[path]["choices"]
        assert drafted["usage"]["completion_tokens"] == 40
