"""The bodies of POST /api/v1/chat: what it takes, which is checked strictly, and what it gives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from slipstream.server.openai_answers import Answer
from slipstream.server.schema_base import Schema

ResponseId = Annotated[str, Field(pattern=r"^resp_", max_length=128)]


class TextItem(Schema):
    """Text of the user; both types mean the same.

    Attributes:
        type: `message` or `text`.
        content: The text.
    """

    type: Literal["message", "text"]
    content: str


class ImageItem(Schema):
    """A picture.

    Attributes:
        type: `image`.
        data_url: Base64 data URL.
    """

    type: Literal["image"]
    data_url: str


def _input_form(value: Any) -> str:
    return "items" if isinstance(value, list) else "text"


class NativeChatRequest(Schema):
    """Body of POST /api/v1/chat. A field it does not name is an error.

    Attributes:
        model: Key of a model; it is loaded if it is not.
        input: What the user says: text, or a list of items.
        system_prompt: Of this turn and later ones, until one brings another.
        integrations: Not supported yet: anything but an empty list is refused.
        stream: Send events as they come.
        temperature: 0 always takes the most likely token.
        top_p: Nucleus sampling.
        top_k: Keep the k most likely tokens.
        min_p: Keep tokens with this share of the best one's probability.
        repeat_penalty: 1 is none.
        max_output_tokens: Most tokens to generate, reasoning included.
        reasoning: How much the model thinks; its own default if not given.
        context_length: Tokens of context the answer needs; an error if the model is loaded with less.
        store: Keep the answer, so that it can be continued; true if not given.
        previous_response_id: The stored answer to continue from.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    input: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[
            list[Annotated[TextItem | ImageItem, Field(discriminator="type")]],
            Field(min_length=1, fail_fast=True),
            Tag("items"),
        ],
        Discriminator(_input_form),
    ]
    system_prompt: str | None = None
    integrations: list[Any] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    max_output_tokens: int | None = None
    reasoning: Literal["off", "low", "medium", "high", "on"] | None = None
    context_length: Annotated[int, Field(ge=1)] | None = None
    store: bool | None = None
    previous_response_id: ResponseId | None = None


class NativeChatStats(Answer):
    """Counts and times of an answer. `model_load_time_seconds` is there only if it loaded the model."""

    input_tokens: int
    total_output_tokens: int
    reasoning_output_tokens: int
    tokens_per_second: float
    time_to_first_token_seconds: float
    model_load_time_seconds: float | None = None


class NativeChatAnswer(Answer):
    """Answer of POST /api/v1/chat without `stream`.

    `output` holds items of the types reasoning, message and invalid_tool_call in the order they were made;
    `response_id` is there only if the answer is stored.
    """

    model_instance_id: str
    output: list[dict[str, Any]]
    stats: NativeChatStats
    response_id: str | None = None
