"""What is about the server itself: index, health, metrics and the description of its API."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel
from starlette.responses import Response

from slipstream.base.errors import SlipstreamError
from slipstream.server.context import VERSION, context_of
from slipstream.server.guard import client_of, token_of
from slipstream.server.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from starlette.requests import Request


class ModelHealth(BaseModel):
    """How one model is doing; `pid` is that of the engine process that holds it."""

    id: str
    state: Literal["not-loaded", "loading", "loaded"]
    progress: float
    pid: int | None
    num_loads: int
    num_deaths: int
    last_error: str | None


class Health(BaseModel):
    """Answer of GET /health: `ok` while requests are taken, `closing` after a signal."""

    status: Literal["ok", "closing"]
    version: str
    requests_in_flight: int
    models: list[ModelHealth]


class Index(BaseModel):
    """Answer of GET /."""

    name: str
    version: str
    endpoints: dict[str, str]


async def index(request: Request) -> Response:
    """Say what this is and where things are."""
    endpoints = {route.path: route.summary for route in request.app.state.endpoints}
    return _json(Index(name="slipstream", version=VERSION, endpoints=endpoints))


async def health(request: Request) -> Response:
    """Tell whether the server takes requests and, to who may use them, how its models are doing."""
    context = context_of(request)
    statuses = context.manager.list() if _may_see_models(request) else ()
    models = [
        ModelHealth(
            id=status.key,
            state=status.state.value,
            progress=status.progress,
            pid=status.info.pid if status.info else None,
            num_loads=status.num_loads,
            num_deaths=status.num_deaths,
            last_error=status.last_error,
        )
        for status in statuses
    ]
    return _json(
        Health(
            status="closing" if context.in_flight.closing else "ok",
            version=VERSION,
            requests_in_flight=len(context.in_flight),
            models=models,
        )
    )


def _may_see_models(request: Request) -> bool:
    context = context_of(request)
    if not context.settings.require_auth:
        return True
    try:
        context.access.check(token_of(request.scope), client_of(request.scope), "inference")
    except SlipstreamError:
        return False
    return True


async def metrics(request: Request) -> Response:
    """Give the server's figures in Prometheus' text format."""
    context = context_of(request)
    engines = await context.manager.stats()
    text = context.metrics.render(context.manager.list(), engines, len(context.in_flight))
    return Response(text, headers={"content-type": CONTENT_TYPE})


async def openapi(request: Request) -> Response:
    """Describe every route in OpenAPI 3.1."""
    return Response(json.dumps(request.app.state.openapi), media_type="application/json")


async def docs(request: Request) -> Response:
    """Show /openapi.json as a page."""
    del request
    return Response(_docs_page(), media_type="text/html")


@cache
def _docs_page() -> str:
    return (files("slipstream.server") / "static" / "docs.html").read_text(encoding="utf-8")


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
