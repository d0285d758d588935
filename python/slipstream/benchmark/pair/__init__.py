"""Which draft model to use with a target, or none: measured on this machine, with error bars (docs/design/pair.md)."""

from slipstream.benchmark.pair.compatibility import check_pair, rank_candidates
from slipstream.benchmark.pair.measure import PairInterrupted, measure_pair
from slipstream.benchmark.pair.plan import PairSettings

__all__ = ["PairInterrupted", "PairSettings", "check_pair", "measure_pair", "rank_candidates"]
