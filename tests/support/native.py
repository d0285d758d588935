"""Small helpers of the native tests."""

from __future__ import annotations

import numpy as np

# One tiny model per kind of memory: plain, sliding window, recurrent, hybrid.
KINDS = ("llama", "gemma3", "mamba", "lfm2")


def ids(*values: int) -> np.ndarray:
    """Return an int32 array."""
    return np.array(values, dtype=np.int32)
