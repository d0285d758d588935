"""What an error looks like to an API client: OpenAI's error object. Knows no HTTP status; app.py has those."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from pydantic import ValidationError

from slipstream.base import errors

_log = logging.getLogger(__name__)

_INVALID_REQUEST = "invalid_request_error"
_SERVER_ERROR = "server_error"

# class -> (type, code); the first match along the class's bases is taken
_KINDS: dict[type[BaseException], tuple[str, str | None]] = {
    errors.ContextLengthError: (_INVALID_REQUEST, "context_length_exceeded"),
    errors.PreviousResponseError: (_INVALID_REQUEST, "previous_response_not_found"),
    errors.UnsupportedError: (_INVALID_REQUEST, "not_implemented"),
    errors.UnknownFieldError: (_INVALID_REQUEST, "unrecognized_keys"),
    errors.InvalidRequestError: (_INVALID_REQUEST, None),
    errors.DownloadNotFoundError: (_INVALID_REQUEST, "job_not_found"),
    errors.ModelNotFoundError: (_INVALID_REQUEST, "model_not_found"),
    errors.ResponseNotFoundError: (_INVALID_REQUEST, "response_not_found"),
    errors.TokenNotFoundError: (_INVALID_REQUEST, "token_not_found"),
    errors.AuthenticationError: (_INVALID_REQUEST, "invalid_api_key"),
    errors.AccessDeniedError: (_INVALID_REQUEST, "insufficient_permissions"),
    errors.ForeignPageError: (_INVALID_REQUEST, "origin_not_allowed"),
    errors.TooManyAttemptsError: ("rate_limit_error", "too_many_attempts"),
    errors.InsufficientMemoryError: (_SERVER_ERROR, "insufficient_memory"),
    errors.ModelLoadError: (_SERVER_ERROR, "model_load_failed"),
    errors.ContextCreateError: (_SERVER_ERROR, "context_create_failed"),
    errors.QueueFullError: ("rate_limit_error", "queue_full"),
    errors.StoreError: (_SERVER_ERROR, "store_failed"),
    errors.EngineDiedError: (_SERVER_ERROR, "engine_died"),
    errors.ModelUnloadedError: (_SERVER_ERROR, "model_unloaded"),
    errors.ClosedError: (_SERVER_ERROR, "server_shutting_down"),
    errors.SlipstreamError: (_SERVER_ERROR, None),
}


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The four fields of OpenAI's error object.

    Attributes:
        message: For the user.
        type: The family of the error.
        param: The request field at fault, as `messages[0].content`.
        code: A word a program can compare.
    """

    message: str
    type: str
    param: str | None = None
    code: str | None = None

    def body(self) -> bytes:
        """Return the JSON document `{"error": {…}}`."""
        fields = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return json.dumps({"error": fields}, separators=(",", ":")).encode("ascii")


def describe(error: BaseException) -> ErrorDetail:
    """Return what a client is told about `error`.

    An error that is not ours is a bug: it is logged with its traceback, and the client learns its class only,
    since its text may hold parts of a prompt or paths.
    """
    for cls in type(error).__mro__:
        if cls in _KINDS:
            kind, code = _KINDS[cls]
            break
    else:
        _log.error("unexpected %s", type(error).__name__, exc_info=error)
        return ErrorDetail(
            f"internal error ({type(error).__name__})", _SERVER_ERROR, None, "internal"
        )
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        missing = cause.errors(include_url=False, include_input=False)[0]["type"] == "missing"
        code = "missing_required_parameter" if missing else "invalid_value"
    param = getattr(error, "param", None)
    return ErrorDetail(str(error) or type(error).__name__, kind, param, code)
