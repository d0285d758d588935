"""Real models call tools of their own accord. Needs SLIPSTREAM_DEV_MODELS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slipstream import LLM, FinishReason, SamplingParams

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.dev_models, pytest.mark.slow]
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=80)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get weather",
        "description": "Get the current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize("name", ["qwen05", "qwen15"])
def test_a_model_calls_a_tool_and_answers_with_its_result(dev_models: Path, name: str) -> None:
    with LLM(dev_models / f"{name}.gguf", context_length=2048, parallel=1) as llm:
        called = llm.chat(ASK, GREEDY, tools=[WEATHER])
        assert called.finish_reason is FinishReason.TOOL_CALLS
        assert called.text == ""
        (call,) = called.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("get weather", {"city": "Paris"})
        function = {"name": call.name, "arguments": call.arguments}
        told = {"id": call.call_id, "type": "function", "function": function}
        result = {"role": "tool", "tool_call_id": call.call_id, "content": "21 degrees, sunny"}
        messages = [*ASK, {"role": "assistant", "content": "", "tool_calls": [told]}, result]
        answer = llm.chat(messages, GREEDY, tools=[WEATHER], tool_choice="none")
        assert "21" in answer.text


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m", "qwen05", "qwen15"])
def test_every_model_calls_where_it_must(dev_models: Path, name: str) -> None:
    with LLM(dev_models / f"{name}.gguf", context_length=2048, parallel=1) as llm:
        options: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
        result = llm.chat(ASK, GREEDY, tools=[WEATHER], **options)
    (call,) = result.tool_calls
    assert "city" in json.loads(call.arguments)
