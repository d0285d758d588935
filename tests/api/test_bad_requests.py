"""Every bad input gets OpenAI's error object, with the status and the field a client can act on."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.testclient import TestClient

from slipstream.base import errors
from slipstream.runtime.settings import ServerSettings
from slipstream.server import body as body_module
from tests.support.fake_generation import MODEL, FakeGeneration

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
ONCE = {"model": MODEL, "prompt": "Once"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def error_of(response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"model": 5}, "model"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 1e999}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -2}, "seed"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"mirostat": 3}, "mirostat"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"functions": [{}], "tools": [{"type": "function"}]}, "functions"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"chat_template_kwargs": {"x": 2**70}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"x": [1e999]}}, "chat_template_kwargs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_chat_field_is_a_400_that_names_it(
    client: TestClient, generation: FakeGeneration, fields: dict, param: str, stream: bool
) -> None:
    body = json.dumps({"stream": stream, **HELLO, **fields}).replace("Infinity", "1e999")
    error = error_of(client.post(CHAT, content=body), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert generation.specs == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, -1]}, "prompt[1]"),
        ({"prompt": [2**40]}, "prompt[0]"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ],
)
def test_bad_completion_field_is_a_400_that_names_it(
    client: TestClient, fields: dict, param: str
) -> None:
    assert error_of(client.post(TEXT, json={**ONCE, **fields}), 400)["param"] == param


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"a":1} x',
        b"\xff\xfe{}",
        b'{"model": "\\ud800"}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b"[" * 100_000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
    ],
)
@pytest.mark.parametrize("url", [CHAT, TEXT])
def test_malformed_json_is_a_400(client: TestClient, url: str, content: bytes) -> None:
    error = error_of(client.post(url, content=content), 400)
    assert "JSON" in error["message"]


def test_missing_field_has_the_code_for_it(client: TestClient) -> None:
    error = error_of(client.post(CHAT, json={"model": MODEL}), 400)
    assert error["param"] == "messages"
    assert error["code"] == "missing_required_parameter"


def test_unknown_model_is_a_404(client: TestClient) -> None:
    for response in (
        client.post(CHAT, json={**HELLO, "model": "gpt-9"}),
        client.post(TEXT, json={**ONCE, "model": "gpt-9"}),
        client.post(CHAT, json={**HELLO, "model": "gpt-9", "stream": True}),
        client.get("/v1/models/gpt-9"),
    ):
        assert error_of(response, 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (
            errors.ContextLengthError("9000 tokens", param="messages"),
            400,
            "context_length_exceeded",
        ),
        (errors.TemplateError("no system role"), 400, None),
        (errors.QueueFullError("512 requests wait"), 429, "queue_full"),
        (errors.ModelLoadError("cut short", path="x.gguf"), 500, "model_load_failed"),
        (errors.ContextCreateError("no memory"), 500, "context_create_failed"),
        (errors.EngineDiedError("signal 6"), 503, "engine_died"),
        (errors.ClosedError("closing"), 503, "server_shutting_down"),
        (errors.ModelUnloadedError("unloaded"), 503, "model_unloaded"),
        (errors.ComputeError("backend failed"), 500, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_error_before_the_first_output_has_its_status(
    client: TestClient,
    generation: FakeGeneration,
    error: errors.SlipstreamError,
    status: int,
    code: str | None,
    stream: bool,
) -> None:
    generation.script = lambda spec: [error]
    response = client.post(CHAT, json={**HELLO, "stream": stream})
    found = error_of(response, status)
    assert found["code"] == code
    assert found["message"] == str(error)
    assert ("retry-after" in response.headers) == (status == 429)


def test_bug_is_a_500_without_its_details(
    client: TestClient, generation: FakeGeneration, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(spec):
        raise KeyError("secret prompt")

    generation.script = broken
    error = error_of(client.post(CHAT, json=HELLO), 500)
    assert error["code"] == "internal"
    assert "secret" not in error["message"]
    assert "unexpected KeyError" in caplog.text


def test_unknown_field_is_ignored_and_logged_once(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    body_module._noted_fields.discard("zork")
    for _ in range(2):
        assert client.post(CHAT, json={**HELLO, "zork": 1}).status_code == 200
    assert caplog.text.count("'zork'") == 1


def test_field_without_effect_is_not_logged(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = {**HELLO, "user": "me", "metadata": {"a": "b"}, "store": True, "tools": []}
    assert client.post(CHAT, json=body).status_code == 200
    assert "ignoring" not in caplog.text


def test_content_is_never_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "top secret"}]}
    client.post(CHAT, json=body)
    client.post(CHAT, json={**body, "temperature": -1})
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("middleware")]
    assert [line.split(" ")[:3] for line in lines] == [
        ["POST", f"'{CHAT}'", "200"],
        ["POST", f"'{CHAT}'", "400"],
    ]
    assert "secret" not in caplog.text
    assert "wörld" not in caplog.text


def test_body_over_the_limit_is_a_413(client: TestClient) -> None:
    error = error_of(client.post(CHAT, content=b" " * 40_000_000), 413)
    assert error["code"] == "request_too_large"
    assert "32 MiB" in error["message"]


def test_body_over_the_limit_without_a_length_is_a_413(client: TestClient) -> None:
    pieces = iter([b" " * 1_000_000] * 40)
    assert error_of(client.post(CHAT, content=pieces), 413)["code"] == "request_too_large"


def test_long_prompt_below_the_limit_passes(client: TestClient) -> None:
    messages = [{"role": "user", "content": "word " * 1_000_000}]
    assert client.post(CHAT, json={"model": MODEL, "messages": messages}).status_code == 200


def test_unknown_path_is_a_404_with_the_error_object(client: TestClient) -> None:
    for path in ("/nope", "/v1/chat", "/v1/models/nope", "/v1//models"):
        error = error_of(client.get(path), 404)
        assert error["code"] in {"unknown_url", "model_not_found"}


def test_wrong_method_is_a_405_with_the_error_object(client: TestClient) -> None:
    response = client.get(CHAT)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_cors_headers_are_sent_only_when_configured(
    client: TestClient, generation, manager
) -> None:
    from slipstream.server.app import create_app

    origin = {"origin": "http://page.example"}
    preflight = {**origin, "access-control-request-method": "POST"}
    assert (
        "access-control-allow-origin" not in client.post(CHAT, json=HELLO, headers=origin).headers
    )
    assert client.options(CHAT, headers=preflight).status_code == 405
    settings = ServerSettings(cors_origins=("http://page.example",), max_body_bytes=100)
    with TestClient(create_app(generation, manager, settings)) as cors_client:
        assert cors_client.options(CHAT, headers=preflight).status_code == 200
        for content in (json.dumps(HELLO), " " * 101):
            response = cors_client.post(CHAT, content=content, headers=origin)
            assert response.headers["access-control-allow-origin"] == "http://page.example"
