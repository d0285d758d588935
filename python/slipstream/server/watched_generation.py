"""A Generation that tells the log's watchers what models are asked and answer. Costs nothing while there are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream.runtime.generation import Generation, OutputStream
from slipstream.runtime.load_options import NO_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.queries import Query, QueryAnswer
    from slipstream.base.types import GenerationSpec, OutputDelta
    from slipstream.runtime.load_options import LoadOptions
    from slipstream.server.log_hub import LogHub


class WatchedGeneration(Generation):
    """Passes everything through to another one.

    Args:
        inner: Answers; also an attribute.
        hub: Where it is told.
    """

    def __init__(self, inner: Generation, hub: LogHub) -> None:
        super().__init__(inner.models)
        self.inner = inner
        self._hub = hub

    async def stream(
        self,
        model: str | None,
        specs: GenerationSpec | Sequence[GenerationSpec],
        load: LoadOptions = NO_OPTIONS,
    ) -> OutputStream:
        """Do as the inner one, and tell of the requests once they run."""
        stream = await self.inner.stream(model, specs, load)
        if not (self._hub.is_watched("input") or self._hub.is_watched("output")):
            return stream
        listed = [specs] if isinstance(specs, msgspec.Struct) else list(specs)
        if self._hub.is_watched("input"):
            for spec in listed:
                given = _given(spec)
                self._hub.asked(stream.model, spec.request_id, given, len(json.dumps(given)))
        return _WatchedStream(stream, listed, self._hub)

    async def ask(
        self, model: str | None, query: Query, load: LoadOptions = NO_OPTIONS
    ) -> tuple[str, QueryAnswer]:
        """Do as the inner one."""
        return await self.inner.ask(model, query, load)


class _WatchedStream(OutputStream):
    """Gathers the text of each answer and tells it when it has ended, by itself or not."""

    def __init__(self, inner: OutputStream, specs: list[GenerationSpec], hub: LogHub) -> None:
        self.model = inner.model
        self._inner = inner
        self._specs = specs
        self._hub = hub
        self._texts: list[list[str] | None] = [[] for _ in specs]

    async def __anext__(self) -> tuple[int, OutputDelta]:
        index, delta = await self._inner.__anext__()
        texts = self._texts[index]
        if texts is not None:
            texts += [delta.reasoning, delta.text]
            texts += [call.name + call.arguments for call in delta.tool_calls]
            if delta.finish_reason is not None:
                stats = msgspec.structs.asdict(delta.usage) if delta.usage is not None else {}
                self._tell(index, delta.finish_reason.value, stats)
        return index, delta

    def close(self) -> None:
        """Abort what still runs."""
        self._inner.close()
        for index, texts in enumerate(self._texts):
            if texts is not None:
                self._tell(index, "aborted", {})

    def _tell(self, index: int, reason: str, stats: dict[str, Any]) -> None:
        texts, self._texts[index] = self._texts[index] or [], None
        request_id = self._specs[index].request_id
        self._hub.answered(self.model, request_id, "".join(texts), reason, stats)


def _given(spec: GenerationSpec) -> dict[str, Any]:
    """Return what the prompt is made of."""
    names = ("messages", "tools", "prompt", "prompt_token_ids")
    given = {name: getattr(spec, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}
