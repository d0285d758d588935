"""A real server over a scripted generation: python fake_server.py PORT [--loading]. Prints the URL once it answers.

The last message of a request says what is played: "forever" never ends, "silent" never starts, "many" plays
max_tokens words at once, anything else the usual three words.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from typing import TYPE_CHECKING

import msgspec

from slipstream.base import log
from slipstream.base.types import FinishReason, GenerationSpec, OutputDelta, Usage
from slipstream.runtime.settings import ServerSettings
from slipstream.server import serve
from tests.support.fake_generation import FakeGeneration, FakeManager, FakeStream, Step

if TYPE_CHECKING:
    from slipstream.runtime.load_options import LoadOptions

TOKEN_S = 0.002
HOST = "localhost"  # a name, which Granian would not take


class EndlessStream(FakeStream):
    """Repeats the last step of its script for ever."""

    async def __anext__(self) -> tuple[int, OutputDelta]:
        await asyncio.sleep(TOKEN_S)
        return 0, self._steps[0][1]


async def load_for_ever() -> None:
    print("loading", flush=True)
    await never()


async def never() -> None:
    await asyncio.Event().wait()


class PlayingGeneration(FakeGeneration):
    """Reads what to play from the request."""

    async def stream(
        self, model: str | None, specs: list[GenerationSpec], load: LoadOptions | None = None
    ) -> FakeStream:
        word = (specs[0].messages or [{"content": specs[0].prompt}])[-1]["content"]
        if word == "silent":
            self.script = lambda spec: [never]
        if word == "forever":
            delta = OutputDelta(specs[0].request_id, text="tick ")
            return EndlessStream(await self.models.resolve(model), [[delta]], self._on_close)
        if word == "many":
            self.script = many
        return await super().stream(model, specs, load)

    def _on_close(self) -> None:
        super()._on_close()
        status = self.models.statuses[0]  # the count of closed streams is read from /health
        self.models.statuses[0] = msgspec.structs.replace(status, num_deaths=self.num_closed)


def many(spec: GenerationSpec) -> list[Step]:
    """As many deltas as the request's max_tokens."""
    num_tokens = spec.sampling.max_tokens or 0
    steps: list[Step] = [OutputDelta(spec.request_id, text="word ") for _ in range(num_tokens)]
    usage = Usage(num_prompt_tokens=1, num_output_tokens=num_tokens)
    return [*steps, OutputDelta(spec.request_id, finish_reason=FinishReason.LENGTH, usage=usage)]


class TellingManager(FakeManager):
    """Says when it has been closed, which is the last thing a server does."""

    async def close(self) -> None:
        if not self.num_closes:
            print("stopped", flush=True)
        await super().close()


def main() -> None:
    log.configure("info")
    serve.Generation = PlayingGeneration
    settings = ServerSettings(host=HOST, port=int(sys.argv[1]), keep_alive_s=0.05)
    serve.run(
        TellingManager(),
        settings,
        before=load_for_ever if "--loading" in sys.argv else None,
        on_ready=lambda url: print(url, flush=True),
    )


if __name__ == "__main__":
    main()
