"""Runs requests through the engine: the target's texts, and blocks of arms that only differ in their drafts."""

from __future__ import annotations

import queue
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec, RequestFailed, Speculation
from slipstream.benchmark.pair.acceptance import add_positions
from slipstream.benchmark.pair.costs import Timer, live_sizes
from slipstream.benchmark.pair.resources import waited_s, waited_since
from slipstream.runtime.host import EngineHost
from slipstream.runtime.results import ResultCollector, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import Event
    from slipstream.benchmark.pair.plan import Arm, PairSettings
    from slipstream.benchmark.pair.resources import EnergyMeter
    from slipstream.runtime.results import GenerationResult

LEAST_CONTEXT = 8192
_WARM_TOKENS = 3
_MOST_DEPTH = 256  # tokens of a text behind which steps are timed
_PASSES = 3


@dataclass(slots=True, kw_only=True)
class Text:
    """A prompt and what the target says to it.

    Attributes:
        name: Of the prompt.
        category: Of the prompt.
        prompt: Token ids.
        stop: Strings that end the output.
        seed: Of its random numbers.
        output: Token ids of the answer.
        gaps: By position, how much the best log-probability is above the second.
        pieces: The text of each token.
        overhead_s: Seconds that the engine adds to each step of the models: planning, handing out.
    """

    name: str
    category: str
    prompt: list[int]
    stop: tuple[str, ...] = ()
    seed: int = 0
    output: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    overhead_s: float = 0.0


def load_config(
    draft: str | None, settings: PairSettings, context_length: int, parallel: int
) -> LoadConfig:
    """Return how a target is loaded for runs that can switch their drafts on and off."""
    return LoadConfig(
        context_length=context_length,
        parallel=parallel,
        threads=settings.threads,
        repack=settings.repack,
        draft_model=draft,
        speculation="auto",
        verify=settings.verify,
        prompt_cache_mib=0,
    )


def load_host(
    target: str, draft: str | None, settings: PairSettings, context_length: int, parallel: int
) -> EngineHost:
    """Load a target with everything that runs its requests.

    Raises:
        ModelLoadError: a file is no usable model, or the draft model does not fit.
        ContextCreateError: the machine cannot hold the context.
    """
    host = EngineHost.load(target, load_config(draft, settings, context_length, parallel))
    try:
        host.lend(lambda runner: runner.settle())
    except BaseException:
        host.close()
        raise
    return host


def run(
    host: EngineHost,
    texts: Sequence[Text],
    settings: PairSettings,
    temperature: float,
    speculation: Speculation,
    *,
    max_tokens: int | None = None,
    logprobs: int | None = None,
) -> tuple[list[GenerationResult], float]:
    """Answer the prompts of some texts at the same time.

    Returns:
        The answers in their order, and the seconds from the first submission to the last token.

    Raises:
        SlipstreamError: the first request that fails.
    """
    events: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
    ids = [secrets.token_hex(8) for _ in texts]
    collectors = {request_id: ResultCollector() for request_id in ids}
    results: dict[str, GenerationResult] = {}
    begin_s = time.perf_counter()
    try:
        for request_id, text in zip(ids, texts, strict=True):
            sampling = SamplingParams(
                max_tokens=max_tokens or settings.num_tokens,
                temperature=temperature,
                seed=text.seed,
                stop=text.stop,
                logprobs=logprobs,
            )
            spec = GenerationSpec(
                request_id=request_id,
                prompt_token_ids=text.prompt,
                sampling=sampling,
                speculation=speculation,
            )
            host.submit(spec, events.put)
        while len(results) < len(texts):
            for event in events.get():
                if isinstance(event, RequestFailed):
                    raise error_of(event)
                if result := collectors[event.request_id].add(event):
                    results[event.request_id] = result
    finally:
        for request_id in collectors.keys() - results.keys():
            host.abort(request_id)
    return [results[request_id] for request_id in ids], time.perf_counter() - begin_s


def time_steps(
    host: EngineHost, texts: Sequence[Text], arms: Sequence[Arm], temperature: float
) -> list[dict[str, Any]]:
    """Time the steps that the arms of a block come to, in the engine that runs them and behind the same texts.

    Empties the engine's memory.

    Returns:
        Costs of the target and, if there is one, of the draft model.

    Raises:
        SlipstreamError: a model fails.
    """
    batch = len(texts)
    sizes = live_sizes([arm.num_tokens for arm in arms if arm.num_tokens], batch)
    timer = Timer(sizes, [batch], temperature, most_alone=batch - 1 or sizes[-1])
    tokens = [[*text.prompt, *text.output][-_MOST_DEPTH:] for text in texts]
    host.lend(lambda runner: timer.time_round(runner, tokens, _PASSES))
    return [costs.to_json() for costs in (timer.target, timer.drafter) if costs.samples]


def warm_up(
    host: EngineHost, texts: Sequence[Text], settings: PairSettings, temperature: float
) -> None:
    """Bring the prompts into both models' memories, so that no arm pays for reading them. Not timed."""
    for speculation in (Speculation(source="off"), Speculation(source="auto", num_tokens=1)):
        run(host, texts, settings, temperature, speculation, max_tokens=_WARM_TOKENS)


def run_arm(
    host: EngineHost,
    texts: Sequence[Text],
    arm: Arm,
    settings: PairSettings,
    temperature: float,
    meter: EnergyMeter,
) -> dict[str, Any]:
    """Run one arm of a block.

    Returns:
        Its record: seconds and tokens they are for, seconds in all, what became of the drafts, token ids, engine
        time, and how long threads had to wait for a processor.
    """
    before, energy, waited = host.stats(), meter.read(), waited_s()
    speculation = Speculation(source=arm.source, num_tokens=arm.num_tokens)
    results, wall_s = run(host, texts, settings, temperature, speculation)
    joules, after, lost_s = meter.joules_since(energy), host.stats(), waited_since(waited)
    usages = [result.usage for result in results]
    alone = len(texts) == 1
    # One request is timed from its first token on; of several the first ones decode while others are still read.
    seconds = usages[0].decode_s if alone else wall_s
    num_tokens = sum(usage.num_output_tokens for usage in usages) - alone
    return {
        "seconds": seconds,
        "wall_s": wall_s,
        "num_tokens": num_tokens,
        "outputs": [result.token_ids for result in results],
        "drafted": sum(usage.num_drafted_tokens for usage in usages),
        "accepted": sum(usage.num_accepted_tokens for usage in usages),
        "rejected": sum(usage.num_rejected_tokens for usage in usages),
        "ignored": sum(usage.num_ignored_tokens for usage in usages),
        "positions": add_positions(usage.draft_positions for usage in usages),
        "num_steps": after.num_steps_total - before.num_steps_total,
        "draft_s": after.draft_s_total - before.draft_s_total,
        "step_s": after.step_s_total - before.step_s_total,
        "joules": joules,
        "waited_s": lost_s,
    }
