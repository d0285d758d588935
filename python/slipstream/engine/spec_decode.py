"""What speculation has to decide and to count, as plain functions; drafting and verifying are the runner's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


def accept_longest_prefix(draft_token_ids: Sequence[int], sampled_token_ids: Sequence[int]) -> int:
    """Return how many draft tokens agree with what the target sampled (exact verification).

    `sampled_token_ids[i]` is what the target sampled in place of `draft_token_ids[i]`, given the drafts before it;
    it means something only while all drafts before it agree. One more token than was drafted may follow (what the
    target says after the last draft), and the runner may have stopped sampling at the first disagreement. The
    output of a step is `sampled_token_ids[: accepted + 1]`: the same tokens as without drafts, with one random
    number drawn per token, so a seed gives the same output either way.

    Args:
        draft_token_ids: Proposed tokens.
        sampled_token_ids: The target's own tokens at these positions, and maybe one further.

    Returns:
        0 … len(draft_token_ids).
    """
    num_accepted = 0
    for draft, sampled in zip(draft_token_ids, sampled_token_ids, strict=False):
        if draft != sampled:
            break
        num_accepted += 1
    return num_accepted


class SpeculationCounters(msgspec.Struct, array_like=True):
    """What became of the draft tokens of one request. The last three add up to the first.

    Attributes:
        num_drafted: Proposed to the target.
        num_accepted: Were what the target sampled.
        num_rejected: Were not; at most one a step.
        num_ignored: Came after a rejected one, so that they were never judged.
    """

    num_drafted: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    num_ignored: int = 0

    def record(self, num_drafted: int, num_accepted: int) -> None:
        """Count one verified step.

        Args:
            num_drafted: Tokens proposed in this step.
            num_accepted: Of those, how many were accepted.

        Raises:
            ValueError: not 0 <= num_accepted <= num_drafted.
        """
        if not 0 <= num_accepted <= num_drafted:
            message = f"{num_accepted} accepted of {num_drafted} draft tokens; expected 0 to {num_drafted}"
            raise ValueError(message)
        num_rejected = 1 if num_accepted < num_drafted else 0
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        self.num_rejected += num_rejected
        self.num_ignored += num_drafted - num_accepted - num_rejected
