"""From the bytes of a request to a checked pydantic model, or an InvalidRequestError that names the field."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from slipstream.base.errors import InvalidRequestError, UnknownFieldError

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

_MAX_NOTED_FIELDS = 256
_MAX_FIELD_CHARS = 64
_MAX_NAMED_FIELDS = 8
_noted_fields: set[str] = set()


def parse_body(body: bytes, model: type[Model], *, is_strict: bool = False) -> Model:
    """Parse and check a JSON request body.

    Args:
        body: As received. Nesting deeper than 200, NaN, Infinity and lone surrogates are no JSON here.
        model: What it must be.
        is_strict: Refuse fields it does not have, as for a model that forbids them.

    Returns:
        The checked model. Fields it does not have are ignored, and logged the first time, unless they are refused.

    Raises:
        UnknownFieldError: a field the model does not have, where those are refused.
        InvalidRequestError: no JSON, no object, or a field missing or of another type; `param` names the field.
    """
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = f"the request body is no valid JSON: {error}"
        raise InvalidRequestError(message) from error
    if not isinstance(document, dict):
        message = f"the request body must be a JSON object, not {_json_type(document)}"
        raise InvalidRequestError(message)
    if is_strict or model.model_config.get("extra") == "forbid":
        _refuse_unknown(document, model)
    _note_unknown(document, model)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        param, message = _explain(error, document)
        raise InvalidRequestError(message, param=param) from error


def _refuse_unknown(document: Mapping[str, Any], model: type[BaseModel]) -> None:
    unknown = [name for name in document if name not in model.model_fields]
    if unknown:
        names = ", ".join(repr(name[:_MAX_FIELD_CHARS]) for name in unknown[:_MAX_NAMED_FIELDS])
        message = f"Unrecognized key(s) in object: {names}"
        raise UnknownFieldError(message, param=unknown[0][:_MAX_FIELD_CHARS])


def _note_unknown(document: Mapping[str, Any], model: type[BaseModel]) -> None:
    unknown = document.keys() - model.model_fields.keys() - _noted_fields
    for name in sorted(unknown):
        if len(_noted_fields) >= _MAX_NOTED_FIELDS:
            return
        _noted_fields.add(name)
        _log.warning("ignoring the unknown request field %r", name[:_MAX_FIELD_CHARS])


def _explain(error: ValidationError, document: dict[str, Any]) -> tuple[str, str]:
    """Return the path of the field at fault and a sentence. Of a union's many errors the deepest are taken."""
    paths: dict[tuple[str | int, ...], list[str]] = {}
    for item in error.errors(include_url=False, include_context=False):
        path = _path_in(document, item["loc"], missing=item["type"] == "missing")
        text = "is required" if item["type"] == "missing" else _without_subject(item["msg"])
        texts = paths.setdefault(path, [])
        if text not in texts:
            texts.append(text)
    path = max(paths, key=len)
    param = _dotted(path)
    return param, f"{param} {' or '.join(paths[path])}"


def _without_subject(text: str) -> str:
    """Turn pydantic's `Input should be …` and `List should have …` into what follows a field's name."""
    _subject, should, rest = text.partition("should ")
    return (should + rest).removesuffix(" after validation, not 0") if should else text


def _path_in(document: Any, loc: tuple[str | int, ...], *, missing: bool) -> tuple[str | int, ...]:
    """Return the part of pydantic's `loc` that is in the document: a union adds the names of its types."""
    path: list[str | int] = []
    value = document
    for index, key in enumerate(loc):
        in_object = isinstance(value, dict) and key in value
        in_array = isinstance(value, list) and isinstance(key, int) and key < len(value)
        if in_object or in_array:
            value = value[key]
        elif missing and index == len(loc) - 1:
            pass
        else:
            continue
        path.append(key)
    return tuple(path)


def _dotted(path: tuple[str | int, ...]) -> str:
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{key[:_MAX_FIELD_CHARS]}" if text else key[:_MAX_FIELD_CHARS]
    return text


def _json_type(value: object) -> str:
    names: dict[type, str] = {
        list: "an array",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")
