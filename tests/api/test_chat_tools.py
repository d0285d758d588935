"""Tools and reasoning on /v1/chat/completions: every spelling of a request, whole answers and chunks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from slipstream.base.types import FinishReason, OutputDelta, Reasoning, ToolCallDelta, Usage
from slipstream.runtime.settings import ServerSettings
from slipstream.server.app import create_app
from slipstream.server.inline_reasoning import InlineReasoning
from tests.support.fake_generation import MODEL, FakeGeneration, FakeManager

if TYPE_CHECKING:
    from slipstream.base.types import GenerationSpec
    from tests.support.fake_generation import Step

HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
URL = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "look up", "parameters": {"type": "object"}}}


def calling(spec: GenerationSpec) -> list[Step]:
    """Think, say something, call two tools."""
    steps: list[Any] = [
        OutputDelta(spec.request_id, reasoning="Hm"),
        OutputDelta(spec.request_id, reasoning="m."),
        OutputDelta(spec.request_id, text="I look."),
        OutputDelta(spec.request_id, tool_calls=[ToolCallDelta(0, "123456789", "look up")]),
        OutputDelta(spec.request_id, tool_calls=[ToolCallDelta(0, arguments='{"a"')]),
        OutputDelta(
            spec.request_id,
            tool_calls=[
                ToolCallDelta(0, arguments=": 1}"),
                ToolCallDelta(1, "987654321", "now"),
                ToolCallDelta(1, arguments="{}"),
            ],
        ),
    ]
    usage = Usage(num_prompt_tokens=7, num_output_tokens=20, num_reasoning_tokens=4)
    end = OutputDelta(spec.request_id, finish_reason=FinishReason.TOOL_CALLS, usage=usage)
    return [*steps, end]


def test_a_whole_answer_holds_reasoning_and_calls(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = calling
    answer = client.post(URL, json={**HELLO, "tools": [TOOL]}).json()
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("I look.", "Hmm.")
    assert message["reasoning"] == message["reasoning_content"]
    assert [
        (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]
    ] == [
        ("123456789", "look up", '{"a": 1}'),
        ("987654321", "now", "{}"),
    ]
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


def test_content_beside_calls_alone_is_null_and_other_answers_have_no_fields_for_them(
    client: TestClient, generation: FakeGeneration
) -> None:
    plain = client.post(URL, json=HELLO).json()["choices"][0]["message"]
    assert plain.keys() == {"role", "content", "refusal"}
    generation.script = lambda spec: calling(spec)[3:]
    assert client.post(URL, json=HELLO).json()["choices"][0]["message"]["content"] is None


def test_a_stream_tells_the_name_once_and_the_arguments_in_pieces(
    client: TestClient, generation: FakeGeneration
) -> None:
    generation.script = calling
    lines = client.post(URL, json={**HELLO, "stream": True}).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "Hmm."
    assert "".join(d.get("reasoning", "") for d in deltas) == "Hmm."
    assert "".join(d.get("content") or "" for d in deltas) == "I look."
    calls = [call for d in deltas for call in d.get("tool_calls", ())]
    assert calls[0] == {
        "index": 0,
        "id": "123456789",
        "type": "function",
        "function": {"name": "look up", "arguments": ""},
    }
    assert [call for call in calls if "id" not in call] == [
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({}, Reasoning()),
        ({"reasoning_effort": "none"}, Reasoning(effort="off")),
        ({"reasoning_effort": "minimal"}, Reasoning(effort="low")),
        ({"reasoning_effort": "medium"}, Reasoning(effort="medium")),
        ({"reasoning": {"effort": "high"}}, Reasoning(effort="high")),
        ({"reasoning": {"enabled": False}}, Reasoning(effort="off")),
        ({"reasoning": {"max_tokens": 9}}, Reasoning(budget=9)),
        ({"reasoning": "on"}, Reasoning(effort="on")),
        ({"thinking": {"type": "disabled"}}, Reasoning(effort="off")),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, Reasoning(effort="on", budget=5)),
        ({"thinking": {"type": "adaptive"}}, Reasoning()),
        ({"enable_thinking": False}, Reasoning(effort="off")),
        ({"thinking_budget": 0}, Reasoning(budget=0)),
        ({"reasoning_budget": -1}, Reasoning()),
        ({"chat_template_kwargs": {"enable_thinking": True}}, Reasoning(effort="on")),
        ({"chat_template_kwargs": {"thinking": False}}, Reasoning(effort="off")),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, Reasoning(effort="low")),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
            Reasoning(effort="high"),
        ),
    ],
    ids=str,
)
def test_every_spelling_of_reasoning_is_one_setting(
    client: TestClient, generation: FakeGeneration, fields: dict[str, Any], reasoning: Reasoning
) -> None:
    assert client.post(URL, json={**HELLO, **fields}).status_code == 200
    assert generation.specs[0].reasoning == reasoning
    assert generation.specs[0].template_options == {}


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, "auto"),
        ({"tool_choice": "required"}, "required"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "name:x"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "name:x"),
        ({"function_call": {"name": "x"}}, "name:x"),
        ({"function_call": "none"}, "none"),
    ],
    ids=str,
)
def test_every_spelling_of_the_choice_is_one_setting(
    client: TestClient, generation: FakeGeneration, fields: dict[str, Any], choice: str
) -> None:
    assert client.post(URL, json={**HELLO, "tools": [TOOL], **fields}).status_code == 200
    assert generation.specs[0].tool_choice == choice
    assert generation.specs[0].tools == [TOOL]
    assert generation.specs[0].parse_output


def test_functions_are_tools_of_old(client: TestClient, generation: FakeGeneration) -> None:
    client.post(URL, json={**HELLO, "functions": [TOOL["function"]], "parallel_tool_calls": False})
    assert generation.specs[0].tools == [TOOL]
    assert not generation.specs[0].parallel_tool_calls


def test_a_setting_leaves_reasoning_in_the_content() -> None:
    generation = FakeGeneration(FakeManager())
    generation.script = calling
    settings = ServerSettings(separate_reasoning=False)
    app = create_app(generation, generation.models, settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        message = client.post(URL, json=HELLO).json()["choices"][0]["message"]
        text = client.post(URL, json={**HELLO, "stream": True}).text
    assert message["content"].startswith("<think>\nHmm.\n</think>\n\nI look.")
    assert "reasoning_content" not in message
    assert message["tool_calls"]
    assert "reasoning" not in text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in events]
    assert "".join(pieces) == message["content"]


def test_reasoning_that_is_cut_off_has_no_end_tag() -> None:
    inline = InlineReasoning()
    deltas = [OutputDelta("r", reasoning="a"), OutputDelta("r", reasoning="b"), OutputDelta("r")]
    for delta in deltas:
        inline.move(delta)
    assert [delta.text for delta in deltas] == ["<think>\na", "b", ""]
