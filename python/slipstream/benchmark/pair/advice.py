"""What to do with a candidate, why, and which of acceptance, draft cost and verification would have to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair import acceptance
from slipstream.benchmark.pair.plan import MAX_ROWS_DRAFTED, NGRAM, arm_of
from slipstream.benchmark.pair.verdict import FASTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.plan import PairSettings
    from slipstream.benchmark.pair.predict import Predictor
    from slipstream.benchmark.pair.verdict import ArmFigures


def advise(
    predictor: Predictor,
    settings: PairSettings,
    candidate: str,
    arms: Sequence[ArmFigures],
    *,
    batch: int,
    is_lossless: bool,
) -> dict[str, Any]:
    """Return what to do with a candidate, by the live arms of so many requests at a time.

    Returns:
        `use` is the arm to use or None; `why` in words; and what each of acceptance, draft cost and verification
        would have to be for it to pay, the others as they are.
    """
    best = max(arms, key=lambda arm: arm.speedup.value)
    own = [arm for arm in arms if arm.alpha is not None and _is_fixed(arm, candidate)]
    measured_alpha = max(own, key=lambda arm: arm.speedup.value).alpha if own else None
    why = break_even(predictor, settings, candidate, measured_alpha, batch)
    if not is_lossless:
        return {"use": None, "why": "the output differs by more than ties explain", **why}
    if best.verdict == FASTER:
        text = f"{best.name} is {best.speedup.value:.2f} times as fast as no drafts"
        return {"use": best.name, "why": text, **why}
    text = f"the best arm, {best.name}, is {best.speedup.value:.2f} times as fast: {best.verdict}"
    return {"use": None, "why": text, **why}


def _is_fixed(arm: ArmFigures, candidate: str) -> bool:
    way = arm_of(arm.name)
    source = "ngram" if candidate == NGRAM else "draft"
    return way.source == source and way.num_tokens is not None


def break_even(
    predictor: Predictor,
    settings: PairSettings,
    candidate: str,
    alpha: float | None,
    batch: int = 1,
) -> dict[str, Any]:
    """Return c, o and V beside what they would have to be, and the acceptance from which on drafts pay.

    Costs are in plain steps of so many requests at the same time as `batch` says.
    """
    plain = predictor.verify(batch)
    gammas = sorted(g for g in settings.gammas if g * batch <= MAX_ROWS_DRAFTED) or [1]
    c, o = predictor.draft(candidate, batch) / plain, predictor.overhead / plain

    def verify(num_rows: int) -> float:
        return predictor.verify(num_rows * batch) / plain

    most = acceptance.best_speedup(1.0, gammas, c, verify, o)
    found: dict[str, Any] = {
        "c": c,
        "overhead": o,
        "alpha": alpha,
        "break_even_alpha": acceptance.break_even_alpha(gammas, c, verify, o),
        "most": {"gamma": most[0], "speedup": most[1]},
        "break_even_c": None,
        "break_even_rows": None,
    }
    if alpha is not None:
        found["break_even_c"] = acceptance.break_even_cost(alpha, gammas, verify, o)
        rows = acceptance.break_even_rows(alpha, gammas, c, verify, o)
        if rows is not None:
            gamma, limit = rows
            found["break_even_rows"] = {
                "num_rows": batch * (gamma + 1),
                "limit": limit,
                "measured": verify(gamma + 1),
            }
    return found
