"""The request bodies of /v1/chat/completions and /v1/completions. Knows their fields, not how they are served.

Fields a model does not name are ignored and logged once (see body.py). Types are strict: "1" is no number.
Ranges are not checked here but by SamplingParams, in one place for every surface.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from slipstream.server.output_schemas import CompletionFields
from slipstream.server.schema_base import (
    Count,
    LogprobCount,
    PlainObject,
    Prompt,
    Schema,
    TokenId,
    Ttl,
)


class StreamOptions(Schema):
    """What a stream carries besides the text.

    Attributes:
        include_usage: Send a last chunk with the token counts.
    """

    include_usage: bool | None = None


class ImageUrl(Schema):
    """Where an image is.

    Attributes:
        url: A base64 data URL.
        detail: Accepted, without effect.
    """

    url: str
    detail: Any = None


class ContentPart(Schema):
    """A part of a message's content.

    Attributes:
        type: `text` or `image_url`; audio, video and files are refused.
        text: The text of a text part.
        image_url: Of an image.
    """

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class ChatMessage(Schema):
    """One message of a conversation.

    Attributes:
        role: Who speaks; `developer` is treated as `system`.
        content: Text, or a list of text and image parts; may be null beside tool calls.
        name: Passed to the model's template.
        tool_calls: Calls an assistant made, passed to the template.
        tool_call_id: The call a tool message answers.
        reasoning_content: An assistant's earlier thinking, passed to the template.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: list[PlainObject] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class SamplingFields(Schema):
    """The fields both routes share; defaults and ranges are those of SamplingParams.

    Attributes:
        model: Key of a model, as listed by GET /v1/models; none or "" takes the one that is loaded.
        n: Answers for each prompt.
        stream: Send the answer in pieces as server-sent events.
        stream_options: See StreamOptions.
        max_tokens: Most tokens to generate; null or -1 until the context is full.
        temperature: 0 always takes the most likely token.
        top_p: Nucleus sampling.
        top_k: Keep the k most likely tokens; 0 or -1 keeps all.
        min_p: Keep tokens with this share of the best one's probability.
        typical_p: Locally typical sampling.
        top_n_sigma: Keep logits within n standard deviations of the best.
        stop: One string or a list of strings that end the output.
        stop_token_ids: Token ids that end the output.
        presence_penalty: Subtracted once from the logits of recent tokens.
        frequency_penalty: Subtracted per occurrence.
        repeat_penalty: Divides the logits of recent tokens.
        repeat_last_n: Tokens the penalties look back.
        logit_bias: Token id (as a string) to what is added to its logit.
        seed: Makes a request repeatable; null or -1 draws one.
        ignore_eos: Go on after an end-of-generation token.
        mirostat: 0 off, or version 1 or 2.
        mirostat_tau: Target surprise.
        mirostat_eta: Learning rate.
        xtc_probability: Chance of an XTC cut.
        xtc_threshold: Its threshold.
        dry_multiplier: Strength of the DRY penalty; 0 is off.
        dry_base: Its growth.
        dry_allowed_length: Length that is free.
        dry_penalty_last_n: Tokens it looks back.
        dry_sequence_breakers: Strings that end a repetition.
        ttl: Seconds the model may be idle before it is unloaded, if this request loads it.
        draft_model: Key of a smaller model that guesses ahead, if this request loads the model.
        user: Accepted, without effect; so are the fields after it.
    """

    model: Annotated[str, Field(max_length=1024)] | None = None
    n: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: Annotated[list[str], Field(fail_fast=True)] | None = None
    ttl: Ttl | None = None
    draft_model: Annotated[str, Field(max_length=1024)] | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None


class ChatReasoning(Schema):
    """How much the model thinks, in the form of OpenAI's newer API and of routers.

    Attributes:
        effort: As `reasoning_effort`.
        max_tokens: Most tokens of it.
        enabled: On or off, where there is no effort.
    """

    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None


class ChatThinking(Schema):
    """How much the model thinks, in Anthropic's form.

    Attributes:
        type: enabled, disabled, or adaptive, which leaves it to the model.
        budget_tokens: Most tokens of it.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class ChatRequest(SamplingFields, CompletionFields):
    """Body of POST /v1/chat/completions.

    Attributes:
        messages: The conversation so far.
        max_completion_tokens: The newer name of max_tokens; wins over it.
        logprobs: Return the log-probability of each output token.
        top_logprobs: And those of this many alternatives; needs `logprobs`.
        chat_template_kwargs: Extra variables for the model's template.
        tools: Functions the client runs.
        tool_choice: `none`, `auto`, `required`, or the one function to call.
        parallel_tool_calls: Whether one answer may hold several calls; true if not given.
        functions: The old form of tools.
        function_call: The old form of tool_choice.
        reasoning_effort: How much the model thinks; its own default if not given.
        reasoning: The same, as an object or a word.
        thinking: The same, in Anthropic's form.
        enable_thinking: The same, as a switch.
        thinking_budget: Most tokens of reasoning; -1 for no limit.
        reasoning_budget: The same.
        modalities: Only ["text"].
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: LogprobCount | None = None
    chat_template_kwargs: PlainObject | None = None
    tools: list[PlainObject] | None = None
    tool_choice: str | PlainObject | None = None
    parallel_tool_calls: bool | None = None
    functions: list[PlainObject] | None = None
    function_call: str | PlainObject | None = None
    reasoning_effort: str | None = None
    reasoning: str | ChatReasoning | None = None
    thinking: ChatThinking | None = None
    enable_thinking: bool | None = None
    thinking_budget: int | None = None
    reasoning_budget: int | None = None
    modalities: list[str] | None = None


class CompletionRequest(SamplingFields, CompletionFields):
    """Body of POST /v1/completions: text in, its continuation out, no template.

    Attributes:
        prompt: Text, token ids, or a list of either; a list gives n choices for each entry, in order.
        echo: Send the prompt back before the output.
        logprobs: Log-probabilities of this many tokens for each output token.
        suffix: Not supported; anything but null or "" is refused.
        best_of: Not supported above n.
    """

    prompt: Prompt
    echo: bool | None = None
    logprobs: LogprobCount | None = None
    suffix: str | None = None
    best_of: int | None = None
