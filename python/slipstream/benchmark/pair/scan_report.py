"""The scan's part of a pair report: what each candidate would do, and texts with where their tokens came from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair.acceptance import Acceptance, replay
from slipstream.benchmark.pair.advice import break_even
from slipstream.benchmark.pair.plan import NGRAM
from slipstream.benchmark.pair.predict import fastest

if TYPE_CHECKING:
    from slipstream.benchmark.pair.predict import Prediction, Predictor
    from slipstream.benchmark.pair.run import PairRun

_NUM_SAMPLES = 3


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


def scan_of(run: PairRun, predictor: Predictor, name: str, temperature: float) -> dict[str, Any]:
    """Return what a candidate would do at a temperature, by its reading of the texts."""
    measured = run.measured
    by_gamma = predictor.by_gamma(name, temperature)
    best = fastest(by_gamma)
    assert best is not None
    found: dict[str, Any] = {
        "candidate": name,
        "temperature": temperature,
        "by_gamma": [_prediction(p) for p in by_gamma],
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
        "break_even": break_even(predictor, run.settings, name, best.acceptance.alpha),
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


def samples_of(run: PairRun, predictor: Predictor, names: list[str]) -> list[dict[str, Any]]:
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
