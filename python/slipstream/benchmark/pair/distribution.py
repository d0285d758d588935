"""Next-token distributions of two models at a temperature, and the chances that a draft survives. numpy arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.base.sampling import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Distribution = tuple[list[int], list[float]]

_DEFAULTS = SamplingParams()


def filtered(logits: NDArray[np.float32], temperature: float) -> Distribution:
    """Return token ids, likeliest first, and their probabilities after the default filters, as csrc/sampler.cpp.

    Top-k on the logits, top-p and min-p at temperature 1 over what top-k left, the temperature at the end.

    Args:
        logits: float32, shape (n_vocab,).
        temperature: Above 0.
    """
    import numpy as np

    k = min(_DEFAULTS.top_k, len(logits))
    best = np.argpartition(logits, -k)[-k:]
    best = best[np.lexsort((best, -logits[best]))]
    weights = np.exp(logits[best] - logits[best[0]])
    reached = np.cumsum(weights) >= _DEFAULTS.top_p * weights.sum()
    keep = int(np.argmax(reached)) + 1
    keep = min(keep, int(np.count_nonzero(weights[:keep] >= _DEFAULTS.min_p)))
    best = best[:keep]
    chances = np.exp((logits[best].astype(np.float64) - float(logits[best[0]])) / temperature)
    chances /= chances.sum()
    return best.tolist(), chances.tolist()


def overlap(p: Distribution, q: Distribution) -> float:
    """Return the sum of min(p, q): how often a draft drawn from q passes the rejection rule (arXiv 2211.17192)."""
    chances = dict(zip(*q, strict=True))
    return sum(min(chance, chances.get(token, 0.0)) for token, chance in zip(*p, strict=True))


def coupled(p: Distribution, q: Distribution, token: int) -> float:
    """Return how often q gives `token` where p gave it, both by the same random number, as the exact mode drafts.

    Each picks by the inverse of its cumulative distribution, likeliest first: the chance is the share of the token's
    stretch under p that is its stretch under q, too.
    """
    ours, theirs = _stretch(p, token), _stretch(q, token)
    if ours is None or theirs is None:
        return 0.0
    shared = min(ours[1], theirs[1]) - max(ours[0], theirs[0])
    return max(0.0, shared) / (ours[1] - ours[0])


def _stretch(distribution: Distribution, token: int) -> tuple[float, float] | None:
    begin = 0.0
    for candidate, chance in zip(*distribution, strict=True):
        if candidate == token:
            return (begin, begin + chance) if chance > 0 else None
        begin += chance
    return None
