"""The figures of a run: latencies, throughput, goodput, errors. Pure arithmetic over results."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.stats import Percentiles, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.serve.client import Result
    from slipstream.benchmark.serve.driver import Run

_SLO_SHARE = 0.95  # of a request's gaps have to keep to the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a user is promised; None promises nothing.

    Attributes:
        ttft_ms: Longest time to the first token.
        itl_ms: Longest time between pieces of text, at the 95th percentile of a request.

    Raises:
        InvalidRequestError: a limit is not above 0.
    """

    ttft_ms: float | None = None
    itl_ms: float | None = None

    def __post_init__(self) -> None:
        for param, value in (("slo_ttft_ms", self.ttft_ms), ("slo_itl_ms", self.itl_ms)):
            if value is not None and not value > 0:
                message = f"{param} is {value}; it must be above 0"
                raise InvalidRequestError(message, param=param)

    def is_met(self, result: Result) -> bool:
        """Whether a complete answer kept to the limits."""
        if result.error is not None or result.ttft_s is None:
            return False
        if self.ttft_ms is not None and result.ttft_s * 1e3 > self.ttft_ms:
            return False
        gaps = sorted(result.itl_s)
        return self.itl_ms is None or not gaps or percentile(gaps, _SLO_SHARE) * 1e3 <= self.itl_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is told of one run. Failed requests count in `num_requests` and `errors` only.

    Attributes:
        num_requests: Sent, or not sent because an earlier turn failed.
        num_failed: Of those, without a complete answer.
        errors: How many of each kind.
        details: One message of each kind.
        duration_s: Of the run.
        requests_per_s: Complete answers per second.
        output_tokens_per_s: Their tokens per second of the run, prompts included.
        goodput_per_s: Complete answers per second that kept to the limits.
        num_prompt_tokens: Of complete answers, None if a server does not tell.
        num_cached_tokens: Of those, found in a cache; None if a server does not tell.
        num_output_tokens: Of complete answers.
        from_usage: Whether all tokens were counted by the server; else pieces of text were.
        ttft_ms: Time to the first piece of text; None without one.
        itl_ms: Between pieces of text, of the streams that were intruded upon where there are some.
        tpot_ms: Per request, the mean time per output token after the first.
    """

    num_requests: int
    num_failed: int
    errors: dict[str, int]
    details: dict[str, str]
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    goodput_per_s: float
    num_prompt_tokens: int | None
    num_cached_tokens: int | None
    num_output_tokens: int
    from_usage: bool
    ttft_ms: Percentiles | None
    itl_ms: Percentiles | None
    tpot_ms: Percentiles | None
    labels: dict[str, int] = field(default_factory=dict)


def figures_of(run: Run, slo: Slo | None = None) -> Figures:
    """Return the figures of a run.

    Args:
        run: From the driver.
        slo: The limits goodput is counted by.
    """
    complete = [result for result in run.results if result.error is None]
    failed = [result for result in (*run.results, *run.intruded) if result.error is not None]
    streams = run.intruded or complete
    limits = slo or Slo()
    duration_s = max(run.duration_s, 1e-9)
    num_output = sum(result.num_output_tokens for result in complete)
    return Figures(
        num_requests=len(run.results),
        num_failed=len(failed),
        errors=dict(Counter(result.error or "" for result in failed)),
        details={result.error or "": result.detail for result in reversed(failed)},
        duration_s=run.duration_s,
        requests_per_s=len(complete) / duration_s,
        output_tokens_per_s=num_output / duration_s,
        goodput_per_s=sum(map(limits.is_met, complete)) / duration_s,
        num_prompt_tokens=_total([result.num_prompt_tokens for result in complete]),
        num_cached_tokens=_total([result.num_cached_tokens for result in complete]),
        num_output_tokens=num_output,
        from_usage=bool(complete) and all(result.from_usage for result in complete),
        ttft_ms=_milliseconds([result.ttft_s for result in complete]),
        itl_ms=_milliseconds([gap for result in streams for gap in result.itl_s]),
        tpot_ms=_milliseconds([result.tpot_s for result in complete]),
        labels=dict(Counter(result.label for result in run.results)),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if counts and len(known) == len(counts) else None


def _milliseconds(seconds: Sequence[float | None]) -> Percentiles | None:
    known = [value * 1e3 for value in seconds if value is not None]
    return Percentiles.of(known) if known else None
