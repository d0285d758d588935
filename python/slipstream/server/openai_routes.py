"""POST /v1/chat/completions and /v1/completions, GET /v1/models. Turns requests into specs and deltas into answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import JSONResponse, Response

from slipstream.base.types import FinishReason, Usage
from slipstream.runtime.load_options import LoadOptions
from slipstream.runtime.model_manager import ModelState
from slipstream.runtime.results import GenerationResult, ResultCollector
from slipstream.server.body import parse_body
from slipstream.server.context import FINGERPRINT, context_of
from slipstream.server.draft_stats import draft_stats, status_of
from slipstream.server.image_fetch import fetched
from slipstream.server.inline_reasoning import InlineReasoning
from slipstream.server.metrics import Tracker
from slipstream.server.openai_answers import (
    ChatChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    ModelEntry,
    ModelList,
    add_usage,
    assistant_message,
    chat_logprobs,
    completion_logprobs,
    finish_word,
)
from slipstream.server.openai_requests import chat_specs, completion_specs, new_id
from slipstream.server.openai_schemas import ChatRequest, CompletionRequest
from slipstream.server.openai_stream import ChatChunks, CompletionChunks, StreamHead
from slipstream.server.sse import SseResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from starlette.requests import Request

    from slipstream.base.types import GenerationSpec, OutputDelta
    from slipstream.runtime.model_manager import ModelManager
    from slipstream.server.context import ServerContext
    from slipstream.server.openai_answers import Answer
    from slipstream.server.openai_schemas import SamplingFields


class Ending(NamedTuple):
    """How one choice ended."""

    finish_reason: FinishReason | None
    stop_string: str | None
    usage: Usage


# What a surface adds to OpenAI's answer: (context, model, how each choice ended) -> further fields
Extras = Callable[["ServerContext", str, "Sequence[Ending]"], Awaitable[dict[str, Any]]]


class Surface(NamedTuple):
    """What sets an API with OpenAI's form apart.

    Attributes:
        extras: Further fields of an answer.
        has_last_chunk: Streams end with a chunk of usage and extras even where no usage is asked for.
    """

    extras: Extras
    has_last_chunk: bool


async def _lmstudio_extras(
    context: ServerContext, model: str, ends: Sequence[Ending]
) -> dict[str, Any]:
    """LM Studio adds one object, empty unless there is a draft model."""
    usages = [end.usage for end in ends]
    return {"stats": draft_stats(status_of(context, model), usages)}


_OPENAI = Surface(_lmstudio_extras, has_last_chunk=False)


class _Call:
    """One request on its way: what both routes and both forms of the answer share."""

    def __init__(
        self,
        context: ServerContext,
        request: SamplingFields,
        request_id: str,
        specs: list[GenerationSpec],
        surface: Surface,
    ) -> None:
        self.context = context
        self._surface = surface
        self.model = request.model
        self.request_id = request_id
        self.specs = specs
        self.num_choices = request.n or 1
        self.created_s = int(time.time())
        self.arrival_s = time.monotonic()
        options = request.stream_options
        self.load = LoadOptions(
            config={"draft_model": request.draft_model} if request.draft_model else {},
            ttl_s=request.ttl,
        )
        is_inline = not context.settings.separate_reasoning
        self._inline = [InlineReasoning() if is_inline else None for _ in specs]
        self.include_usage = options is not None and bool(options.include_usage)

    def tracker(self, model: str) -> Tracker:
        return Tracker(self.context.metrics, model, len(self.specs), self.arrival_s)

    def _put_inline(self, index: int, delta: OutputDelta) -> None:
        inline = self._inline[index]
        if inline is not None:
            inline.move(delta)

    async def collect(self) -> tuple[str, list[GenerationResult]]:
        """Return the key of the model that answered, and the result of each choice."""
        collectors = [ResultCollector() for _ in self.specs]
        results: list[GenerationResult | None] = [None] * len(self.specs)
        stream = await self.context.generation.stream(self.model, self.specs, self.load)
        async with stream:
            tracker = self.tracker(stream.model)
            async for index, delta in stream:
                tracker.add(index, delta)
                self._put_inline(index, delta)
                results[index] = collectors[index].add(delta) or results[index]
        return stream.model, [result for result in results if result is not None]

    async def events(
        self, kind: str, chunks: type[ChatChunks | CompletionChunks]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream, without its end mark."""
        stream = await self.context.generation.stream(self.model, self.specs, self.load)
        async with stream:
            head = StreamHead(
                self.request_id,
                kind,
                self.created_s,
                stream.model,
                fingerprint=FINGERPRINT,
                include_usage=self.include_usage,
            )
            choices = [chunks(head, index) for index in range(len(self.specs))]
            tracker = self.tracker(stream.model)
            ends = [Ending(None, None, Usage())] * len(choices)
            async for index, delta in stream:
                tracker.add(index, delta)
                self._put_inline(index, delta)
                if delta.finish_reason is not None:
                    usage = delta.usage or Usage()
                    ends[index] = Ending(delta.finish_reason, delta.stop_string, usage)
                events = choices[index].add(delta)
                if events:
                    yield events
            if self.include_usage or self._surface.has_last_chunk:
                extras = await self._surface.extras(self.context, stream.model, ends)
                yield head.last(add_usage(tracker.usages, self.num_choices), extras)

    async def reply(
        self, answer: Answer, model: str, results: Sequence[GenerationResult]
    ) -> Response:
        """Return the whole answer, with what the surface adds."""
        ends = [Ending(one.finish_reason, one.stop_string, one.usage) for one in results]
        extras = await self._surface.extras(self.context, model, ends)
        return JSONResponse(answer.model_dump(mode="json") | extras)


