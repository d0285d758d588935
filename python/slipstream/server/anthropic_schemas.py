"""The request bodies of /v1/messages and its count_tokens. Knows their fields, not how they are served."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.server.schema_base import PlainObject, Schema


class Block(Schema):
    """A part of a message's content; which fields it has depends on its type.

    Attributes:
        type: text, thinking, redacted_thinking, tool_use, tool_result, document or image.
        text: Of a text block.
        thinking: Of a thinking block.
        id: Of a tool_use block.
        name: Of the tool in a tool_use block.
        input: The arguments in a tool_use block.
        tool_use_id: The call a tool_result block answers.
        content: Of a tool_result block: text, or text blocks.
        is_error: Whether the tool of a tool_result block failed.
        source: Of a document or image block.
    """

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: PlainObject | None = None
    tool_use_id: str | None = None
    content: str | Annotated[list[Block], Field(fail_fast=True)] | None = None
    is_error: bool | None = None
    source: PlainObject | None = None


Blocks = Annotated[list[Block], Field(fail_fast=True)]


class AnthropicMessage(Schema):
    """One turn of a conversation; turns of the same role may follow each other."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class AnthropicTool(Schema):
    """A tool the client runs.

    Attributes:
        name: What the model calls it.
        type: null or `custom`; Anthropic's own tools, which run on its servers, are refused.
        description: For the model.
        input_schema: JSON schema of its arguments.
    """

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: PlainObject | None = None


class AnthropicToolChoice(Schema):
    """Whether a tool must be called.

    Attributes:
        type: auto, any, none, or tool with a name.
        name: Of the one tool to call.
        disable_parallel_tool_use: At most one call in an answer.
    """

    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Schema):
    """How the model thinks before it answers.

    Attributes:
        type: enabled, disabled, or adaptive, which leaves it to the model.
        budget_tokens: Most tokens of thinking.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class JsonFormat(Schema):
    """A JSON schema the answer must match."""

    type: Literal["json_schema"]
    json_schema: Annotated[PlainObject, Field(alias="schema")]


class OutputConfig(Schema):
    """How the answer is made.

    Attributes:
        effort: How much the model thinks.
        format: What the answer must look like.
    """

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class CountTokensRequest(Schema):
    """Body of POST /v1/messages/count_tokens, and of /v1/messages what makes its prompt.

    Attributes:
        model: Key of a model, as listed by GET /v1/models; "" takes the one that is loaded.
        messages: The conversation so far; the last turn is the user's.
        system: The system prompt, text or text blocks.
        tools: Tools the client runs.
        tool_choice: See AnthropicToolChoice.
        thinking: See Thinking.
        output_config: See OutputConfig.
        cache_control: Accepted, without effect, here and on blocks: every prompt is cached.
        speed: Accepted, without effect.
        user_profile_id: Likewise.
        workspace_id: Likewise.
    """

    model: Annotated[str, Field(max_length=1024)]
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, fail_fast=True)]
    system: str | Blocks | None = None
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesRequest(CountTokensRequest):
    """Body of POST /v1/messages.

    Attributes:
        max_tokens: Most tokens to generate, thinking included.
        stream: Send the answer as events.
        stop_sequences: Strings that end the output.
        temperature: 0 always takes the most likely token.
        top_p: Nucleus sampling.
        top_k: Keep the k most likely tokens.
        mcp_servers: Refused: no tool runs on this server.
        metadata: Accepted, without effect.
        service_tier: Likewise.
        container: Likewise.
        context_management: Likewise.
        diagnostics: Likewise.
        inference_geo: Likewise.
    """

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    mcp_servers: list[Any] | None = None
    metadata: Any = None
    service_tier: Any = None
    container: Any = None
    context_management: Any = None
    diagnostics: Any = None
    inference_geo: Any = None
