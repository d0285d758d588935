"""A pair benchmark as JSON values: figures, verdicts and advice with where they come from. Versioned by SCHEMA."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import StoreError
from slipstream.benchmark.pair import verdict
from slipstream.benchmark.pair.acceptance import Acceptance, replay
from slipstream.benchmark.pair.data import TARGET
from slipstream.benchmark.pair.plan import NGRAM, OFF
from slipstream.benchmark.pair.predict import Predictor
from slipstream.benchmark.pair.prompts import digest
from slipstream.benchmark.pair.resources import EnergyMeter
from slipstream.benchmark.report import provenance

if TYPE_CHECKING:
    from slipstream.benchmark.pair.data import Block
    from slipstream.benchmark.pair.predict import Prediction
    from slipstream.benchmark.pair.run import PairRun

SCHEMA = 1  # of report.json; raised when a figure changes its meaning or place
FILE = "report.json"
_NUM_SAMPLES = 3
_ALL = "all"


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
                report["scans"].append(_scan(run, predictor, name, temperature))
        report["live"] += _live(run, predictor, temperature)
    report["recommendation"] = _recommendation(report["live"])
    report["samples"] = _samples(run, predictor, names)
    return report


def write_report(folder: Path, report: dict[str, Any]) -> Path:
    """Write report.json, whole or not at all, and return its path.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / FILE
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        message = f"{path} cannot be written: {error}"
        raise StoreError(message) from error
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
        "verify": {str(n): predictor.verify(n) for n in sorted(target.samples)},
        "draft": {
            name: {str(batch): predictor.draft(name, batch) for batch in run.settings.batches}
            for name in names
        },
        "samples_s": {name: costs.to_json() for name, costs in run.measured.costs.items()},
    }


def _prediction(found: Prediction | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "gamma": found.gamma,
        "cut": found.cut,
        "speedup": found.speedup,
        **_acceptance(found.acceptance),
    }


def _acceptance(found: Acceptance) -> dict[str, Any]:
    return {**asdict(found), "alpha": found.alpha, "tau": found.tau}


def _scan(run: PairRun, predictor: Predictor, name: str, temperature: float) -> dict[str, Any]:
    measured = run.measured
    best = predictor.best(name, temperature)
    assert best is not None
    found: dict[str, Any] = {
        "candidate": name,
        "temperature": temperature,
        "by_gamma": [_prediction(p) for p in predictor.by_gamma(name, temperature)],
        "best": _prediction(best),
        "best_by_batch": {
            str(batch): _prediction(predictor.best(name, temperature, batch))
            for batch in run.settings.batches
        },
        "best_with_cut": None,
        "by_category": {
            category: _prediction(predictor.best(name, temperature, 1, category))
            for category in measured.categories()
        },
        "break_even": verdict.break_even(predictor, run.settings, name, best.acceptance.alpha),
    }
    if name == NGRAM:
        return found
    found["best_with_cut"] = _prediction(predictor.best_cut(name, temperature))
    texts = [
        t for t in measured.texts_of(temperature) if (name, temperature, t.name) in measured.scans
    ]
    scans = [measured.scans[name, temperature, text.name] for text in texts]
    found["calibration"] = _calibration(
        [
            pair
            for scan, text in zip(scans, texts, strict=True)
            for pair in zip(scan.confidences, measured.matches(scan, text), strict=True)
        ]
    )
    found["read_tokens_per_s"] = sum(s.num_read for s in scans) / max(
        1e-9, sum(s.seconds for s in scans)
    )
    if temperature > 0:
        for rule in ("chances", "overlaps", "point"):
            values = [value for scan in scans for value in getattr(scan, rule)]
            found[f"mean_{rule}"] = sum(values) / len(values)
    return found


