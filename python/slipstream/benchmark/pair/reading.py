"""Reads the texts with every model, and times their steps: the part of a run without requests."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import (
    ContextCreateError,
    DecodeError,
    InvalidRequestError,
    ModelLoadError,
)
from slipstream.benchmark.pair import costs
from slipstream.benchmark.pair.data import MOST_WAITED, TARGET, Measured, ngram_reading
from slipstream.benchmark.pair.live import LEAST_CONTEXT, load_config
from slipstream.benchmark.pair.plan import MAX_ROWS_DRAFTED
from slipstream.benchmark.pair.resources import waited_s, waited_since
from slipstream.benchmark.pair.scan import MAX_ROWS, DraftReader, read_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.benchmark.pair.journal import Journal
    from slipstream.benchmark.pair.live import Text
    from slipstream.benchmark.pair.plan import PairSettings
    from slipstream.benchmark.pair.run import PairRun
    from slipstream.native import Context, Model

_MAX_BATCH = 512


def read_all(run: PairRun, journal: Journal, step: Callable[..., None]) -> None:
    """Read every text that has not been read with each model, and time the models that have not been timed.

    A draft model that fails is named and left out; the target must not fail.

    Args:
        run: Whose.
        journal: Gets what is measured.
        step: Called with what runs, and the expected seconds that are done.

    Raises:
        InvalidRequestError: the target is of a kind that nothing can draft for.
        SlipstreamError: the target fails.
    """
    measured = run.measured
    texts = [(t, text) for t, by_name in measured.texts.items() for text in by_name.values()]
    if run.ngram:
        _read_ngrams(texts, journal, run.settings.gammas)
    if all(_is_done(journal, texts, name) for name in (TARGET, *run.drafts)):
        return
    _read_texts(run, texts, journal, step)
    untimed = [n for n in run.drafts if not _is_timed(journal, n) and ("skipped", n) not in journal]
    for name in untimed:
        _time(name, run, journal, step)
    # The target is timed along with draft models; alone where there is none.
    if ("costs", TARGET) not in journal or not (untimed or _is_timed(journal, TARGET)):
        _time(TARGET, run, journal, step)


def _read_texts(
    run: PairRun, texts: list[tuple[float, Text]], journal: Journal, step: Callable[..., None]
) -> None:
    from slipstream.native import Model

    longest = max(len(text.prompt) + len(text.output) for _, text in texts)
    target = Model(run.target, repack=run.settings.repack)
    with closing(target):
        context = _context(target, run.settings, longest)
        with closing(context):
            _read_controls(context, texts, journal, run, step)
            for name in run.drafts:
                if not _is_done(journal, texts, name):
                    step(f"{name}: reading")
                    _read_draft(name, target, context, texts, journal, run, step)


def _is_done(journal: Journal, texts: list[tuple[float, Text]], name: str) -> bool:
    if name == TARGET:
        keys: list[tuple[str, ...]] = [("control", str(t), text.name) for t, text in texts]
    elif ("skipped", name) in journal:
        return True
    else:
        keys = [("scan", name, str(t), text.name) for t, text in texts]
    return _is_timed(journal, name) and all(key in journal for key in keys)


def _is_timed(journal: Journal, name: str) -> bool:
    """Whether the steps of a model were timed and nobody disturbed that."""
    return _waited(journal, name) <= MOST_WAITED


def _waited(journal: Journal, name: str) -> float:
    """Return how much of the processor time others had meanwhile; endless where nothing was timed."""
    record = journal.get(("costs", name))
    return math.inf if record is None else record["waited"] or 0.0


def _keep(journal: Journal, name: str, found: costs.Costs) -> None:
    """Keep what was timed, unless it was more disturbed than what is there."""
    if (found.waited or 0.0) < _waited(journal, name):
        journal.add(("costs", name), found.to_json())


def _sizes(settings: PairSettings) -> list[int]:
    return costs.sizes_of(
        settings.gammas, settings.batches, max(settings.batches) + MAX_ROWS_DRAFTED
    )


def _context(model: Model, settings: PairSettings, longest: int) -> Context:
    from slipstream.native import Context

    return Context(
        model,
        n_ctx=longest + 8,
        n_batch=_MAX_BATCH,
        n_outputs_max=MAX_ROWS,
        n_threads=settings.threads,
    )


def _read_ngrams(
    texts: list[tuple[float, Text]], journal: Journal, gammas: tuple[int, ...]
) -> None:
    from slipstream.native import NgramIndex

    for temperature, text in texts:
        key = ("ngram", str(temperature), text.name)
        if key in journal:
            continue
        index = NgramIndex()
        index.append(text.prompt)
        proposals = []
        for token in text.output:
            proposals.append(index.propose(max(gammas))[1])
            index.append([token])
        reading = ngram_reading(proposals, text.output)
        journal.add(key, {"runs": reading.runs, "offers": reading.offers})


def _read_controls(
    context: Context,
    texts: list[tuple[float, Text]],
    journal: Journal,
    run: PairRun,
    step: Callable[..., None],
) -> None:
    num_rows = max(run.settings.gammas) + 1
    for temperature, text in texts:
        key = ("control", str(temperature), text.name)
        if key not in journal:
            step(f"target again: {text.name}")
            control = read_target(context, text.prompt, text.output, temperature, num_rows)
            journal.add(key, asdict(control))
            step(f"target again: {text.name}", run.scan_s)


def _read_draft(
    name: str,
    target: Model,
    target_context: Context,
    texts: list[tuple[float, Text]],
    journal: Journal,
    run: PairRun,
    step: Callable[..., None],
) -> None:
    from slipstream.native import Model, compare_vocabularies

    controls = Measured.of(journal).controls
    draft: Any = None
    context: Any = None
    try:
        draft = Model(run.drafts[name], repack=run.settings.repack)
        vocab_map = compare_vocabularies(target, draft)
        spelled = max(len(vocab_map.to_draft([*text.prompt, *text.output])) for _, text in texts)
        context = _context(draft, run.settings, spelled + 1)
        context.share_threads(target_context)
        reader = DraftReader(context, vocab_map)
        for temperature, text in texts:
            key = ("scan", name, str(temperature), text.name)
            if key in journal:
                continue
            step(f"{name}: {text.name}")
            distributions = controls[temperature, text.name].distributions
            scan = reader.read(text.prompt, text.output, distributions, temperature)
            journal.add(key, asdict(scan))
            step(f"{name}: {text.name}", run.scan_s)
    except (ModelLoadError, ContextCreateError, DecodeError) as error:
        journal.add(("skipped", name), str(error))
    finally:
        for part in (context, draft):
            if part is not None:
                part.close()


def _time(name: str, run: PairRun, journal: Journal, step: Callable[..., None]) -> None:
    """Time the steps of the target and of a draft model as the engine runs them; the target alone by its own name."""
    from slipstream.engine.llama_runner import LlamaRunner

    settings = run.settings
    draft = run.drafts.get(name)
    config = load_config(draft, settings, LEAST_CONTEXT, max(settings.batches))
    step(f"timing {name}: loading")
    try:
        runner = LlamaRunner.load(run.target, config)
        with closing(runner):
            if not runner.info.max_drafts:
                message = (
                    f"nothing can draft for {run.target}: it keeps a running state that rejected "
                    "drafts cannot leave"
                )
                raise InvalidRequestError(message, param="target")
            runner.settle()
            before, begin_s = waited_s(), time.perf_counter()
            target, drafter = costs.measure(
                runner,
                _sizes(settings),
                settings.batches,
                settings.temperatures[0],
                lambda done, total: step(f"timing {name}: {done}/{total}"),
            )
            lost_s, seconds = waited_since(before), time.perf_counter() - begin_s
            waited = None if lost_s is None else lost_s / (seconds * run.num_threads)
    except (ModelLoadError, ContextCreateError, DecodeError) as error:
        if draft is None:
            raise
        journal.add(("skipped", name), str(error))
        return
    for key, found in ((TARGET, target), (name, drafter)):
        if found is not None and not _is_timed(journal, key):
            _keep(journal, key, replace(found, waited=waited))
