"""The Prometheus figures of a server, in a registry of its own. Never a label per request, never content."""

from __future__ import annotations

import re
import time
from functools import cache
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from slipstream.base.types import Usage
from slipstream.engine.stats import EngineStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from slipstream.base.types import OutputDelta
    from slipstream.runtime.model_manager import ModelStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_INTER_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)
_PREFIX = "slipstream_"


class Metrics:
    """Counts what passes through the routes, and shows what the engines tell at the moment of a scrape."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            _PREFIX + "http_requests",
            "Ended HTTP requests; status 499: the client went away before an answer",
            ["route", "status"],
            registry=registry,
        )
        self.ttft = Histogram(
            _PREFIX + "time_to_first_token_seconds",
            "From the arrival of a request to its first output",
            ["model"],
            buckets=_TTFT_BUCKETS_S,
            registry=registry,
        )
        self.inter_token = Histogram(
            _PREFIX + "inter_token_seconds",
            "Between two outputs of one choice",
            ["model"],
            buckets=_INTER_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.choices = Counter(
            _PREFIX + "choices", "Finished choices", ["model", "finish_reason"], registry=registry
        )
        self.tokens = Counter(
            _PREFIX + "tokens",
            "Tokens of finished choices; kind is prompt, cached_prompt or output",
            ["model", "kind"],
            registry=registry,
        )
        self._scrape = _Scrape()
        registry.register(self._scrape)

    def request_ended(self, route: str, status: int) -> None:
        """Count one HTTP request."""
        self._requests.labels(route, str(status)).inc()

    def render(
        self, models: Sequence[ModelStatus], engines: Mapping[str, EngineStats], num_in_flight: int
    ) -> bytes:
        """Return all figures in Prometheus' text format."""
        self._scrape.models = models
        self._scrape.engines = engines
        self._scrape.num_in_flight = num_in_flight
        return generate_latest(self._registry)


class Tracker:
    """Times the deltas of one request. About 2 us for each.

    Args:
        metrics: Where to.
        model: Key of the model that answers.
        num_choices: How many choices the request has.
        arrival_s: time.monotonic() at its arrival.
    """

    def __init__(self, metrics: Metrics, model: str, num_choices: int, arrival_s: float) -> None:
        self._metrics = metrics
        self._model = model
        self._last_s = [0.0] * num_choices
        self._arrival_s = arrival_s
        self._inter_token = metrics.inter_token.labels(model)
        self.usages: list[Usage] = [Usage()] * num_choices

    def add(self, index: int, delta: OutputDelta) -> None:
        """Note one delta of choice `index`."""
        now_s = time.monotonic()
        last_s = self._last_s[index]
        if last_s:
            self._inter_token.observe(now_s - last_s)
        else:
            self._metrics.ttft.labels(self._model).observe(now_s - self._arrival_s)
        self._last_s[index] = now_s
        if delta.finish_reason is None:
            return
        self._metrics.choices.labels(self._model, delta.finish_reason.value).inc()
        if delta.usage is not None:
            self.usages[index] = usage = delta.usage
            tokens = self._metrics.tokens
            tokens.labels(self._model, "prompt").inc(usage.num_prompt_tokens)
            tokens.labels(self._model, "cached_prompt").inc(usage.num_cached_tokens)
            tokens.labels(self._model, "output").inc(usage.num_output_tokens)


class _Scrape(Collector):
    """Figures that others keep and that are asked for at a scrape."""

    def __init__(self) -> None:
        self.models: Sequence[ModelStatus] = ()
        self.engines: Mapping[str, EngineStats] = {}
        self.num_in_flight = 0

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each figure."""
        yield GaugeMetricFamily(
            _PREFIX + "requests_in_flight", "Generations being answered", value=self.num_in_flight
        )
        loaded = GaugeMetricFamily(
            _PREFIX + "model_loaded", "1 while an engine process holds the model", labels=["model"]
        )
        loads = CounterMetricFamily(
            _PREFIX + "model_loads", "Loads that succeeded", labels=["model"]
        )
        deaths = CounterMetricFamily(
            _PREFIX + "engine_deaths", "Engine processes that ended by themselves", labels=["model"]
        )
        for model in self.models:
            loaded.add_metric([model.key], float(model.info is not None))
            loads.add_metric([model.key], model.num_loads)
            deaths.add_metric([model.key], model.num_deaths)
        yield from (loaded, loads, deaths)
        yield from self._engine_families()

    def _engine_families(self) -> Iterator[Metric]:
        """Yield one family for each number of EngineStats, under its own name."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        descriptions = _descriptions()
        for key, stats in self.engines.items():
            for field in msgspec.structs.fields(stats):
                value = getattr(stats, field.name)
                if not isinstance(value, (int, float)):
                    continue
                if field.name not in families:
                    kind = (
                        CounterMetricFamily if field.name.endswith("_total") else GaugeMetricFamily
                    )
                    name = (
                        f"{_PREFIX}engine_{field.name.removeprefix('num_').removesuffix('_total')}"
                    )
                    help_text = descriptions.get(field.name, f"{field.name} of the engine")
                    families[field.name] = kind(name, help_text, labels=["model"])
                families[field.name].add_metric([key], value)
        yield from families.values()


@cache
def _descriptions() -> dict[str, str]:
    """Return what the docstring of EngineStats says of each figure; nothing where Python runs without docstrings."""
    lines = re.findall(r"^    +(\w+): (.+)$", EngineStats.__doc__ or "", re.MULTILINE)
    return {name: text.rstrip(".") for name, text in lines}
