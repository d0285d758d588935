"""Draws the plots of a pair report as SVG. Takes the report's values; matplotlib is the `plot` extra."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair.plan import arm_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SIZE = (7.2, 3.6)
_OURS = "#2563eb"
_APART = 0.09  # of the arms of one batch
_PALETTE = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")


def is_available() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw_all(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (title, SVG) of every plot the report has figures for. Needs matplotlib."""
    found = []
    for title, draw, is_there in (
        ("Speed-up by draft length, one request at a time", _by_gamma, bool(report["scans"])),
        ("Acceptance by position in the draft", _by_position, bool(report["scans"])),
        ("Speed-up by category", _by_category, bool(report["live"] or report["scans"])),
        ("Speed-up by requests at the same time", _by_batch, _has_batches(report)),
        ("Predicted and measured", _predicted, bool(report["live"])),
        ("What verifying n rows costs, in plain steps", _verify, bool(report["costs"])),
        (
            "Confidence of the draft model and how often it is right",
            _calibration,
            _has_models(report),
        ),
        ("Where the time goes", _time_split, bool(report["live"])),
    ):
        if is_there:
            found.append((title, _svg(draw, report, height=_height(draw, report))))
    return found


def _height(draw: Callable[..., None], report: dict[str, Any]) -> float:
    inches = 0.0
    if draw is _by_category:
        inches = 0.55 * len(_categories(report))
    elif draw is _time_split:
        inches = 0.18 * sum(len(live["arms"]) for live in report["live"])
    return max(_SIZE[1], inches + 1)


def _svg(draw: Callable[..., None], report: dict[str, Any], height: float) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    # Text stays text, so that it can be searched and takes little room; a fixed salt gives the same file each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "slipstream", "font.size": 9}):
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, report)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", metadata={"Date": None}, transparent=True)
    _, tag, rest = drawing.getvalue().partition("<svg")
    return tag + rest


def _names(report: dict[str, Any]) -> list[str]:
    return list(report["candidates"])


def _color(report: dict[str, Any], candidate: str) -> str:
    return _PALETTE[_names(report).index(candidate) % len(_PALETTE)]


def _label(entry: dict[str, Any], report: dict[str, Any]) -> str:
    many = len(report["settings"]["temperatures"]) > 1
    return f"{entry['candidate']}, T={entry['temperature']:g}" if many else f"{entry['candidate']}"


def _style(entry: dict[str, Any], report: dict[str, Any]) -> str:
    place: int = list(report["settings"]["temperatures"]).index(entry["temperature"])
    return ("-", "--", ":", "-.")[place % 4]


def _error(ratio: dict[str, Any]) -> Any:
    """Return the lengths of an error bar, None where there is no interval."""
    if ratio["low"] is None:
        return None
    return [[ratio["value"] - ratio["low"]], [ratio["high"] - ratio["value"]]]


def _point(
    axes: Any, report: dict[str, Any], live: dict[str, Any], x: float, arm: dict[str, Any], marker: str = "o"
) -> None:  # fmt: skip
    """Draw a measured speed-up; hollow at any temperature but the first."""
    ratio = arm["speedup"]
    color = _color(report, arm_of(arm["name"]).drafter(live["candidate"]))
    is_first = live["temperature"] == report["settings"]["temperatures"][0]
    axes.errorbar(
        [x], [ratio["value"]], yerr=_error(ratio), fmt=marker, color=color, capsize=3,
        markerfacecolor=color if is_first else "white",
    )  # fmt: skip


def _load(live: dict[str, Any], report: dict[str, Any]) -> str:
    """Say at which temperature and batch something was measured, as far as there are several."""
    settings, found = report["settings"], ""
    if len(settings["temperatures"]) > 1:
        found += f", T={live['temperature']:g}"
    if len(settings["batches"]) > 1:
        found += f", batch {live['batch']}"
    return found


def _hollow(report: dict[str, Any]) -> str:
    first, *others = report["settings"]["temperatures"]
    return f"; hollow: T other than {first:g}" if others else ""


