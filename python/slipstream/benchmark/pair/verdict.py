"""From live blocks to figures: speed-ups beside the noise floor, whether the output stayed, what is doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair.acceptance import add_positions
from slipstream.benchmark.pair.lossless import compare, noise_of, two_sample_p
from slipstream.benchmark.pair.plan import AGAIN, OFF, arm_of, in_order
from slipstream.benchmark.stats import PooledRatio, pooled_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.data import Block, Measured

_LEAST_FLOOR = 0.02
_ALPHA = 0.01  # of the two-sample test
_ROUND_SLACK = 2  # steps a request may have beyond its rounds: prompt, and figures read a step late
FASTER, SLOWER, SAME = "faster", "slower", "no difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """One arm over some blocks.

    Attributes:
        name: Of the arm.
        speedup: Beside the arm without drafts.
        tokens_per_s: Pooled.
        tau: Tokens of a sequence per step.
        drafted: Drafts verified.
        accepted: Were right.
        rejected: Were not.
        ignored: Were never judged.
        positions: (judged, accepted) by position.
        draft_share: Of the time, spent in the draft model.
        joules_per_token: None where it cannot be read.
        slower_share: Of the blocks, how many were slower than without drafts.
        verdict: faster, slower or no difference.
    """

    name: str
    speedup: PooledRatio
    tokens_per_s: float
    tau: float
    drafted: int
    accepted: int
    rejected: int
    ignored: int
    positions: tuple[tuple[int, int], ...]
    draft_share: float
    joules_per_token: float | None
    slower_share: float
    verdict: str

    @property
    def alpha(self) -> float | None:
        """Accepted of the judged."""
        judged = self.accepted + self.rejected
        return self.accepted / judged if judged else None


def floor_of(blocks: Sequence[Block]) -> tuple[PooledRatio, float]:
    """Return the ratio of the two arms that are the same, and how far from 1 counts as nothing."""
    ratio = _ratio(blocks, AGAIN)
    ends = [ratio.value, *(end for end in (ratio.low, ratio.high) if end is not None)]
    return ratio, max(_LEAST_FLOOR, *(abs(end - 1) for end in ends))


def judge(ratio: PooledRatio, floor: float) -> str:
    """Say what a speed-up comes to beside the noise floor."""
    low = ratio.value if ratio.low is None else ratio.low
    high = ratio.value if ratio.high is None else ratio.high
    if low > 1 and ratio.value > 1 + floor:
        return FASTER
    if high < 1 and ratio.value < 1 - floor:
        return SLOWER
    return SAME


def arm_figures(blocks: Sequence[Block], floor: float) -> list[ArmFigures]:
    """Return every arm but the ones without drafts, over blocks of one session, batch and temperature."""
    names = [name for name in in_order(blocks[0].arms) if name not in (OFF, AGAIN)]
    found = []
    for name in names:
        runs = [block.arms[name] for block in blocks]
        ratio = _ratio(blocks, name)
        seconds = sum(run["seconds"] for run in runs)
        joules = [run["joules"] for run in runs]
        num_tokens = sum(run["num_tokens"] for run in runs)
        accepted = sum(run["accepted"] for run in runs)
        found.append(
            ArmFigures(
                name=name,
                speedup=ratio,
                tokens_per_s=num_tokens / seconds,
                tau=num_tokens / max(1, num_tokens - accepted),
                drafted=sum(run["drafted"] for run in runs),
                accepted=accepted,
                rejected=sum(run["rejected"] for run in runs),
                ignored=sum(run["ignored"] for run in runs),
                positions=add_positions(run["positions"] for run in runs),
                draft_share=sum(run["draft_s"] for run in runs) / seconds,
                joules_per_token=None if None in joules else sum(joules) / num_tokens,
                slower_share=sum(_is_slower(block, name) for block in blocks) / len(blocks),
                verdict=judge(ratio, floor),
            )
        )
    return found


def _rate(run: dict[str, Any]) -> float:
    return float(run["num_tokens"] / run["seconds"])


def _is_slower(block: Block, name: str) -> bool:
    return _rate(block.arms[name]) < _rate(block.arms[OFF])


def _ratio(blocks: Sequence[Block], name: str) -> PooledRatio:
    """Pool an arm beside the one without drafts; every pass through the same prompts is one cluster."""
    clusters: dict[tuple[str, ...], list[list[float]]] = {}
    for block in blocks:
        sums = clusters.setdefault(tuple(block.names), [[0.0, 0.0], [0.0, 0.0]])
        for total, arm in zip(sums, (name, OFF), strict=True):
            total[0] += block.arms[arm]["num_tokens"]
            total[1] += block.arms[arm]["seconds"]
    ours = [(a[0], a[1]) for a, _ in clusters.values()]
    theirs = [(b[0], b[1]) for _, b in clusters.values()]
    return pooled_ratio(ours, theirs)


def losslessness(
    measured: Measured, blocks: Sequence[Block], temperature: float, verify: str
) -> dict[str, Any]:
    """Return for every arm whether its outputs are those of the target, and the noise that ties are told by.

    `is_lossless` is False if an arm has a divergence that is no tie, or the two-sample test refuses it; None where
    nothing could be compared.
    """
    noise = noise_of(measured, temperature)
    texts = measured.texts[temperature]
    arms: dict[str, Any] = {}
    for name in in_order(blocks[0].arms):
        pairs = [
            (texts[prompt], output)
            for block in blocks
            for prompt, output in zip(block.names, block.arms[name]["outputs"], strict=True)
        ]
        if temperature > 0:
            same = sum(list(output) == text.output for text, output in pairs)
            p = None
            if same < len(pairs):
                p = two_sample_p(
                    [output for _, output in pairs], [text.output for text, _ in pairs]
                )
            # In exact mode equal seeds give equal tokens but for ties; the test is what both modes have in common.
            arms[name] = {
                "num_outputs": len(pairs),
                "num_identical": same,
                "p": p,
                "is_lossless": p is None or p >= _ALPHA,
            }
            continue
        found = [
            compare(text, output, measured.controls.get((temperature, text.name)), noise)
            for text, output in pairs
        ]
        left = [divergence for divergence in found if divergence]
        arms[name] = {
            "num_outputs": len(pairs),
            "num_identical": len(pairs) - len(left),
            "num_ties": sum(divergence.is_tie for divergence in left),
            "defects": [
                {"prompt": d.prompt, "token": d.place, "gap": min(d.gap, 1e9)}
                for d in left
                if not d.is_tie
            ],
            "is_lossless": all(divergence.is_tie for divergence in left),
        }
    return {
        "kind": "two-sample test" if temperature > 0 else "token by token",
        "verify": verify,
        "noise": {
            "largest": noise.largest,
            "limit": noise.limit,
            "num_positions": noise.num_positions,
            "num_moved": noise.num_moved,
        },
        "arms": arms,
    }


def doubts(blocks: Sequence[Block]) -> list[str]:
    """Return what speaks against believing the figures: counters that disagree, drafts that never came."""
    found = []
    for name in blocks[0].arms:
        runs = [block.arms[name] for block in blocks]
        for run in runs:
            total = run["accepted"] + run["rejected"] + run["ignored"]
            if total != run["drafted"]:
                found.append(
                    f"{name}: {total} drafts were judged or ignored and {run['drafted']} verified"
                )
                break
        if blocks[0].batch == 1:
            for run in runs:
                rounds = run["num_tokens"] - run["accepted"]
                # A round whose accepted tail an end token or the limit cut off gave fewer tokens than it accepted.
                longest = len(run["positions"])
                if (
                    not -_ROUND_SLACK - longest
                    <= run["num_steps"] - rounds
                    <= _ROUND_SLACK + longest
                ):
                    found.append(f"{name}: {run['num_steps']} steps for {rounds} rounds")
                    break
        arm = arm_of(name)
        is_fixed = arm.source == "draft" and arm.num_tokens is not None
        if is_fixed and not any(run["drafted"] for run in runs):
            found.append(f"{name}: the draft model drafted nothing")
    return found
