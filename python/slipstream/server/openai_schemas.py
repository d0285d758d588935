"""The request bodies of /v1/chat/completions and /v1/completions. Knows their fields, not how they are served.

Fields a model does not name are ignored and logged once (see body.py). Types are strict: "1" is no number.
Ranges are not checked here but by SamplingParams, in one place for every surface.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from slipstream.runtime.settings import MAX_TTL_S

MAX_CHOICES = 16
MAX_PROMPTS = 128
MAX_INPUTS = 2048
MAX_TOP_LOGPROBS = 20

Count = Annotated[int, Field(ge=1, le=MAX_CHOICES)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Ttl = Annotated[float, Field(gt=0, le=MAX_TTL_S)]
LogprobCount = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)]


def _fits_frame(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what cannot be sent to an engine: integers of more than 64 bits."""
    try:
        msgspec.msgpack.encode(value)
        json.dumps(value, allow_nan=False)
    except (OverflowError, ValueError) as error:
        message = "should have no integers of more than 64 bits and no infinities"
        raise ValueError(message) from error
    return value


PlainObject = Annotated[dict[str, Any], AfterValidator(_fits_frame)]


class Schema(BaseModel):
    """What all request models share: strict types, unknown fields dropped, no infinities."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


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


class NamedSchema(Schema):
    """A JSON Schema with the name a client gives it.

    Attributes:
        schema_: The JSON Schema; `schema` in the body.
        name: Without effect, as are the fields after it: the output always matches the schema.
    """

    schema_: PlainObject | None = Field(default=None, alias="schema")
    name: Any = None
    strict: Any = None
    description: Any = None


class ResponseFormat(Schema):
    """The form of the output.

    Attributes:
        type: `text`, `json_object` or `json_schema`.
        json_schema: See NamedSchema.
        schema_: llama-server's place for the schema; `schema` in the body.
    """

    type: str
    json_schema: NamedSchema | None = None
    schema_: PlainObject | None = Field(default=None, alias="schema")


class StructuredOutputs(Schema):
    """vLLM's form of the output: exactly one field.

    Attributes:
        json_: A JSON Schema, or its text; `json` in the body.
        regex: The output matches it as a whole.
        choice: The output is one of these.
        grammar: Lark or GBNF text.
        json_object: Any JSON object.
    """

    json_: PlainObject | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class CompletionFields(Schema):
    """What both routes have besides sampling. The fields that say what the output looks like exclude each other.

    Attributes:
        context_overflow: What to do when the context is full: `error`, `truncate_middle` or `rolling_window`.
        contextOverflowPolicy: LM Studio's name: `stopAtLimit`, `truncateMiddle` or `rollingWindow`.
        response_format: See ResponseFormat.
        structured_outputs: See StructuredOutputs.
        json_schema: A JSON Schema, as llama-server takes it.
        guided_json: A JSON Schema or its text; these are vLLM's earlier names.
        guided_regex: The output matches it as a whole.
        guided_choice: The output is one of these.
        guided_grammar: Lark or GBNF text.
        grammar: GBNF text every output must match.
    """

    context_overflow: Literal["error", "truncate_middle", "rolling_window"] | None = None
    contextOverflowPolicy: Literal["stopAtLimit", "truncateMiddle", "rollingWindow"] | None = (
        None  # theirs
    )
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    json_schema: PlainObject | None = None
    guided_json: PlainObject | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None


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


def _prompt_form(value: Any) -> str:
    """Tell the four forms of a prompt apart by the first entry, so that an error names the entry at fault."""
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "texts" if isinstance(first, str) else "id_lists" if isinstance(first, list) else "ids"


def _at_most(num_entries: int) -> AfterValidator:
    """Limit the texts or lists of token ids in one of the four forms."""

    def check(value: Any) -> Any:
        if not isinstance(value, str | int) and len(listed(value)) > num_entries:
            message = f"should have at most {num_entries} entries"
            raise ValueError(message)
        return value

    return AfterValidator(check)


def listed(value: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """Return the texts or lists of token ids in one of the four forms."""
    if isinstance(value, str):
        return [value]
    if isinstance(value[0], int):
        return [value]
    return list(value)


TextOrTokens = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, fail_fast=True), Tag("texts")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("id_lists")],
    Discriminator(_prompt_form),
]
Prompt = Annotated[TextOrTokens, _at_most(MAX_PROMPTS)]
Inputs = Annotated[TextOrTokens, _at_most(MAX_INPUTS)]


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
