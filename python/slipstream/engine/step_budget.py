"""How the tokens of a step are shared among prompts. Pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The oldest prompt gets at least this part of what a step has for prompts.
_OLDEST_PART = 4


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
