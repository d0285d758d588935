"""Whether drafts changed the output: token by token at temperature 0, by a two-sample test above it.

Kernels may round differently with the rows of a step, so two tokens that are nearly tied can change places without
any fault. How near is measured, not guessed: the target scores its own texts once more, several rows at a time and
without any draft, and the largest change of the gap between the two best tokens, doubled, is what counts as a tie.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.data import Measured
    from slipstream.benchmark.pair.live import Text
    from slipstream.benchmark.pair.scan import Control

_LEAST_NOISE = 1e-4  # of logits: rounding of the figures themselves
_SAFETY = 2.0  # live runs see more steps than the control does
_NUM_PERMUTATIONS = 999


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far the gap between the two best tokens moves with the rows of a step.

    Attributes:
        largest: Seen by the control.
        limit: Up to here a gap is a tie.
        num_positions: Looked at.
        num_moved: Where it moved at all.
    """

    largest: float
    limit: float
    num_positions: int
    num_moved: int


def noise_of(measured: Measured, temperature: float) -> Noise:
    """Compare what the target said one token at a time with its own control."""
    changes = []
    for text in measured.texts_of(temperature):
        control = measured.controls.get((temperature, text.name))
        if control is None:
            continue
        for token, gap, (best, _), other in zip(
            text.output, text.gaps, control.best, control.gaps, strict=True
        ):
            # A place where the order turned moved by both gaps; where the text was drawn, its token may be neither.
            turned = temperature == 0 and token != best
            changes.append(gap + other if turned else abs(gap - other))
    largest = max(changes, default=0.0)
    return Noise(
        largest=largest,
        limit=max(_LEAST_NOISE, _SAFETY * largest),
        num_positions=len(changes),
        num_moved=sum(change > _LEAST_NOISE for change in changes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where an output left the target's text.

    Attributes:
        prompt: Name.
        place: Token of the output.
        gap: The smaller of both gaps between the two best tokens there.
        is_tie: That is within the noise, and the other token is one of the two.
    """

    prompt: str
    place: int
    gap: float
    is_tie: bool


def compare(
    text: Text, output: Sequence[int], control: Control | None, noise: Noise
) -> Divergence | None:
    """Compare a greedy output with the text; None if they are the same."""
    if list(output) == text.output:
        return None
    place = next(
        (i for i, (a, b) in enumerate(zip(output, text.output, strict=False)) if a != b), -1
    )
    if place < 0 or control is None:  # one ended before the other: no tie explains that
        ended = min(len(output), len(text.output))
        return Divergence(prompt=text.name, place=max(place, ended), gap=float("inf"), is_tie=False)
    gap = min(text.gaps[place], control.gaps[place])
    is_tie = gap <= noise.limit and output[place] in control.best[place]
    return Divergence(prompt=text.name, place=place, gap=gap, is_tie=is_tie)


def two_sample_p(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Return the chance of token counts as different as these if both arms draw alike.

    The statistic is that of the chi-square test of homogeneity over tokens. Its law is made by swapping the two
    outputs of a prompt at random (a permutation test), because tokens of one output are not independent.

    Args:
        ours: Outputs of one arm.
        theirs: Of the other, to the same prompts in the same order.
    """
    counts = [(Counter(a), Counter(b)) for a, b in zip(ours, theirs, strict=True)]
    observed = _chi_square(counts)
    random = Random(0)
    above = 1
    for _ in range(_NUM_PERMUTATIONS):
        swapped = [(b, a) if random.random() < 0.5 else (a, b) for a, b in counts]
        above += _chi_square(swapped) >= observed - 1e-9
    return above / (_NUM_PERMUTATIONS + 1)


def _chi_square(counts: Sequence[tuple[Counter[int], Counter[int]]]) -> float:
    ours: Counter[int] = Counter()
    theirs: Counter[int] = Counter()
    for a, b in counts:
        ours.update(a)
        theirs.update(b)
    num_ours, num_theirs = ours.total() or 1, theirs.total() or 1
    total = 0.0
    for token in ours.keys() | theirs.keys():
        difference = (
            ours[token] * (num_theirs / num_ours) ** 0.5
            - theirs[token] * (num_ours / num_theirs) ** 0.5
        )
        total += difference * difference / (ours[token] + theirs[token])
    return total
