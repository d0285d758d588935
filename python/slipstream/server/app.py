"""Puts the server together: routes, middleware, and the one table that gives errors an HTTP status."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.base import errors
from slipstream.runtime.access import Access
from slipstream.runtime.settings import ServerSettings
from slipstream.runtime.tokens import TokenStore
from slipstream.server.anthropic_answers import PREFIX as ANTHROPIC_PREFIX
from slipstream.server.anthropic_answers import anthropic_error
from slipstream.server.context import ServerContext
from slipstream.server.errors import ErrorDetail, describe
from slipstream.server.guard import PageGuard, TokenGuard
from slipstream.server.in_flight import ClientGoneError
from slipstream.server.lmstudio_errors import PREFIX as NATIVE_PREFIX
from slipstream.server.lmstudio_errors import describe_native, native_fields
from slipstream.server.log_hub import LogHub
from slipstream.server.middleware import BodyLimit, Cors, RequestLog
from slipstream.server.openapi import ENDPOINTS, describe_api
from slipstream.server.watched_generation import WatchedGeneration

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from slipstream.runtime.generation import Generation
    from slipstream.runtime.model_manager import ModelManager
    from slipstream.server.openapi import Endpoint

_RETRY_AFTER_S = 1.0
_TOO_LARGE = 413
_CLIENT_GONE = 499  # nginx's number; nobody receives it, the log and the metrics show it
_INTERNAL = 500
_STATUS: dict[type[BaseException], int] = {
    errors.UnsupportedError: 501,
    errors.InvalidRequestError: 400,
    errors.ModelNotFoundError: 404,
    errors.ResponseNotFoundError: 404,
    errors.TokenNotFoundError: 404,
    errors.AuthenticationError: 401,
    errors.AccessDeniedError: 403,
    errors.TooManyAttemptsError: 429,
    errors.QueueFullError: 429,
    errors.InsufficientMemoryError: 507,
    errors.ModelLoadError: 500,
    errors.ContextCreateError: 500,
    errors.EngineDiedError: 503,
    errors.ClosedError: 503,
    errors.SlipstreamError: _INTERNAL,
}


def create_app(
    generation: Generation,
    manager: ModelManager,
    settings: ServerSettings | None = None,
    *,
    current: Callable[[], ServerSettings] | None = None,
    access: Access | None = None,
) -> Starlette:
    """Return the ASGI app.

    Args:
        generation: Answers requests.
        manager: Knows the models.
        settings: Defaults if not given.
        current: The settings of the moment, where they can change; `settings` if not given.
        access: Knows the tokens; those of SLIPSTREAM_HOME if not given.
    """
    given = settings or ServerSettings()
    current = current or (lambda: given)
    access = access or Access(TokenStore())
    log = LogHub()
    watched = WatchedGeneration(generation, log)
    context = ServerContext(watched, manager, current, access, log=log)
    paths = {endpoint.handler: endpoint.public_path for endpoint in ENDPOINTS}

    def observe(handler: object, status: int, elapsed_s: float) -> None:
        del elapsed_s
        context.metrics.request_ended(paths.get(handler, "other"), status)  # type: ignore[call-overload]  # any key

    app = Starlette(
        routes=[_route(endpoint, access, current) for endpoint in ENDPOINTS],
        middleware=[
            Middleware(RequestLog, observe=observe),
            Middleware(PageGuard, settings=current, reply=_on_error),
            # An answer about the body limit carries the headers too.
            Middleware(Cors, origins=lambda: current().cors_origins),
            Middleware(BodyLimit, max_body_bytes=current().max_body_bytes, reply=_too_large),
        ],
        exception_handlers={
            errors.SlipstreamError: _on_error,
            ClientGoneError: _on_client_gone,
            HTTPException: _on_http_error,
            Exception: _on_error,
        },
    )
    app.router.redirect_slashes = False
    app.state.context = context
    app.state.endpoints = ENDPOINTS
    app.state.openapi = describe_api()
    return app


def _route(endpoint: Endpoint, access: Access, current: Callable[[], ServerSettings]) -> Route:
    """Return the route, behind a guard where it needs one."""
    guards = []
    if endpoint.permission is not None:
        guards = [
            Middleware(
                TokenGuard,
                access=access,
                permission=endpoint.permission,
                is_required=lambda: endpoint.is_private or current().require_auth,
            )
        ]
    return Route(endpoint.path, endpoint.handler, methods=[endpoint.method], middleware=guards)


def _reply(detail: ErrorDetail, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(detail.body(), status, headers, media_type="application/json")


async def _on_error(request: Request, error: Exception) -> Response:
    status = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), _INTERNAL)
    headers = None
    if isinstance(error, errors.QueueFullError):
        headers = {"retry-after": str(math.ceil(_RETRY_AFTER_S))}
    elif isinstance(error, errors.TooManyAttemptsError):
        headers = {"retry-after": str(math.ceil(error.retry_after_s))}
    elif isinstance(error, errors.AuthenticationError):
        headers = {"www-authenticate": "Bearer"}  # RFC 9110 wants one with each 401
    if request.url.path.startswith(NATIVE_PREFIX):
        return JSONResponse({"error": describe_native(error)}, status, headers)
    if request.url.path.startswith(ANTHROPIC_PREFIX):
        return JSONResponse(anthropic_error(describe(error), status), status, headers)
    return _reply(describe(error), status, headers)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    del request, error
    return Response(b"", _CLIENT_GONE)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer for a path or a method there is not."""
    if not isinstance(error, HTTPException):
        raise error
    path = f"{request.method} {request.url.path[:200]}"
    words = {
        404: (f"there is no {path}; GET / lists what there is", "unknown_url"),
        405: (f"{path}: the path exists, but not for this method", "method_not_allowed"),
    }
    message, code = words.get(error.status_code, (error.detail, None))
    detail = ErrorDetail(message, "invalid_request_error", None, code)
    headers = dict(error.headers or {})
    if request.url.path.startswith(ANTHROPIC_PREFIX):
        return JSONResponse(anthropic_error(detail, error.status_code), error.status_code, headers)
    if request.url.path.startswith(NATIVE_PREFIX):
        fields = native_fields(detail, "invalid_request")
        return JSONResponse({"error": fields}, error.status_code, headers)
    return _reply(detail, error.status_code, headers)


def _too_large(detail: ErrorDetail) -> Response:
    return _reply(detail, _TOO_LARGE, {"connection": "close"})
