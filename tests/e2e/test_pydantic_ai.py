"""Pydantic AI, by its OpenAI and Anthropic models, against a real server with the demo model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pydantic_ai", reason="make test-clients has an environment with it")

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

if TYPE_CHECKING:
    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK = "What is the capital of France?"
GREEDY = {"temperature": 0.0, "max_tokens": 32}


class City(BaseModel):
    """Where something is."""

    name: str
    is_capital: bool


@pytest.fixture(params=["chat", "responses", "messages"])
def model(request: pytest.FixtureRequest, server: ServerProcess) -> Any:
    name = server.get_json("/v1/models")["data"][0]["id"]
    if request.param == "messages":
        return AnthropicModel(name, provider=AnthropicProvider(base_url=server.url, api_key="none"))
    made = OpenAIChatModel if request.param == "chat" else OpenAIResponsesModel
    return made(name, provider=OpenAIProvider(base_url=f"{server.url}/v1", api_key="none"))


def test_an_agent_answers_and_goes_on(model: Any) -> None:
    agent = Agent(model, instructions="Be brief.", model_settings=GREEDY)
    first = agent.run_sync(ASK)
    assert first.output
    assert first.usage.input_tokens > 5
    assert agent.run_sync("And of Spain?", message_history=first.all_messages()).output


def test_an_agent_streams(model: Any) -> None:
    agent = Agent(model, model_settings=GREEDY)

    async def main() -> str:
        async with agent.run_stream(ASK) as run:
            return "".join([piece async for piece in run.stream_text(delta=True)])

    assert asyncio.run(main())


def test_native_output_comes_back_as_the_class(server: ServerProcess) -> None:
    name = server.get_json("/v1/models")["data"][0]["id"]
    provider = OpenAIProvider(base_url=f"{server.url}/v1", api_key="none")
    agent = Agent(
        OpenAIChatModel(name, provider=provider),
        output_type=NativeOutput(City),
        model_settings={"temperature": 0.0, "max_tokens": 64},
    )
    assert isinstance(agent.run_sync(ASK).output, City)
