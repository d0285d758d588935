"""T(n): what one step of n tokens costs at a depth of the KV cache, and how far memory bandwidth would let it go."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import MAX_THREADS
from slipstream.base.ranges import check_ranges
from slipstream.benchmark.stats import Summary, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from slipstream.engine.step_cost import KnownCosts
    from slipstream.native import Model

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512)
MAX_OUTPUTS = 32  # up to so many tokens, each gives logits, as drafts and sequences do; of a chunk the last does
MAX_DEPTH = 1 << 20
MAX_REPETITIONS = 1000
_SEED = 1234
_BANDWIDTH_BYTES = 256 << 20  # far more than any cache holds
_BANDWIDTH_RUNS = 5


class StepContext(Protocol):
    """The part of native.Context that is measured."""

    def decode(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32] | None = None,
        seq_ids: NDArray[np.int32] | None = None,
        outputs: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compute a batch of sequence 0, after what it already holds."""

    def seq_rm(self, seq_id: int, p0: int = -1, p1: int = -1) -> bool:
        """Remove positions; False if this memory cannot."""

    def memory_clear(self) -> None:
        """Empty the KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """What is measured.

    Attributes:
        depth: Tokens in the KV cache before each step.
        repetitions: Of each size, after one warm-up that is not counted.
        threads: CPU threads; 0 takes the physical cores.

    Raises:
        InvalidRequestError: a value is out of its range; `param` names it.
    """

    depth: int = 0
    repetitions: int = 5
    threads: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "depth": (0, MAX_DEPTH),
            "repetitions": (1, MAX_REPETITIONS),
            "threads": (0, MAX_THREADS),
        }
        check_ranges(self, ranges)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One size.

    Attributes:
        num_tokens: Tokens of the step.
        depth: Tokens in the KV cache before it.
        samples: Seconds of each repetition.
        roofline_s: What reading the weights once takes at the measured bandwidth; no step is faster.
    """

    num_tokens: int
    depth: int
    samples: tuple[float, ...]
    roofline_s: float

    @property
    def seconds(self) -> Summary:
        """Seconds over the repetitions."""
        return summarize(self.samples)

    @property
    def tokens_per_s(self) -> float:
        """By the median step."""
        return self.num_tokens / self.seconds.median

    @property
    def roofline_tokens_per_s(self) -> float:
        """What the bandwidth would allow."""
        return self.num_tokens / self.roofline_s

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "num_tokens": self.num_tokens,
            "depth": self.depth,
            "seconds": asdict(self.seconds),
            "tokens_per_s": self.tokens_per_s,
            "roofline_s": self.roofline_s,
            "roofline_tokens_per_s": self.roofline_tokens_per_s,
            "samples": list(self.samples),
        }


