"""The fields that say what an output looks like, and what becomes of one that does not fit. Knows no route."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from slipstream.server.schema_base import PlainObject, Schema


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
