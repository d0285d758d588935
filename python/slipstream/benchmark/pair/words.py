"""A pair report in words and table cells, for the terminal and the page alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair.plan import NGRAM, arm_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVE_HEAD = (
    "arm", "times as fast", "verdict", "predicted", "tok/s", "accepted of judged",
    "tokens per step", "drafted", "accepted", "rejected", "ignored", "slower on", "draft time", "J/token",
)  # fmt: skip
SCAN_HEAD = (
    "candidate", "temperature", "best length", "times as fast", "accepted of judged", "tokens per step",
    "c", "prefill c", "break-even acceptance", "with probability cut",
)  # fmt: skip
MODEL_HEAD = ("model", "file", "size", "weights", "shared tokens", "bytes read beside target")
_NONE = "-"
_NOISY = 0.1  # of the noise floor
_BUSY = 0.05  # of the processor time, had by other programs


def ratio(value: dict[str, Any]) -> str:
    """Return a ratio with its 95 % interval where there is one."""
    if value["low"] is None:
        return f"{value['value']:.2f}"
    return f"{value['value']:.2f} ({value['low']:.2f} … {value['high']:.2f})"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0%}"


def _number(value: float | None, form: str = ".2f") -> str:
    return _NONE if value is None else format(value, form)


def origin(report: dict[str, Any]) -> str:
    """Return where and when a report comes from."""
    machine, settings = report["machine"], report["settings"]
    num_prompts = sum(report["prompts"]["by_category"].values())
    return (
        f"{machine['cpu']}, {machine['physical_cores']} cores, {report['time'][:10]}, "
        f"slipstream {report['slipstream']} ({report['commit'] or 'no checkout'}); {num_prompts} prompts "
        f"({report['prompts']['digest']}), up to {settings['num_tokens']} tokens"
    )


def recommendation(report: dict[str, Any]) -> Iterator[str]:
    """Yield the setting to use for each temperature and number of requests."""
    for found in report["recommendation"]:
        load = f"Temperature {found['temperature']:g}, {found['batch']} at a time"
        doubts = f" In doubt: {'; '.join(found['doubts'])}." if found["doubts"] else ""
        if found["use"] is None:
            yield f"{load}: no drafts; nothing measured is faster.{doubts}"
        else:
            name = arm_of(found["use"]).drafter(found["candidate"])
            model = "" if name == NGRAM else f", draft model {name}"
            use = f"{setting(found['use'])}{model}, {found['speedup']:.2f} times as fast"
            yield f"{load}: {use}.{doubts}"


def title(live: dict[str, Any]) -> str:
    """Return what a live session is headed by."""
    return f"{live['candidate']}, temperature {live['temperature']:g}, batch {live['batch']}"


def advice(live: dict[str, Any]) -> list[str]:
    """Return what to do, why, and what would have to change."""
    found = live["advice"]
    if found["use"]:
        how = f"Use {setting(found['use'])}: {found['why']}."
    else:
        how = f"Do not use this draft: {found['why']}."
        if live["candidate"] == NGRAM:
            how = f"Leave n-gram drafts off: {found['why']}."
    lines = [how]
    most = found["most"]
    alpha, needed = found["alpha"], found["break_even_alpha"]
    if needed is None:
        lines.append(
            f"Not even perfect drafts would pay: c = {found['c']:.2f} and V leave {most['speedup']:.2f} times at best."
        )
    elif alpha is not None:
        lines.append(
            f"{alpha:.0%} of the judged drafts were right; by the measured costs drafts pay from {needed:.0%} on, and "
            f"perfect ones would be {most['speedup']:.2f} times as fast ({most['gamma']} a step)."
        )
    if not found["use"] and alpha is not None:
        lines.append(_changes(found))
    return lines


def _changes(found: dict[str, Any]) -> str:
    """Say what c and V would have to be, everything else as it is."""
    parts = []
    if found["c"] > 0:
        limit = found["break_even_c"]
        parts.append(
            "no draft model is cheap enough at this acceptance"
            if limit is None
            else f"a draft token may cost {limit:.2f} plain steps (it costs {found['c']:.2f})"
        )
    rows = found["break_even_rows"]
    if rows is None:
        parts.append("no verification is cheap enough")
    else:
        parts.append(
            f"verifying {rows['num_rows']} rows may cost {rows['limit']:.2f} plain steps "
            f"(it costs {rows['measured']:.2f})"
        )
    if found["break_even_alpha"] is not None:
        parts.append(f"acceptance has to be above {found['break_even_alpha']:.0%}")
    return "For it to pay by these costs, one of: " + "; ".join(parts) + "."


def setting(arm: str) -> str:
    """Return how an arm is asked for."""
    way = arm_of(arm)
    if way.num_tokens is None:
        return f"{arm} (--speculation {way.source})"
    return f"{arm} (Speculation(source={way.source!r}, num_tokens={way.num_tokens}))"


def live_rows(live: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the cells of LIVE_HEAD."""
    yield ["off", "1.00", "", "", f"{live['baseline_tokens_per_s']:.1f}", *([""] * 9)]
    aa = live["noise_floor"]["ratio"]
    yield ["off again", ratio(aa), f"noise floor ±{live['noise_floor']['floor']:.0%}", *([""] * 11)]
    for arm in live["arms"]:
        yield [
            arm["name"],
            ratio(arm["speedup"]),
            arm["verdict"],
            _number(arm["predicted"]),
            f"{arm['tokens_per_s']:.1f}",
            _share(arm["alpha"]),
            f"{arm['tau']:.2f}",
            f"{arm['drafted']}",
            f"{arm['accepted']}",
            f"{arm['rejected']}",
            f"{arm['ignored']}",
            _share(arm["slower_share"]),
            _share(arm["draft_share"]),
            _number(arm["joules_per_token"]),
        ]