def _legend(axes: Any) -> None:
    """Tell the colours above the drawing, where no point can lie beneath."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3
        )  # fmt: skip


def _measured(lives: Sequence[dict[str, Any]]) -> str:
    """Say what the bars at measured points are, as far as there are any."""
    ratios = [arm["speedup"] for live in lives for arm in live["arms"]]
    few = [ratio for ratio in ratios if ratio["low"] is None]
    if not few:
        return "measured, 95 % interval"
    if len(few) < len(ratios):
        return "measured, 95 % interval, none below 5 prompts"
    return "measured, no interval below 5 prompts"


def _whole(axes: Any) -> None:
    """Put ticks at whole numbers only."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def _by_gamma(axes: Any, report: dict[str, Any]) -> None:
    for scan in report["scans"]:
        points = [(0, 1.0), *((p["gamma"], p["speedup"]) for p in scan["by_gamma"])]
        color = _color(report, scan["candidate"])
        axes.plot(
            *zip(*points, strict=True), _style(scan, report), color=color,
            label=f"{_label(scan, report)}, by the scan",
        )  # fmt: skip
    for live in report["live"]:
        if live["batch"] != 1:
            continue
        for arm in live["arms"]:
            way = arm_of(arm["name"])
            if way.num_tokens is not None:
                _point(axes, report, live, way.num_tokens, arm)
    axes.axhline(1, color="gray", linewidth=1)
    _whole(axes)
    found = [live for live in report["live"] if live["batch"] == 1]
    axes.set_xlabel(
        "drafts per step" + (f"\npoints: {_measured(found)}{_hollow(report)}" if found else "")
    )
    axes.set_ylabel("times as fast")
    _legend(axes)


def _by_position(axes: Any, report: dict[str, Any]) -> None:
    for scan in report["scans"]:
        longest = scan["by_gamma"][-1]
        places = [(i, b / a, a) for i, (a, b) in enumerate(longest["positions"], 1) if a]
        if not places:
            continue
        x, rates, _ = zip(*places, strict=True)
        color = _color(report, scan["candidate"])
        axes.plot(x, rates, "o" + _style(scan, report), color=color, label=_label(scan, report))
        for place, rate, num in places:
            axes.annotate(
                f"{num}", (place, rate), xytext=(0, 6), textcoords="offset points",
                ha="center", fontsize=7, color=color,
            )  # fmt: skip
    _whole(axes)
    axes.set_xlabel("position (numbers: drafts judged there)")
    axes.set_ylabel("accepted of judged")
    axes.set_ylim(0, 1.1)
    _legend(axes)


def _categories(report: dict[str, Any]) -> list[str]:
    return list(report["prompts"]["by_category"])


def _by_category(axes: Any, report: dict[str, Any]) -> None:
    categories = _categories(report)
    lives = [live for live in report["live"] if live["batch"] == 1][:1]
    if lives:
        (live,) = lives
        categories = [category for category in categories if category in live["by_category"]]
        names = [arm["name"] for arm in live["arms"]]
        for number, name in enumerate(names):
            color = _PALETTE[number % len(_PALETTE)]
            for row, category in enumerate(categories):
                ratio = live["by_category"][category]["arms"][name]
                offset = (number - len(names) / 2) * 0.11
                axes.errorbar(
                    [ratio["value"]], [row + offset], xerr=_error(ratio), fmt="o", markersize=4,
                    color=color, capsize=2, label=name if row == 0 else None,
                )  # fmt: skip
        by_category = [live["by_category"][category] for category in categories]
        kind = "95 % interval" if any(c["has_interval"] for c in by_category) else "no interval"
        few = (
            "" if all(c["has_interval"] for c in by_category) else " below 5 prompts of a category"
        )
        if few and kind != "no interval":
            few = ", none" + few
        axes.set_xlabel(
            f"times as fast, measured, {live['candidate']}{_load(live, report)}; {kind}{few}"
        )
    else:
        for scan in report["scans"]:
            values = [scan["by_category"].get(category) for category in categories]
            points = [(v["speedup"], row) for row, v in enumerate(values) if v]
            if not points:
                continue
            color = _color(report, scan["candidate"])
            axes.plot(*zip(*points, strict=True), "o", color=color, label=_label(scan, report))
        axes.set_xlabel("times as fast, predicted, with the best draft length of each")
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_yticks(range(len(categories)), [c.replace("_", " ") for c in categories])
    axes.invert_yaxis()
    _legend(axes)


