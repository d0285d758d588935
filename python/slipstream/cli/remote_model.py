"""A model of a server that answers chats as one in this process does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.errors import ServerError
from slipstream.base.types import OutputDelta, Usage

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from slipstream.base.sampling import SamplingParams
    from slipstream.base.types import Reasoning
    from slipstream.cli.server_client import ServerClient

_ROUTE = "/api/v0/chat/completions"  # as /v1's, with times


class RemoteModel:
    """Speaks to one model of a server.

    Args:
        client: Of the server; closed with this.
        name: Of the model, as requests name it.
    """

    def __init__(self, client: ServerClient, name: str) -> None:
        self._client = client
        self.name = name

    def chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        sampling: SamplingParams,
        stream: bool,
        reasoning: Reasoning | None = None,
    ) -> Generator[OutputDelta]:
        """Yield the deltas of an answer; closing the iterator ends the request. See LLM.chat.

        Args:
            messages: In OpenAI's shape.
            sampling: What differs from the defaults is sent.
            stream: Always true.
            reasoning: Its effort is sent.

        Raises:
            ServerError: the server refuses, fails or goes away.
        """
        assert stream
        body = {"model": self.name, "messages": list(messages), "stream": True}
        body |= {"stream_options": {"include_usage": True}} | msgspec.to_builtins(sampling)
        if reasoning is not None:
            body["reasoning"] = {"enabled": reasoning.effort != "off"}
            if reasoning.effort not in ("off", "on"):
                body["reasoning"] = {"effort": reasoning.effort}
        with self._client.events("POST", _ROUTE, body=body) as events:
            stats: dict[str, Any] = {}
            for text in events:
                if text == "[DONE]":
                    return
                chunk = json.loads(text)
                if "error" in chunk:
                    raise ServerError(chunk["error"]["message"])
                stats = chunk.get("stats") or stats
                choices = chunk["choices"]
                delta = choices[0]["delta"] if choices else {}
                content, thought = delta.get("content"), delta.get("reasoning_content")
                usage = _usage(chunk["usage"], stats) if chunk.get("usage") else None
                if content or thought or usage:
                    yield OutputDelta("", content or "", usage=usage, reasoning=thought or "")

    def close(self) -> None:
        """Close the connection; the model stays where it is."""
        self._client.close()


def loaded_models(client: ServerClient) -> list[str]:
    """Return the identifiers of the loaded models that write text."""
    return [
        instance["id"]
        for model in client.get("/api/v1/models")["models"]
        for instance in model["loaded_instances"]
        if model["type"] == "llm"
    ]


def _usage(usage: dict[str, Any], stats: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        num_prompt_tokens=usage["prompt_tokens"],
        num_cached_tokens=details.get("cached_tokens", 0),
        num_output_tokens=usage["completion_tokens"],
        prefill_s=stats.get("time_to_first_token", 0.0),
        decode_s=stats.get("generation_time", 0.0),
    )
