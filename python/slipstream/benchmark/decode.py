"""Prompt and generation speed of one sequence on the low-level API, measured the way llama-bench does.

`pp512` feeds 512 random tokens in batches, `tg128` feeds 128 random tokens one by one; both start from an empty KV
cache, or one that holds `depth` tokens. No sampling, no server: the floor everything else is compared with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import MAX_THREADS
from slipstream.base.ranges import check_ranges
from slipstream.benchmark.stats import Summary, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from slipstream.native import Model

SEED = 1234  # the same tokens in every run, so that runs can be compared
MAX_TOKENS = 1 << 20
MAX_REPETITIONS = 1000


class DecodeContext(Protocol):
    """The part of native.Context that is measured."""

    def decode(self, tokens: NDArray[np.int32]) -> None:
        """Compute a batch of sequence 0, after what it already holds."""

    def memory_clear(self) -> None:
        """Empty the KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """What is measured.

    Attributes:
        num_prompt: Tokens of the prompt test; 0 leaves it out.
        num_generate: Tokens of the generation test; 0 leaves it out.
        repetitions: Of each test, after one warm-up that is not counted.
        depth: Tokens in the KV cache before a test starts.
        batch_size: Most tokens in one decode of the prompt test.
        threads: CPU threads; 0 takes the physical cores.

    Raises:
        InvalidRequestError: a value is out of its range; `param` names it.
    """

    num_prompt: int = 512
    num_generate: int = 128
    repetitions: int = 5
    depth: int = 0
    batch_size: int = 512
    threads: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "num_prompt": (0, MAX_TOKENS),
            "num_generate": (0, MAX_TOKENS),
            "repetitions": (1, MAX_REPETITIONS),
            "depth": (0, MAX_TOKENS),
            "batch_size": (1, MAX_TOKENS),
            "threads": (0, MAX_THREADS),
        }
        check_ranges(self, ranges)
        if not self.num_prompt and not self.num_generate:
            message = "num_prompt and num_generate are both 0; there is nothing to measure"
            raise InvalidRequestError(message, param="num_prompt")

    @property
    def num_kv_cells(self) -> int:
        """Tokens the KV cache has to hold."""
        return self.depth + max(self.num_prompt, self.num_generate)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """One test.

    Attributes:
        test: pp or tg with the number of tokens, and the depth where there is one: `pp512`, `tg128 @ d1024`.
        num_tokens: Tokens of one repetition.
        samples: Tokens per second of each repetition.
    """

    test: str
    num_tokens: int
    samples: tuple[float, ...]

    @property
    def tokens_per_s(self) -> Summary:
        """Tokens per second over the repetitions."""
        return summarize(self.samples)


def bench_model(
    model: Model,
    settings: DecodeSettings,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[DecodeResult], int]:
    """Measure a loaded model in a context of its own.

    Args:
        model: Loaded with its weights.
        settings: What to measure.
        progress: See `measure`.

    Returns:
        The results and the number of threads that computed them.

    Raises:
        InvalidRequestError: the model generates no text.
        ContextCreateError: the machine cannot hold a context of that size.
    """
    from slipstream.native import Context

    if not model.has_decoder:
        message = f"{model.description} generates no text; only models that do can be measured"
        raise InvalidRequestError(message, param="model")
    context = Context(
        model,
        n_ctx=settings.num_kv_cells,
        n_batch=settings.batch_size,
        n_threads=settings.threads,
    )
    try:
        return measure(context, model.n_vocab, settings, progress), context.n_threads
    finally:
        context.close()


def measure(
    context: DecodeContext,
    num_vocab: int,
    settings: DecodeSettings,
    progress: Callable[[str, int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[DecodeResult]:
    """Run the tests on a context.

    Args:
        context: Its KV cache holds at least `settings.num_kv_cells` tokens.
        num_vocab: Token ids are below this.
        settings: What to measure.
        progress: Called before each run with the test's name, runs done and runs in all, warm-ups included.
        clock: Seconds.
    """
    suffix = f" @ d{settings.depth}" if settings.depth else ""
    tests = [
        (f"{kind}{num_tokens}{suffix}", num_tokens, batch_size)
        for kind, num_tokens, batch_size in (
            ("pp", settings.num_prompt, settings.batch_size),
            ("tg", settings.num_generate, 1),
        )
        if num_tokens
    ]
    runs_per_test = settings.repetitions + 1
    results = []
    for i, (test, num_tokens, batch_size) in enumerate(tests):
        samples = []
        for run in range(runs_per_test):
            if progress is not None:
                progress(test, i * runs_per_test + run, len(tests) * runs_per_test)
            elapsed_s = _run(context, num_vocab, settings, num_tokens, batch_size, clock)
            if run > 0:
                samples.append(num_tokens / elapsed_s)
        results.append(DecodeResult(test=test, num_tokens=num_tokens, samples=tuple(samples)))
    return results


def _run(
    context: DecodeContext,
    num_vocab: int,
    settings: DecodeSettings,
    num_tokens: int,
    batch_size: int,
    clock: Callable[[], float],
) -> float:
    """Return the seconds one repetition took."""
    context.memory_clear()
    for batch in _batches(settings.depth, settings.batch_size, num_vocab):
        context.decode(batch)
    batches = _batches(num_tokens, batch_size, num_vocab)
    started = clock()
    for batch in batches:
        context.decode(batch)
    return clock() - started


def _batches(num_tokens: int, batch_size: int, num_vocab: int) -> list[NDArray[np.int32]]:
    import numpy as np

    tokens = np.random.default_rng(SEED).integers(0, num_vocab, num_tokens, dtype=np.int32)
    return [tokens[i : i + batch_size] for i in range(0, num_tokens, batch_size)]
