"""Seeded random bodies: whatever is sent, the answer is a good one or names the fault."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fake_generation import MODEL

if TYPE_CHECKING:
    from starlette.testclient import TestClient

NUM_BODIES = 300
RESPONSES = {
    "model": MODEL,
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}], "summary": []},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ],
    "tools": [{"type": "function", "name": "n", "parameters": {"type": "object"}}],
    "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "metadata": {"a": "b"},
    "max_output_tokens": 3,
}
CHAT = {
    "model": MODEL,
    "input": [{"type": "text", "content": "a"}],
    "system_prompt": "s",
    "temperature": 0.1,
    "reasoning": "off",
    "context_length": 1,
    "integrations": [],
    "stream": False,
}
MESSAGES = {
    "model": MODEL,
    "max_tokens": 3,
    "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": ""},
                {"type": "tool_use", "id": "c", "name": "n", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "x"}]},
    ],
    "tools": [{"name": "n", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 5},
    "output_config": {"format": {"type": "json_schema", "schema": {}}},
    "stop_sequences": ["x"],
}
JUNK = [
    None, True, 0, -1, 1e308, 2**70, "", "x" * 300, "\0", [], {}, [[]], ["a"], "resp_",
    {"type": None}, {"type": "message"}, [{"type": []}], {"type": "function", "name": "n"}, {"a": {"b": [1]}},
]  # fmt: skip
EXTRA = ("n", "stop", "seed", "stream", "background", "logit_bias", "previous_response_id")


def mutate(value: Any, random: Random, rate: float) -> Any:
    if random.random() < rate:
        return random.choice(JUNK)
    if isinstance(value, dict):
        made = {k: mutate(v, random, rate) for k, v in value.items() if random.random() > rate / 2}
        if random.random() < rate / 2:
            made[random.choice(EXTRA)] = random.choice(JUNK)
        return made
    if isinstance(value, list):
        return [mutate(v, random, rate) for v in value if random.random() > rate / 2]
    return value


@pytest.mark.parametrize("rate", [0.02, 0.15])
@pytest.mark.parametrize(
    ("url", "body"),
    [("/v1/responses", RESPONSES), ("/api/v1/chat", CHAT), ("/v1/messages", MESSAGES)],
)
def test_no_body_is_an_error_of_the_server(
    client: TestClient, url: str, body: dict, rate: float
) -> None:
    random = Random(f"{url} {rate}")
    for _ in range(NUM_BODIES):
        sent = json.dumps(mutate(body, random, rate))
        answer = client.post(url, content=sent)
        assert answer.status_code in (200, 400, 404, 501), (sent, answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"]
