"""What becomes of a prompt that is longer than the context: which parts are left out. Knows no tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import CONTEXT_OVERFLOW_POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.base.types import GenerationSpec

Message = dict[str, Any]
_OUTPUT_SHARE = (
    4  # a shortened prompt leaves a quarter of the context to the answer, if that may be so long
)


def check_policy(policy: str) -> None:
    """Refuse a policy there is not.

    Raises:
        InvalidRequestError: so it is.
    """
    if policy not in CONTEXT_OVERFLOW_POLICIES:
        message = (
            f"context_overflow is {policy!r}; it must be {', '.join(CONTEXT_OVERFLOW_POLICIES)}"
        )
        raise InvalidRequestError(message, param="context_overflow")


def room_for_prompt(spec: GenerationSpec, limit: int) -> int:
    """Return how many tokens a shortened prompt may have.

    Args:
        spec: Its `max_tokens` counts.
        limit: Tokens of prompt and output together.
    """
    most = limit // _OUTPUT_SHARE
    max_tokens = spec.sampling.max_tokens
    reserved = most if max_tokens is None else min(max_tokens, most)
    return max(1, limit - max(1, reserved))


def shorten_tokens(token_ids: Sequence[int], room: int, policy: str) -> list[int]:
    """Keep `room` tokens: both ends by truncate_middle, the first and the last ones by rolling_window.

    The first is kept for models that lean on it (BOS; arXiv 2309.17453).
    """
    num_head = room // 2 if policy == "truncate_middle" else min(1, room - 1)
    num_tail = room - num_head
    return [*token_ids[:num_head], *token_ids[len(token_ids) - num_tail :]]


def shorten_messages(
    messages: Sequence[Message], policy: str, fits: Callable[[list[Message]], bool]
) -> list[Message]:
    """Leave out the oldest turns, as few as will do; system messages at the start and the last turn stay.

    A turn begins with a message of the user and has all up to the next one, so that no answer of a tool loses its
    call. By truncate_middle the first turn stays, too.

    Args:
        messages: The conversation.
        policy: truncate_middle or rolling_window.
        fits: Whether a conversation is short enough; asked O(log turns) times.

    Returns:
        The shortest there is, if none fits.
    """
    num_system = 0
    while num_system < len(messages) and messages[num_system]["role"] in ("system", "developer"):
        num_system += 1
    starts = [i for i in range(num_system, len(messages)) if messages[i]["role"] == "user"]
    first = 1 if policy == "truncate_middle" else 0
    if len(starts) <= first + 1:
        return list(messages)
    head_end = starts[first] if first else num_system
    # Dropping turns makes it shorter, so the first cut that fits is found by halving.
    cuts = starts[first + 1 :]
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high) // 2
        if fits([*messages[:head_end], *messages[cuts[middle] :]]):
            high = middle
        else:
            low = middle + 1
    return [*messages[:head_end], *messages[cuts[low] :]]
