"""What an error looks like on LM Studio's native routes, /api/v1/…: its words for the families of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.base import errors
from slipstream.server.errors import describe

if TYPE_CHECKING:
    from slipstream.server.errors import ErrorDetail

PREFIX = "/api/v1/"
_INTERNAL = "internal_error"
_TYPES: dict[type[BaseException], str] = {
    errors.UnsupportedError: "not_implemented",
    errors.InvalidRequestError: "invalid_request",
    errors.DownloadNotFoundError: "job_not_found",
    errors.ModelNotFoundError: "model_not_found",
    errors.AuthenticationError: "invalid_request",
    errors.AccessDeniedError: "invalid_request",
    errors.TooManyAttemptsError: "invalid_request",
    errors.SlipstreamError: _INTERNAL,
}


def describe_native(error: BaseException) -> dict[str, Any]:
    """Return the error object of an error: `type` and `message`, and `code` and `param` where there are any."""
    kind = next((_TYPES[cls] for cls in type(error).__mro__ if cls in _TYPES), _INTERNAL)
    return native_fields(describe(error), kind)


def native_fields(detail: ErrorDetail, kind: str) -> dict[str, Any]:
    """Return the error object of a detail.

    Args:
        detail: As OpenAI's routes tell it.
        kind: LM Studio's word for its family.
    """
    fields = {"type": kind, "message": detail.message, "code": detail.code, "param": detail.param}
    return {name: value for name, value in fields.items() if value is not None}
