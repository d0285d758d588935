"""Stand-ins for runtime.Generation and runtime.ModelManager: scripted deltas, no engine, no processes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.base.errors import InvalidRequestError, ModelNotFoundError, SlipstreamError
from slipstream.base.queries import (
    Count,
    Detokenize,
    Embed,
    Query,
    QueryAnswer,
    Rerank,
    Scores,
    Text,
    Tokenize,
    Tokens,
    Vectors,
)
from slipstream.base.types import (
    FinishReason,
    GenerationSpec,
    ModelInstanceInfo,
    OutputDelta,
    TokenLogprob,
    Usage,
)
from slipstream.runtime.load_options import LoadOptions
from slipstream.runtime.model_manager import ModelState, ModelStatus
from slipstream.runtime.settings import ServerSettings

if TYPE_CHECKING:
    from slipstream.models.model_info import ModelInfo

MODEL = "tiny"
WORDS = ("Hello", " wörld", "!")

# A step of a script: a delta, an error to raise, or something to wait for.
Step = OutputDelta | SlipstreamError | Callable[[], Awaitable[Any]]


def words_script(spec: GenerationSpec) -> list[Step]:
    """The three WORDS, one delta each, with log-probabilities where asked for."""
    num_logprobs = spec.sampling.logprobs
    steps: list[Step] = []
    if spec.echo_prompt:
        steps.append(OutputDelta(spec.request_id, text=spec.prompt or ""))
    for token_id, word in enumerate(WORDS):
        logprobs = None
        if num_logprobs is not None:
            names = [word, *(f"alt{i}" for i in range(1, num_logprobs))][:num_logprobs]
            top = [(token_id + i, name.encode(), -0.5 - i) for i, name in enumerate(names)]
            logprobs = [TokenLogprob(token_id, word.encode(), -0.5, top)]
        steps.append(
            OutputDelta(spec.request_id, text=word, token_ids=[token_id], logprobs=logprobs)
        )
    usage = Usage(num_prompt_tokens=7, num_cached_tokens=4, num_output_tokens=len(WORDS) + 1)
    steps.append(OutputDelta(spec.request_id, finish_reason=FinishReason.STOP, usage=usage))
    return steps


class FakeStream:
    """Plays the scripts of several requests, one step of each in turn."""

    def __init__(self, model: str, scripts: list[list[Step]], on_close: Callable[[], None]) -> None:
        self.model = model
        self._steps = [
            (index, script[place])
            for place in range(max(len(script) for script in scripts))
            for index, script in enumerate(scripts)
            if place < len(script)
        ]
        self._place = 0
        self._on_close = on_close

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> tuple[int, OutputDelta]:
        while self._place < len(self._steps):
            index, step = self._steps[self._place]
            if isinstance(step, SlipstreamError):
                raise step
            if isinstance(step, OutputDelta):
                self._place += 1
                return index, step
            await step()
            self._place += 1
        raise StopAsyncIteration

    def close(self) -> None:
        self._on_close()

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> FakeStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class FakeManager:
    """Serves one model, or the given statuses."""

    def __init__(self) -> None:
        info = ModelInstanceInfo(path="/models/tiny.gguf", context_length=512, pid=4711)
        self.statuses = [
            ModelStatus(
                key=MODEL,
                path="/models/tiny.gguf",
                created_s=1_700_000_000,
                state=ModelState.LOADED,
                progress=1.0,
                info=info,
                num_loads=1,
            )
        ]
        self.engine_stats: dict[str, Any] = {}
        self.num_closes = 0
        self.load: Callable[[], Awaitable[Any]] | None = None
        self.settings = ServerSettings()
        self.options: list[LoadOptions] = []
        self.key = MODEL

    def list(self) -> Sequence[ModelStatus]:
        return self.statuses

    async def models(self) -> Sequence[ModelInfo]:
        return []

    async def resolve(self, name: str | None) -> str:
        if not name or name == self.key:
            return self.key
        raise ModelNotFoundError(f"no model {name!r}; there is: {MODEL}", param="model")

    def unload(self) -> None:
        """Make the model one that has to be loaded first."""
        status = self.statuses[0]
        self.loaded_info = status.info
        self.statuses[0] = msgspec.structs.replace(
            status, state=ModelState.NOT_LOADED, info=None, progress=0.0
        )

    async def client(self, name: str | None, options: LoadOptions) -> None:
        """Load the model: play `load`, then have it."""
        self.options.append(options)
        info, wanted = self.statuses[0].info, options.config.get("context_length", 0)
        if info is not None and info.context_length < wanted:
            raise InvalidRequestError("loaded with less", param="context_length")
        if self.load is not None:
            await self.load()
        self.statuses[0] = msgspec.structs.replace(
            self.statuses[0], state=ModelState.LOADED, info=self.loaded_info, progress=1.0
        )

    async def stats(self) -> dict[str, Any]:
        return self.engine_stats

    async def close(self) -> None:
        self.num_closes += 1


class FakeGeneration:
    """Answers every request from a script."""

    def __init__(self, manager: FakeManager | None = None) -> None:
        self.models = manager or FakeManager()
        self.script: Callable[[GenerationSpec], list[Step]] = words_script
        self.before: Callable[[], Awaitable[Any]] | None = None
        self.specs: list[GenerationSpec] = []
        self.queries: list[Query] = []
        self.num_closed = 0
        self.closed = asyncio.Event()

    async def stream(
        self,
        model: str | None,
        specs: GenerationSpec | Sequence[GenerationSpec],
        load: LoadOptions | None = None,
    ) -> FakeStream:
        self.models.options.append(load or LoadOptions())
        listed = [specs] if isinstance(specs, msgspec.Struct) else list(specs)
        key = await self.models.resolve(model)
        if self.before is not None:
            await self.before()
        self.specs += listed
        scripts = [self.script(spec) for spec in listed]
        for script in scripts:
            if isinstance(script[0], SlipstreamError):
                raise script[0]
        return FakeStream(key, scripts, self._on_close)

    async def ask(
        self, model: str | None, query: Query, load: LoadOptions | None = None
    ) -> tuple[str, QueryAnswer]:
        """Answer a question about text: a token for each part, a character for each token."""
        key = await self.models.resolve(model)
        self.queries.append(query)
        if isinstance(query, Tokenize):
            pieces = [part.encode() if isinstance(part, str) else b"\xc3" for part in query.parts]
            return key, Tokens(token_ids=list(range(len(pieces))), pieces=pieces)
        if isinstance(query, Detokenize):
            return key, Text(text="x" * len(query.token_ids))
        if isinstance(query, Embed):
            row = struct.pack("<2f", 0.6, 0.8)[: 4 * (query.num_dims or 2)]
            num = len(query.inputs)
            return key, Vectors(data=row * num, num_dims=len(row) // 4, num_tokens=3 * num)
        if isinstance(query, Rerank):
            scores = [float(len(document)) for document in query.documents]
            return key, Scores(scores=scores, num_tokens=3 * len(scores))
        return key, Count(num_tokens=len(query.spec.messages))

    def _on_close(self) -> None:
        self.num_closed += 1
        self.closed.set()
