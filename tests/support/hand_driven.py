"""A scheduler on a real runner, step by step, and how to compare what it says."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import OutputDelta
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.engine.request import Request, check_request
from slipstream.engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slipstream.base.types import TokenLogprob, Usage
    from slipstream.engine.prefix_store import PrefixStore

# Two best tokens closer than this may change places: kernels add up in another order for another number of rows.
# Between the runs compared here that makes up to 5e-6 (AVX-512); one wrong token in the prompt makes 2e-3 and more.
TIE = 5e-4
CONFIG = LoadConfig(context_length=1024, parallel=4, threads=1, batch_size=64)


class HandDrivenEngine:
    """A scheduler on a real runner, driven by hand."""

    def __init__(
        self, path: Path, config: LoadConfig = CONFIG, store: PrefixStore | None = None
    ) -> None:
        self.runner = LlamaRunner.load(str(path), config)
        self.scheduler = Scheduler(self.runner, max_num_running=config.parallel, store=store)
        self.logprobs: dict[str, list[TokenLogprob]] = {}
        self.usage: dict[str, Usage] = {}
        self.num_copies = 0
        copy_prefix = self.runner.copy_prefix

        def count(source: int, seq_id: int, num_tokens: int) -> bool:
            self.num_copies += 1
            return copy_prefix(source, seq_id, num_tokens)

        self.runner.copy_prefix = count  # type: ignore[method-assign]

    def add(self, name: str, prompt: Sequence[int], num_tokens: int = 12) -> None:
        sampling = SamplingParams(
            temperature=0.0, max_tokens=num_tokens, ignore_eos=True, logprobs=2, seed=1
        )
        request = Request(name, list(prompt), sampling)
        check_request(request, self.runner.info)
        self.scheduler.add(request, time.monotonic())

    def step(self) -> None:
        output = self.scheduler.schedule(time.monotonic())
        result = self.runner.step(output.scheduled)
        self.scheduler.update_from_output(output, result, time.monotonic())
        self.scheduler.check_integrity()
        for event in self.scheduler.take_events()[0]:
            assert isinstance(event, OutputDelta)
            self.logprobs.setdefault(event.request_id, []).extend(event.logprobs or [])
            if event.usage is not None:
                self.usage[event.request_id] = event.usage

    def run(self) -> None:
        while self.scheduler.has_requests:
            self.step()

    def tokens(self, name: str) -> list[int]:
        return [entry.token_id for entry in self.logprobs[name]]

    def cold(self, prompt: Sequence[int], num_tokens: int = 12) -> list[TokenLogprob]:
        self.scheduler.kv_cache.reset()
        self.add("cold", prompt, num_tokens)
        self.run()
        assert self.usage["cold"].num_cached_tokens == 0
        return self.logprobs.pop("cold")


def assert_same(entries: list[TokenLogprob], cold: list[TokenLogprob], tie: float = TIE) -> None:
    """Compare up to the first tie that fell the other way."""
    assert len(entries) == len(cold)
    for entry, expected in zip(entries, cold, strict=True):
        if entry.token_id != expected.token_id:
            assert expected.top[0][2] - expected.top[1][2] < tie
            return
        assert entry.logprob == pytest.approx(expected.logprob, abs=tie)