def bench_steps(
    model: Model,
    settings: StepSettings,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[StepResult], float, int]:
    """Measure a loaded model in a context of its own, at depth 0 and at the one asked for.

    Args:
        model: Loaded with its weights.
        settings: What to measure.
        progress: Called before each size with a name, sizes done and sizes in all.

    Returns:
        The results, the memory bandwidth in bytes per second, and the number of threads that computed them.

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
        n_ctx=settings.depth + SIZES[-1],
        n_batch=SIZES[-1],
        n_outputs_max=MAX_OUTPUTS,
        n_threads=settings.threads,
    )
    try:
        threads = context.n_threads
        bandwidth = read_bandwidth(threads)
        roofline_s = model.size_bytes / bandwidth
        results = measure(context, model.n_vocab, settings, roofline_s, progress)
    finally:
        context.close()
    return results, bandwidth, threads


def measure(
    context: StepContext,
    num_vocab: int,
    settings: StepSettings,
    roofline_s: float,
    progress: Callable[[str, int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[StepResult]:
    """Time every size at every depth.

    Args:
        context: Holds `settings.depth` and the largest size together.
        num_vocab: Token ids are below this.
        settings: What to measure.
        roofline_s: See StepResult.
        progress: See `bench_steps`.
        clock: Seconds.
    """
    import numpy as np

    depths = sorted({0, settings.depth})
    tokens = np.random.default_rng(_SEED).integers(
        0, num_vocab, settings.depth + SIZES[-1], dtype=np.int32
    )
    results = []
    for i, depth in enumerate(depths):
        _fill(context, tokens[:depth])
        for j, num_tokens in enumerate(SIZES):
            if progress is not None:
                progress(f"{num_tokens} @ d{depth}", i * len(SIZES) + j, len(depths) * len(SIZES))
            outputs = np.zeros(num_tokens, dtype=np.bool_)
            outputs[-1 if num_tokens > MAX_OUTPUTS else 0 :] = True
            samples = []
            for _ in range(settings.repetitions + 1):
                begin_s = clock()
                context.decode(tokens[depth : depth + num_tokens], None, None, outputs)
                samples.append(clock() - begin_s)
                if not depth or not context.seq_rm(0, depth, -1):
                    _fill(context, tokens[:depth])
            results.append(
                StepResult(
                    num_tokens=num_tokens,
                    depth=depth,
                    samples=tuple(samples[1:]),
                    roofline_s=roofline_s,
                )
            )
    return results


def read_bandwidth(num_threads: int, num_bytes: int = _BANDWIDTH_BYTES) -> float:
    """Return the bytes per second that so many threads read from memory, the best of a few runs."""
    import numpy as np

    parts = [np.ones(num_bytes // num_threads // 8) for _ in range(num_threads)]
    with ThreadPoolExecutor(num_threads) as pool:
        best_s = min(_read_all(pool, parts) for _ in range(_BANDWIDTH_RUNS))
    return sum(part.nbytes for part in parts) / best_s


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """T(n) as the next load of the engine begins with it, from what earlier loads measured and learnt.

    Attributes:
        known: What they left.
        seconds: By n, for each of SIZES.
    """

    known: KnownCosts
    seconds: dict[int, float]

    @property
    def description(self) -> str:
        """Where they come from, in a line."""
        known = self.known
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(known.written_s))
        sizes = ", ".join(str(num_tokens) for num_tokens, _ in known.costs)
        num_cells, _num_batch, _num_seqs, parallel = known.key["context"]
        return (
            f"begins with steps of {sizes} tokens, kept {written} by a load with context {num_cells} and {parallel} "
            "requests at a time"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        key = self.known.key
        return {
            "written_s": self.known.written_s,
            "settings": {name: key[name] for name in key if name not in ("model", "build")},
            "kept": [{"num_tokens": n, "seconds": seconds} for n, seconds in self.known.costs],
            "seconds": {str(n): seconds for n, seconds in self.seconds.items()},
        }


def engine_costs(model: Model, threads: int, *, repack: bool) -> EngineCosts | None:
    """Return what the engine knows of a model, of the latest load of any settings; None before the first one.

    Args:
        model: Loaded with its weights.
        threads: That computed.
        repack: Whether weights were re-arranged.
    """
    from slipstream.engine.cost_model import CostModel
    from slipstream.engine.step_cost import latest_costs
    from slipstream.native import build_info

    known = latest_costs(
        {"model": model.fingerprint, "build": build_info(), "threads": threads, "repack": repack}
    )
    if known is None:
        return None
    costs = CostModel(SIZES[-1])
    costs.seed(known.costs)
    return EngineCosts(known, {n: costs.estimate_s(n) or 0.0 for n in SIZES})


def step_report(
    model: Model,
    settings: StepSettings,
    results: Sequence[StepResult],
    bandwidth: float,
    threads: int,
    engine: EngineCosts | None,
) -> dict[str, Any]:
    """Return a step benchmark as JSON values, with where it comes from."""
    from slipstream.benchmark.report import model_facts, provenance, weight_types

    return {
        "benchmark": "step",
        **provenance(),
        "model": {**model_facts(model), "weight_types": weight_types(model)},
        "settings": {**asdict(settings), "threads": threads},
        "memory_bytes_per_s": bandwidth,
        "engine": engine.to_json() if engine else None,
        "results": [result.to_json() for result in results],
    }


def _fill(context: StepContext, tokens: NDArray[np.int32]) -> None:
    """Let sequence 0 hold just these tokens."""
    context.memory_clear()
    for start in range(0, len(tokens), SIZES[-1]):
        context.decode(tokens[start : start + SIZES[-1]])


def _read_all(pool: ThreadPoolExecutor, parts: Sequence[NDArray[np.float64]]) -> float:
    import numpy as np

    begin_s = time.perf_counter()
    list(pool.map(np.add.reduce, parts))  # reads, writes nothing, releases the GIL
    return time.perf_counter() - begin_s
