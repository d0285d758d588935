"""LlamaIndex's OpenAI-like model against a real server with the demo model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llama_index", reason="make test-clients has an environment with it")

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

if TYPE_CHECKING:
    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK = "What is the capital of France?"


def model(server: ServerProcess, **options: Any) -> OpenAILike:
    return OpenAILike(
        model=server.get_json("/v1/models")["data"][0]["id"],
        api_base=f"{server.url}/v1",
        api_key="none",
        context_window=2048,
        max_tokens=16,
        temperature=0,
        max_retries=0,
        **options,
    )


def test_chats_are_answered(server: ServerProcess) -> None:
    chat = model(server, is_chat_model=True)
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(content=ASK)]
    assert chat.chat(messages).message.content
    assert "".join(part.delta or "" for part in chat.stream_chat(messages))
    assert asyncio.run(chat.achat(messages)).message.content


def test_completions_are_answered(server: ServerProcess) -> None:
    plain = model(server, is_chat_model=False)
    assert "Paris" in plain.complete("The capital of France is").text
    assert "".join(part.delta or "" for part in plain.stream_complete("One, two, three,"))
