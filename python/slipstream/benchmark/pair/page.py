"""The pair report as one HTML file that needs nothing else: advice, tables, plots, coloured samples."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from slipstream.base.files import replace_file
from slipstream.benchmark.pair import plots, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FILE = "report.html"
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--dim:#777}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}
table{display:block;overflow-x:auto;border-collapse:collapse;white-space:nowrap;margin:.6rem 0;
font-variant-numeric:tabular-nums}
td,th{padding:.2rem .55rem;border-bottom:1px solid var(--line);text-align:right}
td:first-child,th:first-child{text-align:left}
.advice{border:1px solid var(--line);border-left:6px solid #2563eb;border-radius:6px;padding:.6rem 1rem;margin:1rem 0}
.no{border-left-color:#dc2626}.dim{color:var(--dim)}
.plots{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,31rem),1fr))}
.plots figure{margin:0;background:#fff;border:1px solid var(--line);border-radius:6px;overflow-x:auto}
.plots figcaption{color:#222;padding:.4rem .8rem;font-weight:600}.plots svg{width:100%;min-width:30rem;height:auto}
pre.sample{white-space:pre-wrap;border:1px solid var(--line);border-radius:6px;padding:.7rem}
.accepted{background:#16a34a44}.rejected{background:#dc262644}.target{background:none}
"""


def write_page(folder: Path, report: dict[str, Any]) -> Path:
    """Write report.html, whole or not at all, and return its path. Without matplotlib it has no plots and says so.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder / FILE
    replace_file(path, make_page(report).encode())
    return path


def make_page(report: dict[str, Any]) -> str:
    """Return the page of a report; every text of a model, a file or a user is escaped."""
    title = f"Drafting for {report['target']['file']}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">{escape(words.origin(report))}</p>',
    ]
    if not report["is_complete"]:
        parts.append("<p><b>The run was interrupted; this is what it had found by then.</b></p>")
    parts += [f"<p><b>{escape(line)}</b></p>" for line in words.recommendation(report)]
    parts += [_advice(live) for live in report["live"]]
    if not report["live"]:
        parts.append("<p>Nothing was run live; what follows is predicted.</p>")
    parts += ["<h2>Measured</h2>", *(_live(live) for live in report["live"])]
    parts += ["<h2>By category</h2>", *(_categories(live) for live in report["live"])]
    parts += ["<h2>Predicted from the scan</h2>", _scans(report), _costs(report)]
    parts.append("<h2>Plots</h2>")
    if plots.is_available():
        figures = "".join(
            f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
            for name, svg in plots.draw_all(report)
        )
        parts.append(f'<div class="plots">{figures}</div>')
    else:
        parts.append("<p>pip install 'slipstream[plot]' and --resume draw them.</p>")
    parts += ["<h2>Is the output the same?</h2>", *(_lossless(live) for live in report["live"])]
    parts += ["<h2>Samples</h2>", _samples(report)]
    parts += ["<h2>Models and prompts</h2>", _models(report), _remarks(report)]
    return "\n".join(parts) + "\n</html>\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(c)}</th>' for c in head)}</tr>{lines}</table>"


def _advice(live: dict[str, Any]) -> str:
    kind = "advice" if live["advice"]["use"] else "advice no"
    lines = "".join(f"<p>{escape(line)}</p>" for line in words.advice(live))
    return f'<div class="{kind}"><b>{escape(words.title(live))}</b>{lines}</div>'


def _live(live: dict[str, Any]) -> str:
    notes = "".join(f"<p>{escape(note)}</p>" for note in words.notes(live))
    return (
        f"<h3>{escape(words.title(live))}</h3>"
        + _table(words.LIVE_HEAD, words.live_rows(live))
        + notes
    )


def _categories(live: dict[str, Any]) -> str:
    names = [arm["name"] for arm in live["arms"]]
    head = ["category", *names, "use"]
    rows = [
        [
            category.replace("_", " "),
            *(words.ratio(found["arms"][name]) for name in names),
            found["use"] or "off",
        ]
        for category, found in live["by_category"].items()
    ]
    note = f'<p class="dim">{escape(words.by_category(live))}</p>'
    return f"<h3>{escape(words.title(live))}</h3>" + _table(head, rows) + note


def _scans(report: dict[str, Any]) -> str:
    return _table(words.SCAN_HEAD, words.scan_rows(report))


def _costs(report: dict[str, Any]) -> str:
    return f"<p>{escape(words.costs(report))}</p>" if report["costs"] else ""


def _lossless(live: dict[str, Any]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in words.lossless(live))
    return f"<h3>{escape(words.title(live))}</h3><ul>{lines}</ul>"


def _samples(report: dict[str, Any]) -> str:
    parts = [
        "<p>Green: drafted and accepted. Red: the target's own token after a wrong draft. Plain: the target's own.</p>"
    ]
    for sample in report["samples"]:
        text = "".join(
            f'<span class="{escape(source)}">{escape(piece)}</span>'
            for piece, source in sample["tokens"]
        )
        name = f"{sample['candidate']}, {sample['gamma']} drafts, {sample['prompt']}"
        parts.append(f'<h3>{escape(name)}</h3><pre class="sample">{text}</pre>')
    return "".join(parts)


def _models(report: dict[str, Any]) -> str:
    memory = "".join(f"<p>{escape(line)}</p>" for line in words.memory(report))
    return _table(words.MODEL_HEAD, words.model_rows(report)) + memory


def _remarks(report: dict[str, Any]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in words.remarks(report))