def _has_batches(report: dict[str, Any]) -> bool:
    return len(report["settings"]["batches"]) > 1 and bool(report["scans"])


def _by_batch(axes: Any, report: dict[str, Any]) -> None:
    for scan in report["scans"]:
        points = [(int(b), p["speedup"]) for b, p in scan["best_by_batch"].items() if p]
        if not points:
            continue  # an interrupted scan
        color = _color(report, scan["candidate"])
        axes.plot(
            *zip(*points, strict=True), _style(scan, report), color=color,
            label=f"{_label(scan, report)}, by the scan",
        )  # fmt: skip
    for live in report["live"]:
        for number, arm in enumerate(live["arms"]):
            marker = {"draft": "o", "ngram": "s", "auto": "^"}[arm_of(arm["name"]).source]
            x = live["batch"] + _APART * (number - (len(live["arms"]) - 1) / 2)
            _point(axes, report, live, x, arm, marker)
    axes.axhline(1, color="gray", linewidth=1)
    _whole(axes)
    axes.set_xlabel(
        "requests at the same time\ncircle: draft model, square: n-gram, triangle: both"
        f"{_hollow(report)}\n{_measured(report['live'])}"
    )
    axes.set_ylabel("times as fast")
    _legend(axes)


def _predicted(axes: Any, report: dict[str, Any]) -> None:
    values = [1.0]
    for live in report["live"]:
        for arm in live["arms"]:
            if arm["predicted"] is None:
                continue
            _point(axes, report, live, arm["predicted"], arm)
            axes.annotate(
                arm["name"] + (f", batch {live['batch']}" if live["batch"] > 1 else ""),
                (arm["predicted"], arm["speedup"]["value"]), xytext=(6, -3),
                textcoords="offset points", fontsize=6,
            )  # fmt: skip
            values += [arm["predicted"], arm["speedup"]["value"]]
    ends = [min(values) * 0.95, max(values) * 1.05]
    axes.plot(ends, ends, color="gray", linewidth=1)
    axes.set_xlabel(f"predicted, at the costs timed before each block{_hollow(report)}")
    axes.set_ylabel(_measured(report["live"]).replace(", ", "\n", 1))


def _verify(axes: Any, report: dict[str, Any]) -> None:
    points = [(int(n), v) for n, v in report["costs"]["verify"].items()]
    axes.plot(*zip(*points, strict=True), "o-", color=_OURS, label="measured")
    last = points[-1][0]
    axes.plot([1, last], [1, last], ":", color="gray", label="n single steps")
    axes.set_ylim(0, max(v for _, v in points) * 1.15)
    _whole(axes)
    axes.set_xlabel("rows")
    axes.set_ylabel("V(n)")
    _legend(axes)


def _has_models(report: dict[str, Any]) -> bool:
    return any(scan.get("calibration") for scan in report["scans"])


def _calibration(axes: Any, report: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], ":", color="gray")
    for scan in report["scans"]:
        if bins := scan.get("calibration"):
            x = [(b["from"] + b["to"]) / 2 for b in bins]
            color = _color(report, scan["candidate"])
            axes.plot(
                x, [b["right"] for b in bins], "o" + _style(scan, report), color=color,
                label=_label(scan, report),
            )  # fmt: skip
    axes.set_xlabel("probability the draft model gives its token")
    axes.set_ylabel("is the target's token")
    _legend(axes)


def _time_split(axes: Any, report: dict[str, Any]) -> None:
    rows = [
        (
            f"{live['candidate']}: {arm['name']}{_load(live, report)}",
            arm,
        )
        for live in report["live"]
        for arm in live["arms"]
    ]
    for row, (_, arm) in enumerate(rows):
        axes.barh(
            row, arm["draft_share"], color=_PALETTE[1], label="draft model" if not row else None
        )
        axes.barh(
            row, 1 - arm["draft_share"], left=arm["draft_share"], color=_PALETTE[0], alpha=0.5,
            label="target, sampling and the rest" if not row else None,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("share of the time")
    _legend(axes)
