"""What becomes of a chat that does not fit: each route's own word for it, and the setting where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from slipstream.runtime.settings import ServerSettings
from slipstream.server.app import create_app
from tests.support.fake_generation import MODEL, FakeGeneration, FakeManager

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/api/v1/chat": {"input": "Hi"},
}


@pytest.fixture
def policy_of() -> Callable[..., str]:
    def ask(route: str, setting: str | None = None, **fields: Any) -> str:
        generation = FakeGeneration(FakeManager())
        settings = ServerSettings(**({"context_overflow": setting} if setting else {}))
        app = create_app(generation, generation.models, settings)
        with TestClient(app, raise_server_exceptions=False) as client:
            answer = client.post(route, json={"model": MODEL, **BODIES[route], **fields})
            assert answer.status_code == 200, answer.text
        return generation.specs[-1].context_overflow

    return ask


@pytest.mark.parametrize("route", BODIES)
def test_the_setting_counts_where_a_request_says_nothing(
    policy_of: Callable[..., str], route: str
) -> None:
    assert policy_of(route) == "error"
    for setting in ("truncate_middle", "rolling_window"):
        assert policy_of(route, setting) == setting


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_a_request_of_openais_form_has_the_last_word(
    policy_of: Callable[..., str], route: str
) -> None:
    for setting in (None, "rolling_window"):
        assert policy_of(route, setting, context_overflow="truncate_middle") == "truncate_middle"
        assert policy_of(route, setting, contextOverflowPolicy="stopAtLimit") == "error"


def test_so_has_one_to_responses(policy_of: Callable[..., str]) -> None:
    assert policy_of("/v1/responses", truncation="auto") == "rolling_window"
    assert policy_of("/v1/responses", "rolling_window", truncation="disabled") == "error"
