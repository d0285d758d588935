"""How many tokens a step takes, and how they are shared among prompts. Pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.engine.cost_model import CostModel

# The oldest prompt gets at least this part of what a step has for prompts.
_OLDEST_PART = 4
# Matrix and attention kernels work at nearly their best from so many rows on. Smaller pieces of a prompt keep streams
# smoother and cost the prompt far more than the streams gain: beside 3,500 cached tokens, 32 rows cost what 64 do.
_GOOD_CHUNK = 128
# For a piece of that size a step may take so many times its target.
_PATIENCE = 4
# Prompts go on by at least so many tokens a step, whatever it costs.
_LEAST_CHUNK = 32


def step_tokens(
    num_decodes: int, most: int, cost_model: CostModel | None, target_s: float | None
) -> int:
    """Return the most tokens of a step, so that those who wait for their next token do not wait long.

    Args:
        num_decodes: Requests whose next token the step computes; without any there is no hurry.
        most: Tokens that fit a step.
        cost_model: What steps cost; None: unknown.
        target_s: About how long a step with pieces of prompts may take; None or 0: as long as it likes.
    """
    if not num_decodes or not cost_model or not target_s:
        return most
    affordable = cost_model.num_tokens_within(target_s)
    bearable = cost_model.num_tokens_within(_PATIENCE * target_s)
    if affordable is None or bearable is None:
        return most
    good = min(bearable, num_decodes + _GOOD_CHUNK)
    return min(most, max(affordable, good, num_decodes + _LEAST_CHUNK))


def share_tokens(missing: Sequence[int], budget: int) -> list[int]:
    """Share a step among prompts: the shortest remaining first, and a quarter for the oldest whatever its length.

    So a prompt of 50 tokens does not wait for one of 30,000 that came before, and one of 30,000 goes on whatever keeps
    coming behind it. Several short ones are computed in one step.

    Args:
        missing: Tokens that each prompt has still to compute, in order of arrival.
        budget: Tokens there are for all of them.

    Returns:
        Tokens for each.
    """
    shares = [0] * len(missing)
    if not missing or budget <= 0:
        return shares
    shares[0] = min(missing[0], max(1, budget // _OLDEST_PART))
    budget -= shares[0]
    for index in sorted(range(len(missing)), key=lambda index: missing[index]):
        more = min(missing[index] - shares[index], budget)
        shares[index] += more
        budget -= more
    return shares
