"""Every spelling of structured output becomes the one OutputFormat of the spec."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slipstream.base.types import OutputFormat

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from tests.support.fake_generation import FakeGeneration

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def named(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", **fields}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "json_object"}}, ("json_object", "", "response_format")),
        (
            {"response_format": named(schema=SCHEMA, strict="true")},
            ("json_schema", SCHEMA, "response_format.json_schema.schema"),
        ),
        (
            {"response_format": {"type": "json_schema", "schema": SCHEMA}},
            ("json_schema", SCHEMA, "response_format.schema"),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            ("json_schema", SCHEMA, "response_format.schema"),
        ),
        ({"json_schema": SCHEMA}, ("json_schema", SCHEMA, "json_schema")),
        ({"guided_json": SCHEMA}, ("json_schema", SCHEMA, "guided_json")),
        ({"guided_json": json.dumps(SCHEMA)}, ("json_schema", SCHEMA, "guided_json")),
        ({"guided_regex": "[a-z]+"}, ("regex", "[a-z]+", "guided_regex")),
        ({"guided_choice": ["yes", "no"]}, ("choice", ["yes", "no"], "guided_choice")),
        ({"guided_grammar": 'start: "a"'}, ("lark", 'start: "a"', "guided_grammar")),
        ({"guided_grammar": 'root ::= "a"'}, ("gbnf", 'root ::= "a"', "guided_grammar")),
        ({"grammar": 'root ::= "a"'}, ("gbnf", 'root ::= "a"', "grammar")),
        ({"grammar": ""}, None),
        (
            {"structured_outputs": {"json": SCHEMA}},
            ("json_schema", SCHEMA, "structured_outputs.json"),
        ),
        (
            {"structured_outputs": {"json_object": True}},
            ("json_object", "", "structured_outputs.json_object"),
        ),
        (
            {"structured_outputs": {"choice": ["é"]}},
            ("choice", ["é"], "structured_outputs.choice"),
        ),
    ],
)
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_a_spelling_becomes_the_specs_output_format(
    client: TestClient,
    generation: FakeGeneration,
    route: str,
    fields: dict[str, Any],
    expected: tuple[str, Any, str] | None,
) -> None:
    prompt = CHAT if route == "/v1/chat/completions" else {"prompt": "hi"}
    assert client.post(route, json={**prompt, **fields}).status_code == 200
    (spec,) = generation.specs
    if expected is None:
        assert spec.output_format is None
        return
    kind, value, name = expected
    found = spec.output_format
    assert isinstance(found, OutputFormat)
    assert (found.kind, found.name) == (kind, name)
    if isinstance(value, str):
        assert found.value == value
    else:
        assert json.loads(found.value) == value
        assert list(json.loads(found.value)) == list(value)  # properties keep their order


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        ({}, "error"),
        ({"context_overflow": "truncate_middle"}, "truncate_middle"),
        ({"contextOverflowPolicy": "stopAtLimit"}, "error"),
        ({"contextOverflowPolicy": "truncateMiddle"}, "truncate_middle"),
        ({"contextOverflowPolicy": "rollingWindow"}, "rolling_window"),
    ],
)
def test_both_spellings_of_the_overflow_policy(
    client: TestClient, generation: FakeGeneration, fields: dict[str, Any], policy: str
) -> None:
    assert client.post("/v1/chat/completions", json={**CHAT, **fields}).status_code == 200
    assert client.post("/v1/completions", json={"prompt": "x", **fields}).status_code == 200
    assert [spec.context_overflow for spec in generation.specs] == [policy, policy]


@pytest.mark.parametrize(
    "fields",
    [
        {"context_overflow": "shrink"},
        {"contextOverflowPolicy": "rolling_window"},
        {"context_overflow": "error", "contextOverflowPolicy": "rollingWindow"},
    ],
)
def test_overflow_policies_there_are_not(client: TestClient, fields: dict[str, Any]) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in fields
