"""Small helpers of the native tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from slipstream import GenerationResult

# One tiny model per kind of memory: plain, sliding window, recurrent, hybrid.
KINDS = ("llama", "gemma3", "mamba", "lfm2")


def ids(*values: int) -> np.ndarray:
    """Return an int32 array."""
    return np.array(values, dtype=np.int32)


# Kernels round differently with the number of rows, and the cache holds 16 bits: two runs may part at a near tie.
_TIE = 0.05


def assert_agree(one: GenerationResult, other: GenerationResult) -> None:
    """Assert that two greedy answers with logprobs=2 are the same, at least up to a near tie of the two best."""
    assert one.logprobs is not None
    assert other.logprobs is not None
    for left, right in zip(one.logprobs, other.logprobs, strict=True):
        if left.token_id == right.token_id:
            continue
        for entry in (left, right):
            assert entry.top[0][2] - entry.top[1][2] < _TIE, (left, right)
        return
