"""A pair benchmark as JSON values: figures, verdicts and advice with where they come from. Versioned by SCHEMA."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.base.files import replace_file
from slipstream.benchmark.pair import verdict
from slipstream.benchmark.pair.advice import advise
from slipstream.benchmark.pair.costs import Costs
from slipstream.benchmark.pair.data import MOST_WAITED, TARGET, waited_share
from slipstream.benchmark.pair.plan import NGRAM, OFF, arm_of
from slipstream.benchmark.pair.predict import Predictor
from slipstream.benchmark.pair.prompts import digest
from slipstream.benchmark.pair.resources import EnergyMeter
from slipstream.benchmark.pair.scan_report import samples_of, scan_of
from slipstream.benchmark.report import provenance

if TYPE_CHECKING:
    from slipstream.benchmark.pair.data import Block
    from slipstream.benchmark.pair.predict import Prediction
    from slipstream.benchmark.pair.run import PairRun

SCHEMA = 2  # of report.json; raised when a figure changes its meaning or place
FILE = "report.json"


def make_report(run: PairRun, *, is_complete: bool) -> dict[str, Any]:
    """Return everything a run has found so far. A run that was interrupted gives what its parts support.

    Args:
        run: After `run`, or after an interruption and `refresh`.
        is_complete: Whether it went to its end.
    """
    measured, settings = run.measured, run.settings
    report: dict[str, Any] = {
        "benchmark": "pair",
        "schema": SCHEMA,
        "is_complete": is_complete,
        **provenance(),
        "settings": asdict(settings),
        "prompts": {
            "digest": digest(run.prompts),
            "by_category": {
                category: sum(p.category == category for p in run.prompts)
                for category in dict.fromkeys(p.category for p in run.prompts)
            },
            "skipped": measured.skipped,
        },
        "target": _file(run.target),
        "candidates": {name: _pair(run, name) for name in run.candidates},
        "energy_is_readable": EnergyMeter().is_readable,
        "peak_memory_bytes": measured.peaks,
        "costs": None,
        "scans": [],
        "live": [],
        "recommendation": [],
        "samples": [],
    }
    if TARGET not in measured.costs:
        return report
    predictor = Predictor(measured, settings)
    names = [name for name in run.candidates if name == NGRAM or name in measured.costs]
    report["costs"] = _costs(run, predictor, names)
    for temperature in measured.temperatures():
        for name in names:
            if measured.is_read(name, temperature):
                report["scans"].append(scan_of(run, predictor, name, temperature))
        report["live"] += _live(run, predictor, temperature)
    report["recommendation"] = _recommendation(report["live"])
    report["samples"] = samples_of(run, predictor, names)
    return report


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    """Write report.json, whole or not at all, and return its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / FILE
    replace_file(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return path


def _file(path: str) -> dict[str, Any]:
    """Return what a report says of a model: its file's name, not its folder, and what its weights are stored in."""
    from slipstream.models.gguf import check_model_file

    header = check_model_file(path)
    sizes: dict[str, int] = {}
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + tensor.size_bytes
    return {
        "file": Path(path).name,
        "name": header.name,
        "architecture": header.architecture,
        "size_bytes": Path(path).stat().st_size,
        "weight_bytes": dict(sorted(sizes.items(), key=lambda item: -item[1])),
    }


def _pair(run: PairRun, name: str) -> dict[str, Any]:
    if name == NGRAM:
        return {"kind": NGRAM}
    return {"kind": "draft model", **_file(run.drafts[name]), "pair": run.pairs[name]}


def _costs(run: PairRun, predictor: Predictor, names: list[str]) -> dict[str, Any]:
    target = run.measured.costs[TARGET]
    return {
        "step_s": predictor.step_s,
        "overhead": predictor.overhead,
        "waited": max(costs.waited or 0.0 for costs in run.measured.costs.values()),
        "verify": {str(n): predictor.verify(n) for n in sorted(target.samples)},
        "draft": {
            name: {str(batch): predictor.draft(name, batch) for batch in run.settings.batches}
            for name in names
        },
        "prefill_tokens_per_s": {
            name: costs.prefill_tokens_per_s for name, costs in run.measured.costs.items()
        },
        "samples_s": {name: costs.to_json() for name, costs in run.measured.costs.items()},
    }


def _live(run: PairRun, predictor: Predictor, temperature: float) -> list[dict[str, Any]]:
    measured, settings = run.measured, run.settings
    found = []
    for candidate in run.candidates:
        for batch in settings.batches:
            blocks = [
                b
                for b in measured.blocks
                if (b.candidate, b.temperature, b.batch) == (candidate, temperature, batch)
            ]
            whole = [b for b in blocks if b.arms]
            if not whole:
                continue
            # Times are those of blocks nobody disturbed, if there are any; outputs count whatever the clock said.
            timed = [b for b in whole if not b.is_disturbed(run.num_threads)] or whole
            aa, floor = verdict.floor_of(timed)
            arms = verdict.arm_figures(timed, floor)
            lossless = verdict.losslessness(measured, whole, temperature, settings.verify)
            found.append(
                {
                    "candidate": candidate,
                    "temperature": temperature,
                    "batch": batch,
                    "num_blocks": len(timed),
                    "num_disturbed": len(whole) - len(timed),
                    "failed": {"+".join(b.names): b.failed for b in blocks if b.failed},
                    "noise_floor": {"ratio": asdict(aa), "floor": floor},
                    "waited_share": waited_share(
                        [arm for block in timed for arm in block.arms.values()], run.num_threads
                    ),
                    "baseline_tokens_per_s": _baseline(timed),
                    "drift": _drift(predictor, timed),
                    "arms": [_arm(predictor, timed, arm) for arm in arms],
                    "by_category": _by_category(timed, floor),
                    "losslessness": lossless,
                    "doubts": verdict.doubts(whole),
                    "advice": advise(
                        predictor,
                        settings,
                        candidate,
                        arms,
                        batch=batch,
                        is_lossless=all(arm["is_lossless"] for arm in lossless["arms"].values()),
                    ),
                }
            )
    return found


def _recommendation(lives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fastest setting of all sessions for each temperature and batch; `use` is None where none is faster."""
    found = []
    for key in dict.fromkeys((live["temperature"], live["batch"]) for live in lives):
        sessions = [live for live in lives if (live["temperature"], live["batch"]) == key]
        ways = [
            (live, arm)
            for live in sessions
            for arm in live["arms"]
            if arm["verdict"] == verdict.FASTER
            and live["losslessness"]["arms"][arm["name"]]["is_lossless"]
        ]
        live, arm = max(
            ways, key=lambda way: way[1]["speedup"]["value"], default=(sessions[0], None)
        )
        doubts = []
        if live["noise_floor"]["ratio"]["low"] is None:
            doubts.append("fewer than 5 prompts or groups of them, so no interval")
        if (live["waited_share"] or 0.0) > MOST_WAITED:
            doubts.append("other programs disturbed every block")
        found.append(
            {
                "temperature": key[0],
                "batch": key[1],
                "candidate": live["candidate"] if arm else None,
                "use": arm["name"] if arm else None,
                "speedup": arm["speedup"]["value"] if arm else 1.0,
                "doubts": doubts,
            }
        )
    return found


def _baseline(blocks: list[Block]) -> float:
    runs = [block.arms[OFF] for block in blocks]
    return float(sum(run["num_tokens"] for run in runs) / sum(run["seconds"] for run in runs))


def _by_category(blocks: list[Block], floor: float) -> dict[str, Any]:
    by_category = {}
    for category in dict.fromkeys(block.category for block in blocks):
        arms = verdict.arm_figures([b for b in blocks if b.category == category], floor)
        best = max(arms, key=lambda arm: arm.speedup.value)
        by_category[category] = {
            "arms": {arm.name: {**asdict(arm.speedup), "verdict": arm.verdict} for arm in arms},
            "best": best.name,
            "has_interval": best.speedup.low is not None,
            "use": best.name if best.verdict == verdict.FASTER else None,
        }
    return by_category


def _predicted(predictor: Predictor, blocks: list[Block], name: str) -> Prediction | None:
    """Return what is predicted for an arm in these very blocks; None if its draft length varies."""
    arm, first = arm_of(name), blocks[0]
    if arm.num_tokens is None:
        return None
    candidate = arm.drafter(first.candidate)
    return predictor.predict(
        candidate, first.temperature, arm.num_tokens, batch=first.batch, blocks=blocks
    )


def _arm(predictor: Predictor, blocks: list[Block], arm: verdict.ArmFigures) -> dict[str, Any]:
    predicted = _predicted(predictor, blocks, arm.name)
    return {
        **asdict(arm),
        "alpha": arm.alpha,
        "predicted": predicted.speedup if predicted else None,
        "predicted_alpha": predicted.acceptance.alpha if predicted else None,
    }


def _drift(predictor: Predictor, blocks: list[Block]) -> float:
    """Return how much faster plain steps were along with the blocks than when costs were timed for the scan."""
    steps = [Costs.of_json(block.costs[0]).step_s for block in blocks]
    return predictor.step_s / statistics.mean(steps) - 1