def _blocks(num: int) -> str:
    return "1 block" if num == 1 else f"{num} blocks"


def notes(live: dict[str, Any]) -> list[str]:
    """Return what has to be known beside the table."""
    found = [f"{_blocks(live['num_blocks'])}, each with all arms in turns."]
    if live["num_disturbed"]:
        found.append(
            f"Left out, as other programs disturbed them: {_blocks(live['num_disturbed'])}; --resume measures them "
            "again."
        )
    if live["noise_floor"]["ratio"]["low"] is None:
        found.append("Fewer than 5 blocks: no intervals.")
    floor = live["noise_floor"]["floor"]
    waited = live["waited_share"]
    if waited is not None and waited > _BUSY:
        found.append(
            f"Doubt: the machine was busy. Other programs kept this one waiting for {waited:.0%} of its processor time."
        )
    if floor > _NOISY:
        found.append(
            f"Doubt: two equal arms differ by up to {floor:.0%}; only larger gains can be seen. Measure again on a "
            "quiet machine, or with more --blocks."
        )
    drift = live["drift"]
    if abs(drift) > _NOISY:
        found.append(
            f"Doubt: plain steps ran {drift:+.0%} against when costs were timed for the scan. The machine has changed "
            "its speed, so what the scan foretells may be off. The predictions here have costs timed before each block."
        )
    found += [f"Doubt: {doubt}." for doubt in live["doubts"]]
    found += [f"Failed: {names}: {why}" for names, why in live["failed"].items()]
    return found


def by_category(live: dict[str, Any]) -> str:
    """Return the setting to use for each category, and what is known too little about to have an interval."""
    found = live["by_category"]
    uses = [f"{name} {category['use'] or 'off'}" for name, category in found.items()]
    few = [name for name, category in found.items() if not category["has_interval"]]
    note = f". Fewer than 5 prompts, so no interval: {', '.join(few)}" if few else ""
    return f"By category: {', '.join(uses)}{note}."


def memory(report: dict[str, Any]) -> Iterator[str]:
    """Yield the peak memory of the live runs."""
    for name, size in report["peak_memory_bytes"].items():
        if size is not None:
            yield f"Peak memory with {name}: {size / 1e6:.0f} MB, mapped weights included."


