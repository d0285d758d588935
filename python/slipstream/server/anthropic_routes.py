"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response

from slipstream.base.queries import Count, CountPrompt
from slipstream.server.anthropic_answers import MessageStream, TokenCount, anthropic_end
from slipstream.server.anthropic_requests import messages_spec, prompt_spec
from slipstream.server.anthropic_schemas import CountTokensRequest, MessagesRequest
from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.image_fetch import fetched
from slipstream.server.metrics import Tracker
from slipstream.server.openai_requests import new_id
from slipstream.server.sse import SseResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from slipstream.base.types import GenerationSpec
    from slipstream.server.anthropic_answers import MessageAnswer
    from slipstream.server.context import ServerContext


class _Call:
    """One request on its way."""

    def __init__(self, context: ServerContext, model: str, spec: GenerationSpec) -> None:
        self._context = context
        self._model = model
        self._spec = spec
        self._arrival_s = time.monotonic()
        self._message: MessageStream | None = None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of the answer."""
        deltas = await self._context.generation.stream(self._model, self._spec)
        async with deltas:
            self._message = MessageStream(self._spec.request_id, deltas.model)
            tracker = Tracker(self._context.metrics, deltas.model, 1, self._arrival_s)
            async for _index, delta in deltas:
                tracker.add(0, delta)
                events = self._message.add(delta)
                if events:
                    yield events

    async def collect(self) -> MessageAnswer:
        """Return the whole answer."""
        async with aclosing(self.events()) as events:
            async for _events in events:
                pass
        assert self._message is not None  # the run has ended without an error
        return self._message.answer()


async def create_message(request: Request) -> Response:
    """Answer a conversation in Anthropic's form."""
    context = context_of(request)
    body = parse_body(await request.body(), MessagesRequest, is_strict=_is_strict(request))
    spec = messages_spec(body, new_id("msg", "_"))
    spec.context_overflow = context.settings.context_overflow
    spec.messages = await fetched(context, request, spec.messages or [])
    call = _Call(context, body.model, spec)
    if body.stream:
        keep_alive_s = context.settings.keep_alive_s
        return SseResponse(call.events(), context.in_flight, keep_alive_s, anthropic_end)
    answer = await context.in_flight.run(call.collect(), request.receive)
    return Response(answer.model_dump_json(), media_type="application/json")


async def count_message_tokens(request: Request) -> Response:
    """Count the tokens of the prompt a request would have."""
    context = context_of(request)
    body = parse_body(await request.body(), CountTokensRequest, is_strict=_is_strict(request))
    spec = prompt_spec(body, new_id("count", "_"))
    spec.messages = await fetched(context, request, spec.messages or [])
    query = CountPrompt(spec=spec)
    ask = context.generation.ask(body.model, query)
    _model, count = await context.in_flight.run(ask, request.receive)
    assert isinstance(count, Count)
    answer = TokenCount(input_tokens=count.num_tokens)
    return Response(answer.model_dump_json(), media_type="application/json")


def _is_strict(request: Request) -> bool:
    """Anthropic's API refuses fields it does not know; those of a beta need its header, and are not ours to know."""
    return "anthropic-beta" not in request.headers
