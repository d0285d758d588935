"""What the routes call: a spec in, deltas or a whole answer out. Knows no HTTP and no model internals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import MAX_SEED
from slipstream.base.types import RequestFailed
from slipstream.runtime.load_options import NO_OPTIONS, LoadOptions
from slipstream.runtime.results import GenerationResult, ResultCollector, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.base.types import GenerationSpec, OutputDelta
    from slipstream.engine.event_stream import EventStream
    from slipstream.runtime.model_manager import ModelManager


def fan_out(spec: GenerationSpec, n: int) -> list[GenerationSpec]:
    """Make `n` requests of one prompt: request ids get -0, -1 … and a given seed counts up.

    Args:
        spec: Taken as it is when `n` is 1.
        n: How many answers, at least 1.

    Raises:
        InvalidRequestError: `n` is below 1.
    """
    if n < 1:
        message = f"n is {n}; it must be at least 1"
        raise InvalidRequestError(message, param="n")
    if n == 1:
        return [spec]
    copies = []
    for i in range(n):
        sampling = spec.sampling
        if sampling.seed is not None:
            seed = (sampling.seed + i) & MAX_SEED
            sampling = msgspec.structs.replace(sampling, seed=seed)
        # The engine reads the prompt once per request; only the first one echoes what it is told to.
        request_id = f"{spec.request_id}-{i}"
        copy = msgspec.structs.replace(spec, request_id=request_id, sampling=sampling, choice=i)
        copies.append(copy)
    return copies


class OutputStream:
    """Deltas of one or more requests, as (index of the spec, delta), in the order they come.

    An async iterator and an async context manager. Iteration ends after the last delta of the last request
    and raises the typed error (base.errors) if any of them fails, which aborts the others. Closing it early, or
    cancelling the task that waits in it, aborts what still runs.

    Attributes:
        model: Key of the model that answers.
    """

    def __init__(self, model: str, events: EventStream, index_of: dict[str, int]) -> None:
        self.model = model
        self._events = events
        self._index_of = index_of
        self._first: tuple[int, OutputDelta] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, OutputDelta]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        event = await self._events.__anext__()
        if isinstance(event, RequestFailed):
            self.close()
            raise error_of(event)
        return self._index_of[event.request_id], event

    async def wait_first(self) -> None:
        """Wait for the first delta without taking it.

        Raises:
            SlipstreamError: the first event was a failure.
        """
        if self._first is None:
            self._first = await self.__anext__()

    def close(self) -> None:
        """Abort what still runs. Idempotent, never blocks."""
        self._events.close()

    async def aclose(self) -> None:
        """Do what `close` does, for `async with` and contextlib.aclosing."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Generation:
    """Sends requests to the model they name. Everything here runs on the event loop.

    Args:
        models: Who loads models and knows their engines.
    """

    def __init__(self, models: ModelManager) -> None:
        self.models = models

    async def stream(
        self,
        model: str | None,
        specs: GenerationSpec | Sequence[GenerationSpec],
        load: LoadOptions = NO_OPTIONS,
    ) -> OutputStream:
        """Start one or more requests on one model and wait for the first delta of any of them.

        So a request that cannot be done raises here, before a route has sent its status line. Loads the model if
        needed; a route that wants to send keep-alive comments meanwhile runs this in a task.

        Args:
            model: Name as a client gives it; see ModelManager.resolve.
            specs: One spec, or several with distinct request ids (`fan_out`, or a list of prompts).
            load: For the load, if one is needed; see ModelManager.client.

        Raises:
            ModelNotFoundError: no served model of that name.
            ModelLoadError: the model could not be loaded; the next request tries again.
            SlipstreamError: whatever the first failing request tells (InvalidRequestError, QueueFullError …).
        """
        listed = [specs] if isinstance(specs, msgspec.Struct) else list(specs)
        if not listed:
            message = "no prompt was given"
            raise InvalidRequestError(message, param="prompt")
        key = await self.models.resolve(model)
        client = await self.models.client(key, load)
        index_of = {spec.request_id: i for i, spec in enumerate(listed)}
        stream = OutputStream(key, client.submit(listed), index_of)
        try:
            await stream.wait_first()
        except BaseException:
            stream.close()
            raise
        return stream

    async def ask(
        self, model: str | None, query: Query, load: LoadOptions = NO_OPTIONS
    ) -> tuple[str, QueryAnswer]:
        """Have a model answer a question about text, loading it first if needed.

        Returns:
            The key of the model, and the answer, of the type the question names.

        Raises:
            SlipstreamError: as `stream`.
        """
        key = await self.models.resolve(model)
        client = await self.models.client(key, load)
        return key, await client.ask(query)

    async def collect(self, model: str | None, spec: GenerationSpec) -> GenerationResult:
        """Run one request to its end. Cancelling the calling task aborts it.

        Raises:
            SlipstreamError: as `stream`, at any time before the end.
        """
        return (await self.collect_many(model, [spec]))[0]

    async def collect_many(
        self, model: str | None, specs: Sequence[GenerationSpec]
    ) -> list[GenerationResult]:
        """Run several requests side by side; the results are in the order of the specs.

        Raises:
            SlipstreamError: the first one that fails; the others are aborted then.
        """
        collectors = [ResultCollector() for _ in specs]
        results: list[GenerationResult | None] = [None] * len(collectors)
        async with await self.stream(model, specs) as stream:
            async for index, delta in stream:
                results[index] = collectors[index].add(delta) or results[index]
        return [result for result in results if result is not None]
