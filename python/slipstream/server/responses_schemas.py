"""The request body of POST /v1/responses. Knows its fields, not how they are served."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from slipstream.server.openai_schemas import SamplingFields
from slipstream.server.schema_base import LogprobCount, PlainObject, Schema

ResponseId = Annotated[str, Field(max_length=128)]


class InputPart(Schema):
    """A part of an item's content.

    Attributes:
        type: `input_text`, `output_text` or `text`; `input_image`; `refusal`; files are refused.
        text: Of a text part.
        image_url: Base64 data URL of an image.
        detail: Accepted, without effect.
        refusal: Of a refusal.
    """

    type: str
    text: str | None = None
    image_url: str | None = None
    detail: Any = None
    refusal: str | None = None


Content = str | Annotated[list[InputPart], Field(fail_fast=True)]


class InputMessage(Schema):
    """What somebody said; `type` may be left out.

    Attributes:
        type: `message`.
        role: Who; `developer` is treated as `system`.
        content: Text, or a list of text and image parts.
    """

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class FunctionCall(Schema):
    """A call the model made in an earlier answer.

    Attributes:
        type: `function_call`.
        call_id: What its output refers to.
        name: Of the function.
        arguments: JSON text.
    """

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(Schema):
    """What a call gave.

    Attributes:
        type: `function_call_output`.
        call_id: Of the call.
        output: Text, or a list of text parts.
    """

    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ReasoningInput(Schema):
    """What the model thought in an earlier answer; its template decides whether it sees it again.

    Attributes:
        type: `reasoning`.
        content: Parts of type `reasoning_text`.
        summary: Used where there is no content.
    """

    type: Literal["reasoning"]
    content: Annotated[list[InputPart], Field(fail_fast=True)] | None = None
    summary: Annotated[list[InputPart], Field(fail_fast=True)] | None = None


def _item_type(value: Any) -> str | None:
    """Tell items apart by `type`; one without is a message."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    return "message" if kind is None else kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[ReasoningInput, Tag("reasoning")],
    Discriminator(
        _item_type,
        custom_error_type="item_type",
        custom_error_message="Input should have the type message, function_call, function_call_output or reasoning",
    ),
]


def _input_form(value: Any) -> str:
    return "items" if isinstance(value, list) else "text"


class TextFormat(Schema):
    """The form of the output.

    Attributes:
        type: `text`, `json_object` or `json_schema`.
        name: Of the schema.
        schema_: The JSON Schema; `schema` in the body.
        strict: The output always matches the schema, so it has no effect.
        description: Without effect.
    """

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: PlainObject | None = Field(default=None, alias="schema")
    strict: Any = None
    description: str | None = None


class TextOptions(Schema):
    """Options of the output text.

    Attributes:
        format: See TextFormat; any text if not given.
        verbosity: Without effect.
    """

    format: TextFormat | None = None
    verbosity: Any = None


class ReasoningOptions(Schema):
    """How much the model thinks.

    Attributes:
        effort: The model's own default if not given.
        max_tokens: Most tokens of it; not OpenAI's, but that of routers in front of it.
        summary: Without effect; the whole reasoning is in the answer.
    """

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    summary: Any = None
    generate_summary: Any = None


class FunctionTool(Schema):
    """A function the client runs.

    Attributes:
        type: `function`; tools that run on the server are refused.
        name: Of the function.
        description: For the model.
        parameters: JSON Schema of its arguments.
        strict: Arguments always match the schema, so it has no effect.
    """

    type: str
    name: str | None = None
    description: str | None = None
    parameters: PlainObject | None = None
    strict: Any = None


class ToolChoice(Schema):
    """The one function to call.

    Attributes:
        type: `function`.
        name: Of the function.
    """

    type: Literal["function"]
    name: str


class ResponsesRequest(SamplingFields):
    """Body of POST /v1/responses.

    Attributes:
        input: What to answer: text, or a list of items.
        instructions: System prompt of this answer; the next one needs it again.
        previous_response_id: The stored answer to continue from.
        store: Keep the answer, so that it can be continued and asked for again; true if not given.
        max_output_tokens: Most tokens to generate, reasoning included.
        tools: Functions the client runs.
        tool_choice: `auto`, `none`, `required`, or one function.
        parallel_tool_calls: Whether one answer may hold several calls.
        reasoning: See ReasoningOptions.
        text: See TextOptions.
        top_logprobs: Log-probabilities of this many tokens beside each; needs `include`.
        include: `message.output_text.logprobs` adds log-probabilities; anything else has no effect.
        truncation: `auto` drops the oldest messages of a conversation that is too long; `disabled` is an error.
        background: Not supported.
        conversation: Not supported; use previous_response_id.
        prompt: Not supported.
        max_tool_calls: Without effect, as no tool runs on the server.
    """

    input: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[InputItem], Field(min_length=1, fail_fast=True), Tag("items")],
        Discriminator(_input_form),
    ]
    instructions: str | None = None
    previous_response_id: ResponseId | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    top_logprobs: LogprobCount | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    max_tool_calls: Any = None
    metadata: dict[str, str] | None = None
    user: str | None = None
