"""What a draft model was good for, as LM Studio's answers tell it in `stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import Usage
    from slipstream.runtime.model_manager import ModelStatus
    from slipstream.server.context import ServerContext

_COUNTS = {
    "total_draft_tokens_count": "num_drafted_tokens",
    "accepted_draft_tokens_count": "num_accepted_tokens",
    "rejected_draft_tokens_count": "num_rejected_tokens",
    "ignored_draft_tokens_count": "num_ignored_tokens",
}


def status_of(context: ServerContext, key: str) -> ModelStatus | None:
    """Return the status of the instance that answered, None if it has gone meanwhile."""
    return next((one for one in context.manager.list() if one.key == key), None)


def draft_stats(status: ModelStatus | None, usages: Sequence[Usage]) -> dict[str, Any]:
    """Return the draft model's name and the counts of all choices; nothing where there is no draft model.

    The total is the sum of the other three.
    """
    draft = status.config.draft_model if status is not None else None
    if draft is None:
        return {}
    counts = {
        name: sum(getattr(usage, field) for usage in usages) for name, field in _COUNTS.items()
    }
    return {"draft_model": draft.rsplit("/", 1)[-1].removesuffix(".gguf"), **counts}
