"""POST /v1/responses, and GET and DELETE of a stored answer: OpenAI's newer API, which remembers conversations."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response

from slipstream.base.errors import PreviousResponseError, ResponseNotFoundError
from slipstream.runtime.chat_store import History, StoredTurn
from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.image_fetch import fetched
from slipstream.server.metrics import Tracker
from slipstream.server.openai_answers import finish_word
from slipstream.server.responses_answers import DeletedResponse, begun
from slipstream.server.responses_input import input_messages, responses_spec
from slipstream.server.responses_schemas import ResponsesRequest
from slipstream.server.responses_stream import ResponseStream
from slipstream.server.sse import SseResponse, openai_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Any

    from starlette.requests import Request

    from slipstream.base.types import FinishReason, GenerationSpec, Usage
    from slipstream.server.context import ServerContext

_ID_BYTES = 24


def new_response_id() -> str:
    """Return a fresh `resp_…` with 48 hex digits."""
    return f"resp_{secrets.token_hex(_ID_BYTES)}"


async def history_of(context: ServerContext, previous_response_id: str | None) -> History:
    """Return the thread a request continues, an empty one if it continues none.

    Raises:
        PreviousResponseError: there is no such answer.
    """
    if previous_response_id is None:
        return History()
    history = await asyncio.to_thread(context.chats.history, previous_response_id)
    if history is None:
        message = (
            f"there is no stored answer {previous_response_id[:80]!r}; it was made with store false, deleted, or "
            "never made"
        )
        raise PreviousResponseError(message, param="previous_response_id")
    return history


class _Call:
    """One request on its way."""

    def __init__(
        self,
        context: ServerContext,
        request: ResponsesRequest,
        spec: GenerationSpec,
        new: list[dict[str, Any]],
    ) -> None:
        self.context = context
        self.request = request
        self.spec = spec
        self.new = new
        self.arrival_s = time.monotonic()
        self.stream: ResponseStream | None = None

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of the answer up to the last one; the answer is stored before that."""
        async with aclosing(self._run()) as run:
            async for events in run:
                if events:
                    yield events

    async def collect(self) -> bytes:
        """Return the whole answer."""
        async for _events in self._run():
            pass
        assert self.stream is not None  # the run has ended without an error
        return self.stream.body.model_dump_json().encode("utf-8")

    def end(self, error: BaseException | None) -> bytes:
        """Return what a stream ends with after its last event: nothing, or the failure."""
        if error is None:
            return b""
        return self.stream.fail(error) if self.stream is not None else openai_end(error)

    async def _run(self) -> AsyncGenerator[bytes, None]:
        generation = self.context.generation
        deltas = await generation.stream(self.request.model, self.spec)
        async with deltas:
            body = begun(self.request, self.spec, deltas.model, int(time.time()))
            self.stream = ResponseStream(body)
            tracker = Tracker(self.context.metrics, deltas.model, 1, self.arrival_s)
            reason: FinishReason | None = None
            usage: Usage | None = None
            yield self.stream.begin()
            async for _index, delta in deltas:
                tracker.add(0, delta)
                if delta.finish_reason is not None:
                    finish_word(delta.finish_reason)  # an abort is no end
                reason, usage = delta.finish_reason or reason, delta.usage or usage
                yield self.stream.add(delta)
        closing, last = self.stream.end(reason, usage)
        yield closing
        if self.request.store is not False:
            await self._save(deltas.model)
        yield last

    async def _save(self, model: str) -> None:
        assert self.stream is not None
        turn = StoredTurn(
            response_id=self.spec.request_id,
            parent_id=self.request.previous_response_id,
            model=model,
            messages=[*self.new, self.stream.segments.assistant_message()],
            body=self.stream.body.model_dump(),
        )
        await asyncio.to_thread(self.context.chats.save, turn)


async def create_response(request: Request) -> Response:
    """Answer a conversation, and remember it for the next turn."""
    context = context_of(request)
    body = parse_body(await request.body(), ResponsesRequest)
    new = await fetched(context, request, input_messages(body.input))
    history = await history_of(context, body.previous_response_id)
    overflow = context.settings.context_overflow
    spec = responses_spec(body, new_response_id(), history, new, overflow)
    call = _Call(context, body, spec, new)
    if body.stream:
        keep_alive_s = context.settings.keep_alive_s
        return SseResponse(call.events(), context.in_flight, keep_alive_s, call.end)
    answer = await context.in_flight.run(call.collect(), request.receive)
    return Response(answer, media_type="application/json")


async def get_response(request: Request) -> Response:
    """Give a stored answer again."""
    response_id = request.path_params["response_id"]
    body = await asyncio.to_thread(context_of(request).chats.body, response_id)
    if body is None:
        raise _not_found(response_id)
    # As it was stored, so that an answer of an older version comes back as it was.
    return Response(json.dumps(body), media_type="application/json")


async def delete_response(request: Request) -> Response:
    """Forget a stored answer; answers that continue it keep their thread."""
    response_id = request.path_params["response_id"]
    if not await asyncio.to_thread(context_of(request).chats.delete, response_id):
        raise _not_found(response_id)
    answer = DeletedResponse(id=response_id)
    return Response(answer.model_dump_json(), media_type="application/json")


def _not_found(response_id: str) -> ResponseNotFoundError:
    message = f"there is no stored answer {response_id[:80]!r}"
    return ResponseNotFoundError(message, param="response_id")