def scan_rows(report: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the cells of SCAN_HEAD."""
    for scan in report["scans"]:
        best, cut = scan["best"], scan["best_with_cut"]
        yield [
            scan["candidate"],
            f"{scan['temperature']:g}",
            str(best["gamma"]),
            f"{best['speedup']:.2f}",
            _share(best["alpha"]),
            f"{best['tau']:.2f}",
            f"{scan['break_even']['c']:.2f}",
            _number(_prefill_cost(report, scan["candidate"])),
            _share(scan["break_even"]["break_even_alpha"]),
            f"{cut['gamma']} drafts, p ≥ {cut['cut']:g}: {cut['speedup']:.2f}" if cut else _NONE,
        ]


def _prefill_cost(report: dict[str, Any], candidate: str) -> float | None:
    """Return what a candidate takes to read a prompt, beside the target; None for n-grams."""
    speeds = report["costs"]["prefill_tokens_per_s"]
    return speeds["target"] / speeds[candidate] if speeds.get(candidate) else None


def costs(report: dict[str, Any]) -> str:
    """Return the measured costs of steps in a sentence."""
    found = report["costs"]
    rows = ", ".join(
        f"V({n}) = {v:.2f}" for n, v in found["verify"].items() if int(n) in (2, 4, 8, 16, 32)
    )
    waited = found["waited"] or 0.0
    doubt = (
        f" Doubt: other programs had {waited:.0%} of the processor time meanwhile; --resume times them again."
        if waited > _BUSY
        else ""
    )
    return (
        f"A plain step takes {found['step_s'] * 1e3:.1f} ms in the model, and the engine adds {found['overhead']:.0%}. "
        f"In plain steps: {rows}.{doubt}"
    )


def lossless(live: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each arm."""
    found = live["losslessness"]
    for name, arm in found["arms"].items():
        same = f"{name}: {arm['num_identical']} of {arm['num_outputs']} outputs are the target's token for token"
        if "p" in arm:
            tail = "" if arm["p"] is None else f"; two-sample test p = {arm['p']:.3f}"
            yield same + tail
            continue
        parts = [same]
        if arm["num_ties"]:
            parts.append(f"{arm['num_ties']} part at a tie")
        for d in arm["defects"]:
            parts.append(f"DEFECT: {d['prompt']} at token {d['token']}, gap {d['gap']:.3f}")
        yield "; ".join(parts)
    noise = found["noise"]
    yield (
        f"A tie is a gap of up to {noise['limit']:.4f} between the two best logits: twice the largest change, "
        f"{noise['largest']:.4f}, that the target shows without drafts at {noise['num_positions']} positions when it "
        "computes several rows at a time"
    )


def remarks(report: dict[str, Any]) -> Iterator[str]:
    """Yield what was left out and why, and what is odd about a pair: tokens that differ, BOS and EOS, contexts."""
    for name, why in report["prompts"]["skipped"].items():
        yield f"Skipped: {name}: {why}"
    for name, found in report["candidates"].items():
        pair = found.get("pair", {})
        if pair.get("num_different"):
            shown = "; ".join(
                f"id {d['id']} is {d['target']!r} in the target and {d['draft']!r} here"
                for d in pair["differences"]
            )
            yield f"{name}: {pair['num_different']} tokens differ: {shown}"
        for warning in pair.get("warnings", []):
            yield f"{name}: {warning}"


def model_rows(report: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the cells of MODEL_HEAD."""
    models = {"target": report["target"], **report["candidates"]}
    for name, found in models.items():
        if "file" not in found:
            continue
        total = sum(found["weight_bytes"].values())
        weights = ", ".join(
            f"{t} {size / total:.0%}" for t, size in list(found["weight_bytes"].items())[:3]
        )
        pair = found.get("pair")
        shared = f"{pair['num_shared']} of {pair['num_draft_tokens']}" if pair else ""
        yield [
            name,
            found["file"],
            f"{found['size_bytes'] / 1e6:.0f} MB",
            weights,
            shared,
            f"{pair['cost_ratio']:.0%}" if pair else "",
        ]
