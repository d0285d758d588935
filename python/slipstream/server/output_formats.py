"""What the routes' many spellings of structured output mean: one OutputFormat, or none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.types import OutputFormat

if TYPE_CHECKING:
    from slipstream.server.output_schemas import CompletionFields, ResponseFormat, StructuredOutputs


def output_format(request: CompletionFields) -> OutputFormat | None:
    """Return the form a request wants its output to have, None for any text.

    Raises:
        InvalidRequestError: an incomplete or unknown form, or two of them.
    """
    found = [
        _response_format(request.response_format),
        _structured(request.structured_outputs),
        _schema(request.json_schema, "json_schema"),
        _schema(request.guided_json, "guided_json"),
        _made("regex", request.guided_regex, "guided_regex"),
        _choice(request.guided_choice, "guided_choice"),
        _grammar(request.guided_grammar, "guided_grammar"),
        _made("gbnf", request.grammar or None, "grammar"),
    ]
    formats = [form for form in found if form is not None]
    if len(formats) > 1:
        names = " and ".join(form.name for form in formats)
        message = f"{names} exclude each other; give one of them"
        raise InvalidRequestError(message, param=formats[1].name)
    return formats[0] if formats else None


def _response_format(given: ResponseFormat | None) -> OutputFormat | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return _schema(given.schema_, "response_format.schema") or OutputFormat(
            kind="json_object", name="response_format"
        )
    if given.type == "json_schema":
        inner = given.json_schema
        path = "response_format.json_schema.schema"
        if inner is not None and inner.schema_ is not None:
            return _schema(inner.schema_, path)
        found = _schema(given.schema_, "response_format.schema")
        if found is None:
            message = f"{path} is required with the type json_schema"
            raise InvalidRequestError(message, param=path)
        return found
    message = (
        f"response_format.type is {given.type[:40]!r}; it must be text, json_object or json_schema"
    )
    raise InvalidRequestError(message, param="response_format.type")


def _structured(given: StructuredOutputs | None) -> OutputFormat | None:
    if given is None:
        return None
    path = "structured_outputs"
    found = [
        _schema(given.json_, f"{path}.json"),
        _made("regex", given.regex, f"{path}.regex"),
        _choice(given.choice, f"{path}.choice"),
        _grammar(given.grammar, f"{path}.grammar"),
        OutputFormat(kind="json_object", name=f"{path}.json_object") if given.json_object else None,
    ]
    formats = [form for form in found if form is not None]
    if len(formats) != 1:
        message = f"{path} must have exactly one of json, regex, choice, grammar and json_object"
        raise InvalidRequestError(message, param=path)
    return formats[0]


def _schema(schema: dict[str, Any] | str | None, name: str) -> OutputFormat | None:
    text = json.dumps(schema, ensure_ascii=False) if isinstance(schema, dict) else schema
    return _made("json_schema", text, name)


def _choice(choices: list[str] | None, name: str) -> OutputFormat | None:
    return None if choices is None else _made("choice", json.dumps(choices), name)


def _grammar(text: str | None, name: str) -> OutputFormat | None:
    """Tell GBNF from Lark by the sign between a rule and its body."""
    return _made("gbnf" if text is not None and "::=" in text else "lark", text, name)


def _made(kind: str, value: str | None, name: str) -> OutputFormat | None:
    return None if value is None else OutputFormat(kind=kind, value=value, name=name)
