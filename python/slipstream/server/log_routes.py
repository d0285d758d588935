"""GET /api/v1/log: the log, and what models are asked and answer, as it happens. Ours; always wants a token."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError
from slipstream.server.context import context_of
from slipstream.server.log_hub import DIRECTIONS, SOURCES, LogChoice, choose
from slipstream.server.sse import SseResponse, data_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from starlette.requests import Request

    from slipstream.server.log_hub import LogHub

_READY = b": watching\n\n"
_FIELDS = ("source", "filter", "stats", "content")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


async def stream_log(request: Request) -> SseResponse:
    """Stream log records and, if asked for, what requests say, as events."""
    context = context_of(request)
    choice = _choice(request.query_params)
    return SseResponse(
        _events(context.log, choice),
        context.in_flight,
        context.settings.keep_alive_s,
        end=lambda _error: b"",
    )


async def _events(hub: LogHub, choice: LogChoice) -> AsyncGenerator[bytes, None]:
    async with aclosing(hub.records(choice)) as records:
        async for record in records:
            if record is None:
                yield _READY
            else:
                yield data_event(json.dumps(record, separators=(",", ":")).encode("ascii"))


def _choice(given: Mapping[str, str]) -> LogChoice:
    unknown = sorted(set(given).difference(_FIELDS))
    if unknown:
        message = f"there is no parameter {unknown[0][:50]!r}; there are: {', '.join(_FIELDS)}"
        raise InvalidRequestError(message, param=unknown[0][:50])
    return LogChoice(
        sources=choose("source", given.get("source"), SOURCES),
        directions=choose("filter", given.get("filter"), DIRECTIONS),
        with_stats=_switch("stats", given),
        with_content=_switch("content", given),
    )


def _switch(name: str, given: Mapping[str, str]) -> bool:
    text = given.get(name, "false")
    if text not in _SWITCH:
        message = f"{name} is {text[:50]!r}; it must be true or false"
        raise InvalidRequestError(message, param=name)
    return _SWITCH[text]
