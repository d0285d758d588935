"""POST /api/v1/chat: LM Studio's chat that remembers, with events for loading and for the prompt."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from slipstream.base.errors import UnsupportedError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec, Reasoning
from slipstream.runtime.chat_store import StoredTurn
from slipstream.runtime.load_options import LoadOptions
from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.draft_stats import status_of
from slipstream.server.images import content_of, image_part
from slipstream.server.lmstudio_v1_chat_schemas import ImageItem, NativeChatRequest
from slipstream.server.lmstudio_v1_chat_stream import NativeChatStream
from slipstream.server.metrics import Tracker
from slipstream.server.openai_answers import finish_word
from slipstream.server.responses_routes import history_of, new_response_id
from slipstream.server.sse import KEEP_ALIVE, SseResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from slipstream.base.types import ModelInstanceInfo
    from slipstream.runtime.chat_store import History
    from slipstream.runtime.generation import OutputStream
    from slipstream.server.context import ServerContext

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")
_PROGRESS_S = 0.1  # between two looks at a load


class _Call:
    """One request on its way.

    Args:
        context: Of the app.
        request: Checked.
        history: Of the answer it continues.
        model: Key of the model, from ModelManager.resolve.
    """

    def __init__(
        self, context: ServerContext, request: NativeChatRequest, history: History, model: str
    ) -> None:
        self._context = context
        self._request = request
        self._model = model
        self._arrival_s = time.monotonic()
        self._system = (
            request.system_prompt if request.system_prompt is not None else history.system_prompt
        )
        self._new = [{"role": "user", "content": _user_content(request)}]
        self._spec = self._make_spec(history)
        self._stream = NativeChatStream(model)
        wanted = request.context_length
        self._load_options = LoadOptions(config={"context_length": wanted} if wanted else {})

    def _make_spec(self, history: History) -> GenerationSpec:
        request = self._request
        opening = [{"role": "system", "content": self._system}] if self._system else []
        given = {name: getattr(request, name) for name in _SAMPLING}
        given["max_tokens"] = request.max_output_tokens
        sampling = SamplingParams(**{k: value for k, value in given.items() if value is not None})
        return GenerationSpec(
            request_id=new_response_id(),
            messages=[*opening, *history.messages, *self._new],
            sampling=sampling,
            reasoning=Reasoning(effort=request.reasoning or "", is_required=True),
            parse_output=True,
            context_overflow=self._context.settings.context_overflow,
        )

    @property
    def _response_id(self) -> str | None:
        return None if self._request.store is False else self._spec.request_id

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the events of the answer; it is stored before the last one."""
        async with aclosing(self._run()) as run:
            async for events in run:
                if events:
                    yield events

    async def collect(self) -> bytes:
        """Return the whole answer."""
        async with aclosing(self._run()) as run:
            async for _events in run:
                pass
        answer = self._stream.answer(self._response_id)
        return answer.model_dump_json(exclude_none=True).encode("utf-8")

    def end(self, error: BaseException | None) -> bytes:
        """Return what a stream ends with after its last event: nothing, or the failure."""
        return b"" if error is None else self._stream.fail(error)

    async def _run(self) -> AsyncGenerator[bytes, None]:
        yield self._stream.begin()
        async with aclosing(self._load()) as load:
            async for event in load:
                yield event
        yield self._stream.prompt_start()
        opening = asyncio.ensure_future(
            self._context.generation.stream(self._model, self._spec, self._load_options)
        )
        try:
            while not (await asyncio.wait((opening,), timeout=self._context.settings.keep_alive_s))[
                0
            ]:
                yield KEEP_ALIVE
        except BaseException:
            await _give_up(opening)
            raise
        async with opening.result() as deltas:
            yield self._stream.prompt_end()
            tracker = Tracker(self._context.metrics, self._model, 1, self._arrival_s)
            async for _index, delta in deltas:
                tracker.add(0, delta)
                if delta.finish_reason is not None:
                    finish_word(delta.finish_reason)  # an abort is no end
                yield self._stream.add(delta)
        yield self._stream.finish()
        if self._response_id is not None:
            await self._save(self._response_id)
        yield self._stream.end(self._response_id)

    async def _load(self) -> AsyncGenerator[bytes, None]:
        """Load the model if it is not, and tell how far that is."""
        status = status_of(self._context, self._model)
        if status is not None and status.info is not None and self._fits(status.info):
            return
        begin_s = time.monotonic()
        yield self._stream.load_start()
        load = asyncio.ensure_future(self._context.manager.client(self._model, self._load_options))
        told = -1.0
        try:
            while not (await asyncio.wait((load,), timeout=_PROGRESS_S))[0]:
                status = status_of(self._context, self._model)
                if status is not None and told < status.progress < 1.0:
                    told = status.progress
                    yield self._stream.load_progress(told)
        finally:
            load.cancel()  # of a load that has ended it does nothing; others may wait for one that has not
        await load
        yield self._stream.load_progress(1.0)
        yield self._stream.load_end(time.monotonic() - begin_s)

    def _fits(self, info: ModelInstanceInfo) -> bool:
        return info.context_length >= (self._request.context_length or 0)

    async def _save(self, response_id: str) -> None:
        turn = StoredTurn(
            response_id=response_id,
            parent_id=self._request.previous_response_id,
            model=self._model,
            messages=[*self._new, self._stream.segments.assistant_message()],
            system_prompt=self._system,
        )
        await asyncio.to_thread(self._context.chats.save, turn)


async def native_chat(request: Request) -> Response:
    """Answer a chat, and remember it for the next turn."""
    context = context_of(request)
    body = parse_body(await request.body(), NativeChatRequest)
    if body.integrations:
        message = "integrations are not supported yet; leave them out"
        raise UnsupportedError(message, param="integrations")
    model = await context.manager.resolve(body.model)
    history = await history_of(context, body.previous_response_id)
    call = _Call(context, body, history, model)
    if body.stream:
        keep_alive_s = context.settings.keep_alive_s
        return SseResponse(call.events(), context.in_flight, keep_alive_s, call.end)
    answer = await context.in_flight.run(call.collect(), request.receive)
    return Response(answer, media_type="application/json")


def _user_content(request: NativeChatRequest) -> str | list[dict[str, Any]]:
    if isinstance(request.input, str):
        return request.input
    parts = [
        image_part(item.data_url, f"input[{index}].data_url", may_be_remote=False)
        if isinstance(item, ImageItem)
        else item.content
        for index, item in enumerate(request.input)
    ]
    return content_of(parts, "input")


async def _give_up(opening: asyncio.Future[OutputStream]) -> None:
    """End a stream nobody waits for any more."""
    opening.cancel()
    await asyncio.wait((opening,))
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
