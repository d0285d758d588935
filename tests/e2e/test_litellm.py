"""LiteLLM, by its openai and its anthropic provider, against a real server with the demo model."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it downloads one
pytest.importorskip("litellm", reason="make test-clients has an environment with it")

import litellm

if TYPE_CHECKING:
    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "max_tokens": 16, "api_key": "none", "num_retries": 0}


@pytest.fixture(params=["openai", "anthropic"])
def route(request: pytest.FixtureRequest, server: ServerProcess) -> dict[str, Any]:
    name = server.get_json("/v1/models")["data"][0]["id"]
    base = server.url + ("/v1" if request.param == "openai" else "")
    return {"model": f"{request.param}/{name}", "api_base": base, **GREEDY}


def test_an_answer_has_text_and_usage(route: dict[str, Any]) -> None:
    answer = litellm.completion(messages=ASK, **route)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.completion_tokens > 0


def test_a_stream_adds_up(route: dict[str, Any]) -> None:
    litellm.completion(messages=ASK, **route)  # from the same cells; see test_openai_client
    plain = litellm.completion(messages=ASK, **route)
    chunks = list(litellm.completion(messages=ASK, stream=True, **route))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content


def test_async_calls_are_answered(route: dict[str, Any]) -> None:
    assert asyncio.run(litellm.acompletion(messages=ASK, **route)).choices[0].message.content


def test_errors_are_its_own(route: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=ASK, **{**route, "model": route["model"] + "-no-such"})
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(litellm.BadRequestError, match="context"):
        litellm.completion(messages=long, **route)