async def chat_completions(request: Request) -> Response:
    """Answer a conversation."""
    return await answer_chat(request, _OPENAI)


async def completions(request: Request) -> Response:
    """Continue one or more prompts, without a chat template."""
    return await answer_completion(request, _OPENAI)


async def answer_chat(request: Request, surface: Surface) -> Response:
    """Answer a conversation for any surface with OpenAI's form."""
    context = context_of(request)
    body = parse_body(await request.body(), ChatRequest)
    request_id = new_id("chatcmpl")
    specs = chat_specs(body, request_id, context.settings.context_overflow)
    messages = await fetched(context, request, specs[0].messages or [])
    for spec in specs:
        spec.messages = messages
    call = _Call(context, body, request_id, specs, surface)
    if body.stream:
        return _stream(call, "chat.completion.chunk", ChatChunks)
    model, results = await context.in_flight.run(call.collect(), request.receive)
    choices = [
        ChatChoice(
            index=index,
            message=assistant_message(result),
            logprobs=None if result.logprobs is None else chat_logprobs(result.logprobs),
            finish_reason=finish_word(result.finish_reason),
        )
        for index, result in enumerate(results)
    ]
    answer = ChatCompletion(
        id=request_id,
        created=call.created_s,
        model=model,
        system_fingerprint=FINGERPRINT,
        choices=choices,
        usage=add_usage([result.usage for result in results], call.num_choices),
    )
    return await call.reply(answer, model, results)


async def answer_completion(request: Request, surface: Surface) -> Response:
    """Continue prompts for any surface with OpenAI's form."""
    context = context_of(request)
    body = parse_body(await request.body(), CompletionRequest)
    request_id = new_id("cmpl")
    specs = completion_specs(body, request_id, context.settings.context_overflow)
    call = _Call(context, body, request_id, specs, surface)
    if body.stream:
        return _stream(call, "text_completion", CompletionChunks)
    model, results = await context.in_flight.run(call.collect(), request.receive)
    choices = [
        CompletionChoice(
            index=index,
            text=result.text,
            logprobs=None if result.logprobs is None else completion_logprobs(result.logprobs)[0],
            finish_reason=finish_word(result.finish_reason),
        )
        for index, result in enumerate(results)
    ]
    answer = Completion(
        id=request_id,
        created=call.created_s,
        model=model,
        system_fingerprint=FINGERPRINT,
        choices=choices,
        usage=add_usage([result.usage for result in results], call.num_choices),
    )
    return await call.reply(answer, model, results)


async def list_models(request: Request) -> Response:
    """List the models this server answers with: the loaded ones, and those of the store if it loads on request."""
    return _json(ModelList(data=await _entries(context_of(request).manager)))


async def get_model(request: Request) -> Response:
    """Describe one model."""
    manager = context_of(request).manager
    name = request.path_params["model"]
    if not name:  # a client that adds a slash wants the list
        return await list_models(request)
    key = await manager.resolve(name)
    entries = {entry.id: entry for entry in await _entries(manager)}
    return _json(entries.get(key) or ModelEntry(id=key, created=0, owned_by="slipstream"))


async def _entries(manager: ModelManager) -> list[ModelEntry]:
    jit = manager.settings.jit
    loaded = [one for one in manager.list() if jit or one.state is ModelState.LOADED]
    entries = [
        ModelEntry(id=one.key, created=one.created_s, owned_by="slipstream") for one in loaded
    ]
    if jit:
        paths = {one.path for one in loaded}
        entries += [
            ModelEntry(id=model.key, created=model.modified_s, owned_by=model.publisher)
            for model in await manager.models()
            if model.path not in paths
        ]
    return entries


def _stream(call: _Call, kind: str, chunks: type[ChatChunks | CompletionChunks]) -> SseResponse:
    context = call.context
    return SseResponse(call.events(kind, chunks), context.in_flight, context.settings.keep_alive_s)


def _json(answer: Answer) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")
