"""What the request bodies of all routes share: strict types, limits of numbers, forms of text. Knows no route."""

from __future__ import annotations

import json
from typing import Annotated, Any

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
