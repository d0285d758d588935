"""Tokens in front of the routes, CORS off by default, and pages of elsewhere in a browser on this machine."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from slipstream.runtime.access import MAX_FAILURES
from slipstream.runtime.settings import ServerSettings
from slipstream.runtime.tokens import TokenStore, new_secret
from slipstream.server.app import create_app
from slipstream.server.openapi import ENDPOINTS
from tests.support.fake_generation import MODEL

CHAT, NATIVE, ANTHROPIC = "/v1/chat/completions", "/api/v1/chat", "/v1/messages"
HELLO = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
PAGE = "http://page.example"
GUARDED = [endpoint for endpoint in ENDPOINTS if endpoint.permission is not None]


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings(require_auth=True)


@pytest.fixture
def token() -> str:
    return TokenStore().create("mine", ["inference"])[1]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("endpoint", GUARDED, ids=lambda e: f"{e.method} {e.public_path}")
@pytest.mark.parametrize("headers", [{}, bearer("none"), {"authorization": "Basic eDp5"}])
def test_every_guarded_route_wants_a_token(client, endpoint, headers) -> None:
    response = client.request(
        endpoint.method, endpoint.public_path, content=b"not even JSON", headers=headers
    )
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


def test_only_what_is_about_the_server_is_open(client) -> None:
    open_paths = {endpoint.path for endpoint in ENDPOINTS if endpoint.permission is None}
    assert open_paths == {"/", "/docs", "/health", "/openapi.json"}
    assert all(client.get(path).status_code == 200 for path in open_paths)
    assert client.get("/nope").status_code == 404


def test_a_token_opens_rest_and_streams(client, token) -> None:
    for headers in (bearer(token), {"x-api-key": token}, {"authorization": f"bearer  {token}"}):
        assert client.post(CHAT, json=HELLO, headers=headers).status_code == 200
        stream = client.post(CHAT, json={**HELLO, "stream": True}, headers=headers)
        assert stream.text.endswith("data: [DONE]\n\n")
    assert client.get("/v1/models", headers=bearer(token)).json()["data"]


def test_a_token_of_ours_counts_beside_somebody_elses(client, token) -> None:
    headers = {"authorization": "Bearer sk-ant-x", "x-api-key": token}
    assert client.post(ANTHROPIC, json=HELLO, headers=headers).status_code == 200


def test_each_api_says_no_in_its_own_words(client, token) -> None:
    openai = client.post(CHAT, json=HELLO).json()["error"]
    assert (openai["type"], openai["code"]) == ("invalid_request_error", "invalid_api_key")
    anthropic = client.post(ANTHROPIC, json=HELLO).json()
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "authentication_error")
    native = client.post(NATIVE, json={}).json()["error"]
    assert (native["type"], native["code"]) == ("invalid_request", "invalid_api_key")


def test_a_token_without_the_permission_is_a_403(client) -> None:
    secret = TokenStore().create("figures", ["metrics"])[1]
    assert client.get("/metrics", headers=bearer(secret)).status_code == 200
    openai = client.post(CHAT, json=HELLO, headers=bearer(secret))
    assert (openai.status_code, openai.json()["error"]["code"]) == (403, "insufficient_permissions")
    anthropic = client.post(ANTHROPIC, json=HELLO, headers=bearer(secret))
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (403, "permission_error")
    native = client.post(NATIVE, json={}, headers=bearer(secret))
    assert (native.status_code, native.json()["error"]["type"]) == (403, "invalid_request")


def test_a_revoked_token_is_refused_at_once(client, token) -> None:
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200
    TokenStore().revoke("mine")
    assert client.get("/v1/models", headers=bearer(token)).status_code == 401


def test_guessing_is_a_429_with_the_seconds_to_wait(client) -> None:
    for _ in range(MAX_FAILURES):
        assert client.get("/v1/models", headers=bearer(new_secret())).status_code == 401
    response = client.get("/v1/models", headers=bearer(new_secret()))
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "too_many_attempts"
    assert 1 <= int(response.headers["retry-after"]) <= 6


def test_a_token_is_never_logged(client, token, caplog) -> None:
    caplog.set_level("DEBUG")
    wrong = new_secret()
    for secret in (token, wrong):
        client.get("/v1/models", headers=bearer(secret))
        client.get("/nope", headers=bearer(secret))
    for secret in (token, wrong):
        assert secret.rpartition(":")[2] not in caplog.text


def test_health_shows_the_models_to_who_may_use_them(client, token) -> None:
    assert client.get("/health").json()["models"] == []
    assert client.get("/health", headers=bearer(token)).json()["models"]


def test_without_require_auth_any_key_will_do(generation, manager) -> None:
    with TestClient(create_app(generation, manager)) as client:
        assert client.get("/v1/models", headers=bearer("lm-studio")).status_code == 200


def test_settings_apply_while_the_server_runs(generation, manager, token) -> None:
    now = [ServerSettings()]
    app = create_app(generation, manager, current=lambda: now[0])
    origin = {"origin": PAGE}
    with TestClient(app) as client:
        assert client.get("/v1/models").status_code == 200
        now[0] = ServerSettings(require_auth=True, cors_origins=(PAGE,))
        assert client.get("/v1/models").status_code == 401
        response = client.get("/v1/models", headers=bearer(token) | origin)
        assert response.headers["access-control-allow-origin"] == PAGE
        now[0] = ServerSettings()
        headers = client.get("/v1/models", headers=origin).headers
        assert "access-control-allow-origin" not in headers


def local_client(
    generation, manager, settings=None, client=("127.0.0.1", 50000), host="localhost:1234"
):
    app = create_app(generation, manager, settings)
    return TestClient(app, base_url=f"http://{host}", client=client)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1234",
        "127.0.0.1:1234",
        "[::1]:1234",
        "app.localhost",
        "192.0.2.7:80",
        "localhost.",
    ],
)
def test_names_of_this_machine_are_let_in(generation, manager, host) -> None:
    with local_client(generation, manager) as client:
        assert client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:1234", "localhost.evil.example", "[::1", ""]
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_rebound_name_is_refused(generation, manager, host, peer) -> None:
    with local_client(generation, manager, client=(peer, 1)) as client:
        for path in ("/v1/models", "/health", "/nope"):
            response = client.get(path, headers={"host": host})
            assert response.status_code == 403
            assert response.json()["error"]["code"] == "origin_not_allowed"
        assert "message" in client.get(NATIVE, headers={"host": host}).json()["error"]


def test_names_of_the_settings_and_of_the_network_are_let_in(generation, manager) -> None:
    named = {"host": "box.lan:1234"}
    for settings in (
        ServerSettings(allowed_hosts=("Box.lan",)),
        ServerSettings(allowed_hosts=("*",)),
        ServerSettings(host="box.lan"),
    ):
        with local_client(generation, manager, settings) as client:
            assert client.get("/v1/models", headers=named).status_code == 200
    with local_client(generation, manager, client=("192.0.2.9", 1)) as client:
        assert client.get("/v1/models", headers=named).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (PAGE, 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
        ("http://192.0.2.1", 403),
        ("http://[", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:5173", 200),
        ("app://obsidian.md", 200),
    ],
)
def test_a_page_of_elsewhere_cannot_make_the_server_work(
    generation, manager, origin, status
) -> None:
    with local_client(generation, manager) as client:
        headers = {"origin": origin, "content-type": "text/plain"}
        response = client.post(CHAT, content=json.dumps(HELLO), headers=headers)
        assert response.status_code == status
        assert len(generation.specs) == (status == 200)
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_an_origin_of_the_settings_may(generation, manager) -> None:
    for origins in ((PAGE,), ("*",)):
        settings = ServerSettings(cors_origins=origins)
        with local_client(generation, manager, settings) as client:
            response = client.post(CHAT, json=HELLO, headers={"origin": PAGE})
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] in (PAGE, "*")


def test_a_preflight_needs_no_token(generation, manager) -> None:
    settings = ServerSettings(cors_origins=(PAGE,), require_auth=True)
    asked = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    with local_client(generation, manager, settings) as client:
        response = client.options(CHAT, headers=asked)
        assert response.status_code == 200
        assert "authorization" in response.headers["access-control-allow-headers"]
