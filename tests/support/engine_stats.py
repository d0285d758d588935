"""An EngineStats for tests that only pass one along."""

from __future__ import annotations

import msgspec

from slipstream.engine.stats import EngineStats


def some_stats() -> EngineStats:
    """Return figures that differ from each other."""
    values = {
        field.name: [(1.0, 0.5)] if field.name == "step_cost_curve" else i
        for i, field in enumerate(msgspec.structs.fields(EngineStats))
    }
    return msgspec.convert(values, EngineStats)
