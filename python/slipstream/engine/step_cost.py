"""Measures what small steps cost when a model is loaded, and keeps that and what its steps teach. Knows no requests."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipstream.base.config import home
from slipstream.base.errors import SlipstreamError, StoreError
from slipstream.base.files import replace_file
from slipstream.base.sampling import SamplingParams
from slipstream.engine.runner import ScheduledSequence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from slipstream.engine.runner import ModelRunner

_log = logging.getLogger(__name__)
ROWS = (1, 2, 4, 8)  # T(n) bends there, and drafts are priced there
BUDGET_S = 1.5
_REPETITIONS = 3
_STALE = 1.15  # times as long as now: measured while the machine did something else, too
_MAX_MODEL_BYTES = 4 << 30  # a larger one takes longer than the budget to be read once
_NO_CHOICE = SamplingParams(temperature=0.0, seed=0)

StepCosts = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class KnownCosts:
    """What earlier loads have left.

    Attributes:
        key: What the costs depend on, as JSON values.
        costs: (rows, seconds), as the next load begins with them.
        written_s: When, in seconds since the epoch.
    """

    key: dict[str, Any]
    costs: StepCosts
    written_s: float


def step_costs(
    runner: ModelRunner,
    key: Mapping[str, object],
    *,
    model_bytes: int,
    max_rows: int,
    clock: Callable[[], float] = time.monotonic,
) -> StepCosts:
    """Return (rows, seconds) of steps, from disk or else measured, small ones then; nothing for a huge model at first.

    What is on disk is measured again if its smallest step was slower than it is now. Not if it was quicker: only other
    work makes a step slower, and that of now passes, too. A huge model takes too long for either.

    Args:
        runner: Idle, its memory empty. It is idle and empty again afterwards.
        key: Everything the costs depend on.
        model_bytes: Size of the weights.
        max_rows: Most tokens that can be sampled in one step.
        clock: Seconds.
    """
    known = _read(_path(key))
    costs = known.costs if known else []
    if model_bytes > _MAX_MODEL_BYTES:
        return costs
    if not costs or _is_outdone(runner, costs[0], clock):
        costs = measure(runner, max_rows, clock)
        if costs:
            keep_costs(key, costs)
    return costs


def keep_costs(key: Mapping[str, object], costs: StepCosts) -> None:
    """Keep costs for the next load; a folder that cannot be written to only costs the time to learn them again.

    Args:
        key: Everything they depend on.
        costs: (rows, seconds) by rising rows; see CostModel.worth_keeping.
    """
    content = json.dumps({"key": dict(key), "rows": costs}, default=str)
    try:
        replace_file(_path(key), content.encode())
    except StoreError as error:
        _log.debug("step costs cannot be kept: %s", error)


def latest_costs(key: Mapping[str, object]) -> KnownCosts | None:
    """Return what was written last of all that agrees with `key`, which may name a part of what costs depend on."""
    wanted = json.loads(json.dumps(key, default=str)).items()
    found = (_read(path) for path in _folder().glob("*.json"))
    fitting = [known for known in found if known and wanted <= known.key.items()]
    return max(fitting, key=lambda known: known.written_s, default=None)


def measure(
    runner: ModelRunner,
    max_rows: int,
    clock: Callable[[], float] = time.monotonic,
    budget_s: float = BUDGET_S,
) -> StepCosts:
    """Time steps of 1, 2, 4 and 8 sequences with a token each, the quickest of three after a warm-up.

    The quickest, as whatever else the machine does only adds to it. No step is begun that would end after `budget_s`
    if it took as long as the one before, so that a slow machine measures fewer sizes.
    """
    info = runner.info
    most = min(info.max_num_seqs, info.max_batch_tokens, info.num_kv_cells, max_rows)
    deadline = clock() + budget_s
    costs: StepCosts = []
    latest_s = 0.0
    try:
        for num_rows in [n for n in ROWS if n <= most]:
            samples: list[float] = []
            for _ in range(_REPETITIONS + 1):
                if clock() + latest_s > deadline:
                    break
                latest_s = _time_step(runner, num_rows, clock)
                samples.append(latest_s)
            if len(samples) < 2:
                break  # the first step alone says little: it reads weights from disk
            costs.append((num_rows, min(samples[1:])))
    except SlipstreamError as error:
        _log.warning("the cost of a step cannot be measured: %s", error)
    return costs


def _is_outdone(runner: ModelRunner, cost: tuple[int, float], clock: Callable[[], float]) -> bool:
    """Tell whether a step is clearly quicker now than it once was. Takes as long as a few of them."""
    num_rows, seconds = cost
    try:
        quickest_s = min(_time_step(runner, num_rows, clock) for _ in range(_REPETITIONS))
    except SlipstreamError as error:
        _log.warning("the cost of a step cannot be measured: %s", error)
        return False
    return quickest_s * _STALE < seconds


def _time_step(runner: ModelRunner, num_rows: int, clock: Callable[[], float]) -> float:
    """Return the seconds of one step of `num_rows` sequences with one token each, sampled."""
    seq_ids = range(num_rows)
    try:
        for seq_id in seq_ids:
            runner.open_sequence(seq_id, _NO_CHOICE, [0])
        scheduled = [ScheduledSequence(seq_id, 0, [0], True) for seq_id in seq_ids]
        begin_s = clock()
        runner.step(scheduled)
        return clock() - begin_s
    finally:
        for seq_id in seq_ids:
            runner.close_sequence(seq_id)
            runner.trim(seq_id, 0)


def _folder() -> Path:
    return home() / "cache" / "step-costs"


def _path(key: Mapping[str, object]) -> Path:
    text = json.dumps(key, sort_keys=True, default=str)
    return _folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def _read(path: Path) -> KnownCosts | None:
    """Return what a file holds; None if there is nothing usable."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        costs = [(int(num_rows), float(seconds)) for num_rows, seconds in content["rows"]]
        known = KnownCosts(dict(content["key"]), costs, path.stat().st_mtime)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    sound = all(n >= 1 and math.isfinite(seconds) and seconds > 0 for n, seconds in costs)
    return known if costs and sound else None