def _calibration(pairs: list[tuple[float, bool]]) -> list[dict[str, Any]]:
    """Return how often tokens are right by the confidence in them, in tenths."""
    bins: list[list[bool]] = [[] for _ in range(10)]
    for confidence, is_right in pairs:
        bins[min(9, int(confidence * 10))].append(is_right)
    return [
        {"from": i / 10, "to": (i + 1) / 10, "num": len(b), "right": sum(b) / len(b)}
        for i, b in enumerate(bins)
        if b
    ]


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
            aa, floor = verdict.floor_of(whole)
            arms = verdict.arm_figures(whole, floor)
            lossless = verdict.losslessness(measured, whole, temperature, settings.verify)
            found.append(
                {
                    "candidate": candidate,
                    "temperature": temperature,
                    "batch": batch,
                    "num_blocks": len(whole),
                    "failed": {"+".join(b.names): b.failed for b in blocks if b.failed},
                    "noise_floor": {"ratio": asdict(aa), "floor": floor},
                    "baseline_tokens_per_s": _baseline(whole),
                    "arms": [_arm(predictor, candidate, temperature, batch, arm) for arm in arms],
                    "by_category": _by_category(whole, floor),
                    "losslessness": lossless,
                    "doubts": verdict.doubts(whole),
                    "advice": verdict.advice(
                        predictor,
                        settings,
                        candidate,
                        arms,
                        is_lossless=all(arm["is_lossless"] for arm in lossless["arms"].values()),
                    ),
                }
            )
    return found


def _recommendation(lives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the fastest setting of all sessions for each temperature and batch; `use` is None where none is faster."""
    found = []
    for key in dict.fromkeys((live["temperature"], live["batch"]) for live in lives):
        ways = [
            (arm["speedup"]["value"], live["candidate"], arm["name"])
            for live in lives
            if (live["temperature"], live["batch"]) == key
            for arm in live["arms"]
            if arm["verdict"] == verdict.FASTER
            and live["losslessness"]["arms"][arm["name"]]["is_lossless"]
        ]
        value, candidate, name = max(ways, default=(1.0, None, None))
        found.append(
            {
                "temperature": key[0],
                "batch": key[1],
                "candidate": candidate,
                "use": name,
                "speedup": value,
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
            "use": best.name if best.verdict == verdict.FASTER else None,
        }
    return by_category


def _arm(
    predictor: Predictor, candidate: str, temperature: float, batch: int, arm: verdict.ArmFigures
) -> dict[str, Any]:
    kind, _, length = arm.name.partition(" ")
    predicted = None
    if length.isdigit():
        name = NGRAM if kind == NGRAM else candidate
        predicted = predictor.predict(name, temperature, int(length), batch=batch)
    return {
        **asdict(arm),
        "alpha": arm.alpha,
        "predicted": predicted.speedup if predicted else None,
        "predicted_alpha": predicted.acceptance.alpha if predicted else None,
    }


def _samples(run: PairRun, predictor: Predictor, names: list[str]) -> list[dict[str, Any]]:
    """Return a few texts with where each token came from: a draft that was accepted, or the target."""
    measured = run.measured
    found = []
    for name in names[:2]:
        temperature = run.settings.temperatures[0]
        best = predictor.best(name, temperature)
        texts = list({t.category: t for t in reversed(measured.texts_of(temperature))}.values())
        if best is None or temperature > 0:
            continue
        for text in texts[::-1][: _NUM_SAMPLES * 2 : 2]:
            readings = measured.readings(name, text, temperature)
            if not readings:
                continue
            sources = [""]  # the first token comes with the prompt
            for offered, accepted in replay(readings[0], best.gamma, run.settings.num_tokens):
                own = "rejected" if accepted < offered else "target"
                sources += ["accepted"] * accepted + [own]
            sources = sources[: len(text.pieces)]
            found.append(
                {
                    "candidate": name,
                    "prompt": text.name,
                    "gamma": best.gamma,
                    "tokens": list(zip(text.pieces, sources, strict=False)),
                }
            )
    return found
