"""A serving benchmark as JSON values: settings, provenance, figures of each round, and each request."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipstream.benchmark.report import provenance
from slipstream.benchmark.serve.compare import ratios, sane
from slipstream.benchmark.serve.driver import Run
from slipstream.benchmark.serve.figures import Figures, figures_of
from slipstream.benchmark.stats import summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.serve.client import Result
    from slipstream.benchmark.serve.compare import Arm, Plan


def pooled(arm: Arm, plan: Plan) -> Figures:
    """Return the figures of all rounds of an arm as if they were one run: percentiles over all its requests."""
    whole = Run(
        results=[result for run in arm.runs for result in run.results],
        intruded=[result for run in arm.runs for result in run.intruded],
        duration_s=sum(run.duration_s for run in arm.runs),
    )
    return figures_of(whole, plan.slo)


def serve_report(plan: Plan, arms: Sequence[Arm]) -> dict[str, Any]:
    """Return a benchmark as JSON values.

    Args:
        plan: What was run.
        arms: With their runs; the first is compared with each of the others.
    """
    return {
        "benchmark": "serve",
        **provenance(),
        "settings": asdict(plan),
        "arms": {arm.name: _arm(arm, plan) for arm in arms},
        "ratios": {
            f"{arms[0].name} / {arm.name}": {k: asdict(r) for k, r in ratios(arms[0], arm).items()}
            for arm in arms[1:]
        },
        "doubts": sane(arms, plan),
    }


def _arm(arm: Arm, plan: Plan) -> dict[str, Any]:
    rounds = arm.figures(plan.slo)
    return {
        "url": arm.target.base_url,
        "model": arm.model,
        "all_rounds": asdict(pooled(arm, plan)),
        "output_tokens_per_s": asdict(summarize([f.output_tokens_per_s for f in rounds])),
        "requests_per_s": asdict(summarize([f.requests_per_s for f in rounds])),
        "rounds": [asdict(figures) for figures in rounds],
        "requests": [
            {"round": number, **_request(result, run)}
            for number, run in enumerate(arm.runs)
            for result in run.results
        ],
    }


def _request(result: Result, run: Run) -> dict[str, Any]:
    begin_s = run.results[0].sent_s
    return {
        "label": result.label,
        "turn": result.turn,
        "sent_s": round(result.sent_s - begin_s, 6),
        "ended_s": round(result.ended_s - begin_s, 6),
        "ttft_s": None if result.ttft_s is None else round(result.ttft_s, 6),
        "tpot_s": None if result.tpot_s is None else round(result.tpot_s, 6),
        "num_prompt_tokens": result.num_prompt_tokens,
        "num_cached_tokens": result.num_cached_tokens,
        "num_output_tokens": result.num_output_tokens,
        "finish_reason": result.finish_reason,
        "error": result.error,
    }
