"""A pair benchmark from beginning to end: texts, scans, costs, live blocks, everything measured journalled."""

from __future__ import annotations

import codecs
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import (
    ContextCreateError,
    DecodeError,
    InvalidRequestError,
    ModelLoadError,
    SlipstreamError,
)
from slipstream.base.types import GenerationSpec, Speculation
from slipstream.benchmark.pair import live
from slipstream.benchmark.pair.compatibility import check_pair
from slipstream.benchmark.pair.data import TARGET, Block, Measured, grouped, is_disturbed
from slipstream.benchmark.pair.estimate import Estimate
from slipstream.benchmark.pair.journal import Journal
from slipstream.benchmark.pair.plan import NGRAM, PairSettings, arm_of, arms_of, in_order, rotated
from slipstream.benchmark.pair.predict import Predictor
from slipstream.benchmark.pair.prompts import PairPrompt, digest
from slipstream.benchmark.pair.reading import read_all
from slipstream.benchmark.pair.resources import EnergyMeter, peak_memory_bytes, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from slipstream.benchmark.pair.live import Text
    from slipstream.benchmark.pair.plan import Arm
    from slipstream.runtime.host import EngineHost

_LEAST_TOKENS = 4  # of an answer: shorter ones have next to nothing to draft
_TRIES = 3  # of an arm that other programs disturb


class PairRun:
    """One run. One thread; Ctrl-C ends it anywhere, and `resume` goes on.

    Args:
        target: Path of the target.
        drafts: Paths of draft models.
        prompts: See `prompts.load_prompts`.
        settings: What to measure.
        folder: Gets the journal.
        ngram: Look at n-gram drafts, too.
        resume: Go on with the journal there.
        progress: Called with what runs, and how much of the expected seconds is done and in all.

    Raises:
        InvalidRequestError: there is nothing to compare, or the journal is another run's.
        DraftModelError: a draft model cannot draft for the target.
        ModelLoadError: a file is no usable model.
        StoreError: the folder cannot be written.

    Attributes:
        measured: What there is so far.
        pairs: By candidate what `check_pair` told.
    """

    def __init__(
        self,
        target: str,
        drafts: Sequence[str],
        prompts: Sequence[PairPrompt],
        settings: PairSettings,
        folder: Path,
        *,
        ngram: bool = True,
        resume: bool = False,
        progress: Callable[[str, int, int], None] = lambda _title, _done, _total: None,
    ) -> None:
        if not drafts and not ngram:
            message = "there is nothing to compare: give a draft model, or n-grams"
            raise InvalidRequestError(message, param="draft")
        self.target = target
        self.drafts = named(drafts)
        self.settings = settings
        self.prompts = list(prompts)
        self.ngram = ngram
        self.pairs = {name: check_pair(target, path) for name, path in self.drafts.items()}
        self._progress = progress
        self._journal = Journal(folder, self._identity(), resume=resume)
        self.measured = Measured.of(self._journal)
        self._estimate = Estimate(settings, self.prompts, len(self.drafts), ngram=ngram)

    @property
    def candidates(self) -> list[str]:
        """Names of what may draft."""
        return [*self.drafts, *([NGRAM] if self.ngram else [])]

    @property
    def num_threads(self) -> int:
        """Threads that compute."""
        from slipstream.native import default_threads

        return self.settings.threads or default_threads()

    @property
    def scan_s(self) -> float:
        """Expected seconds of reading one text."""
        return self._estimate.scan_s

    def _identity(self) -> dict[str, Any]:
        from slipstream.native import Model, build_info

        models = {}
        for name, path in ((TARGET, self.target), *self.drafts.items()):
            model = Model(path, vocab_only=True)
            models[name] = {"file": Path(path).name, "fingerprint": str(model.fingerprint)}
            model.close()
        return {
            "models": models,
            "prompts": digest(self.prompts),
            "ngram": self.ngram,
            "settings": asdict(self.settings),
            "version": version("slipstream"),
            "kernels": build_info()["kernels"],
        }

    def run(
        self,
        tell: Callable[[float], None] = lambda _seconds: None,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure what is missing.

        Args:
            tell: Called once the target is loaded with the seconds that is expected to take.
            checkpoint: Called after every stage, with `measured` up to date: a report can be made of it.

        Raises:
            InvalidRequestError: no prompt gives a text to measure.
            SlipstreamError: the target fails.
        """
        self._write_texts(tell)
        self.refresh()
        if not any(self.measured.texts.values()):
            reasons = "; ".join(f"{name}: {why}" for name, why in self.measured.skipped.items())
            message = f"no prompt gives a text to measure: {reasons[:400]}"
            raise InvalidRequestError(message, param="prompts")
        read_all(self, self._journal, self._step)
        self.refresh()
        if self.settings.confirm != "none":
            for index, candidate in enumerate(self.confirmed()):
                checkpoint()
                self._session(candidate, with_ngrams=self.ngram and index == 0)
                self.refresh()

    def refresh(self) -> None:
        """Bring `measured` up to date, after an interruption."""
        self.measured = Measured.of(self._journal)

    def close(self) -> None:
        """Close the journal. Idempotent."""
        self._journal.close()

    def confirmed(self) -> list[str]:
        """Return the candidates that run live: draft models by predicted speed, n-grams where there are none."""
        measured, first = self.measured, self.settings.temperatures[0]
        predictor = Predictor(measured, self.settings)
        best = {name: predictor.best(name, first) for name in self.drafts if name in measured.costs}
        ranked = sorted(
            (name for name, found in best.items() if found),
            key=lambda name: -best[name].speedup,  # type: ignore[union-attr]  # filtered above
        )
        if not ranked:
            return [NGRAM] if self.ngram else []
        return ranked if self.settings.confirm == "all" else ranked[:1]

    def _step(self, title: str, seconds: float = 0.0) -> None:
        done, total = self._estimate.add(seconds)
        self._progress(title, round(done), round(total))

    # --- the target's texts ---------------------------------------------------------------------------------------

    def _write_texts(self, tell: Callable[[float], None]) -> None:
        settings = self.settings
        missing = [
            (temperature, index, prompt)
            for temperature in settings.temperatures
            for index, prompt in enumerate(self.prompts)
            if ("text", str(temperature), prompt.name) not in self._journal
            and ("skipped", prompt.name) not in self._journal
        ]
        host = live.load_host(self.target, None, settings, 0, 1)
        try:
            self._estimate.learn(host.stats().step_cost_curve)
            self._count_done()
            tell(self._estimate.seconds_left)
            for temperature, index, prompt in missing:
                self._step(f"target: {prompt.name}")
                self._write_text(host, temperature, index, prompt)
        finally:
            host.close()

    def _count_done(self) -> None:
        """Count what an earlier run has done as done."""
        estimate, measured = self._estimate, self.measured
        num_texts = sum(map(len, measured.texts.values())) + len(measured.skipped)
        estimate.add(num_texts * estimate.text_s)
        estimate.add((len(measured.controls) + len(measured.scans)) * estimate.scan_s)
        for block in measured.blocks:
            block_s = len(block.arms) * estimate.arm_s + estimate.timing_s
            estimate.add(block_s * len(block.names))

    def _write_text(
        self, host: EngineHost, temperature: float, index: int, prompt: PairPrompt
    ) -> None:
        settings = self.settings
        spec = GenerationSpec(request_id="prompt", messages=list(prompt.messages))
        try:
            made = host.prompt(spec)
            room = host.info.max_sequence_length
            if len(made.token_ids) + settings.num_tokens > room:
                why = (
                    f"{len(made.token_ids)} prompt and {settings.num_tokens} output tokens do not fit a context of "
                    f"{room}"
                )
                self._journal.add(("skipped", prompt.name), why)
                return
            text = live.Text(
                name=prompt.name,
                category=prompt.category,
                prompt=made.token_ids,
                stop=made.stop,
                seed=settings.seed * 1_000_003 + index,
            )
            before = host.stats()
            results, wall_s = live.run(
                host, [text], settings, temperature, Speculation(source="off"), logprobs=2
            )
            after = host.stats()
        except (InvalidRequestError, DecodeError) as error:
            self._journal.add(("skipped", prompt.name), str(error))
            return
        (result,) = results
        if len(result.token_ids) < _LEAST_TOKENS:
            why = f"the answer ended after {len(result.token_ids)} tokens"
            self._journal.add(("skipped", prompt.name), why)
            return
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text.output = result.token_ids
        num_steps = max(1, after.num_steps_total - before.num_steps_total)
        own_s = wall_s - (after.step_s_total - before.step_s_total)
        text.overhead_s = max(0.0, own_s) / num_steps
        for token in result.logprobs or []:
            text.gaps.append(token.top[0][2] - token.top[1][2])
            text.pieces.append(decoder.decode(token.piece))
        self._journal.add(("text", str(temperature), prompt.name), asdict(text))
        self._step(f"target: {prompt.name}", self._estimate.text_s)

    # --- live -----------------------------------------------------------------------------------------------------

    def _session(self, candidate: str, *, with_ngrams: bool) -> None:
        """Run the blocks of one candidate that are missing."""
        todo = list(self._todo(candidate, with_ngrams))
        if not todo:
            return
        measured, settings = self.measured, self.settings
        longest = max(len(t.prompt) for by in measured.texts.values() for t in by.values())
        most = max(settings.batches)
        context = max(live.LEAST_CONTEXT, 256 * (most * (longest + settings.num_tokens) // 256 + 2))
        reset_peak_memory()
        self._step(f"{candidate}: loading")
        try:
            host = live.load_host(self.target, self.drafts.get(candidate), settings, context, most)
        except (ModelLoadError, ContextCreateError) as error:
            self._journal.add(("skipped", candidate, "live"), str(error))
            return
        meter = EnergyMeter()
        try:
            live.warm_up(host, todo[0][3], settings, settings.temperatures[0])
            for key, temperature, batch, texts, arms in todo:
                self._block(host, meter, key, temperature, batch, texts, arms)
        finally:
            peaks = [peak_memory_bytes(), self._journal.get(("peak", candidate))]
            self._journal.add(("peak", candidate), max(filter(None, peaks), default=None))
            host.close()

    def _todo(
        self, candidate: str, with_ngrams: bool
    ) -> Iterator[tuple[tuple[str, ...], float, int, list[Text], list[Arm]]]:
        """Yield the blocks of a candidate that are not in the journal, in an order that mixes the categories."""
        measured, settings = self.measured, self.settings
        predictor = Predictor(measured, settings)
        for temperature in measured.temperatures():
            for batch in settings.batches:
                own = predictor.best(candidate, temperature, batch)
                if own is None:
                    continue
                ngram = predictor.best(NGRAM, temperature, batch) if with_ngrams else None
                arms = self._earlier_arms(candidate, temperature, batch) or arms_of(
                    candidate, own.gamma, settings.gammas, ngram.gamma if ngram else None, batch
                )
                groups = grouped(measured.texts_of(temperature), batch)
                for number in range(settings.blocks):
                    for place, texts in enumerate(groups):
                        names = "+".join(text.name for text in texts)
                        key = ("live", candidate, str(temperature), str(batch), str(number), names)
                        if self._is_missing(key):
                            order = rotated(arms, place + number)
                            yield key, temperature, batch, texts, order

    def _earlier_arms(self, candidate: str, temperature: float, batch: int) -> list[Arm]:
        """Return the arms of blocks measured before, whatever costs tell now: they are compared with each other."""
        session = (candidate, temperature, batch)
        for block in self.measured.blocks:
            if block.arms and (block.candidate, block.temperature, block.batch) == session:
                return [arm_of(name) for name in in_order(block.arms)]
        return []

    def _block(
        self,
        host: EngineHost,
        meter: EnergyMeter,
        key: tuple[str, ...],
        temperature: float,
        batch: int,
        texts: list[Text],
        arms: Sequence[Arm],
    ) -> None:
        """Run the arms of one block. Only a whole one is kept, as its arms belong together."""
        record: dict[str, Any] = {
            "candidate": key[1],
            "temperature": temperature,
            "batch": batch,
            "number": int(key[4]),
            "category": texts[0].category,
            "names": [text.name for text in texts],
            "arms": {},
        }
        try:
            self._step(f"{key[1]}: {texts[0].name}, timing")
            record["costs"] = live.time_steps(host, texts, arms, temperature)
            live.warm_up(host, texts, self.settings, temperature)
            self._step(f"{key[1]}: {texts[0].name}", self._estimate.timing_s * len(texts))
            for arm in arms:
                self._step(f"{key[1]}: {texts[0].name}, batch {batch}, {arm.name}")
                record["arms"][arm.name] = self._run_arm(host, meter, texts, arm, temperature)
                if record["arms"][arm.name]["num_tokens"] < 1:
                    record.update(arms={}, failed=f"the answer of {arm.name} ended at once")
                    break
                self._step(f"{key[1]}: {texts[0].name}", self._estimate.arm_s * len(texts))
        except SlipstreamError as error:
            record.update(arms={}, failed=f"{type(error).__name__}: {error}")
        self._journal.add(key, record)

    def _is_missing(self, key: tuple[str, ...]) -> bool:
        """Whether a block has to be measured: it was not yet, or other programs disturbed it."""
        record = self._journal.get(key)
        return record is None or Block(**record).is_disturbed(self.num_threads)

    def _run_arm(
        self, host: EngineHost, meter: EnergyMeter, texts: list[Text], arm: Arm, temperature: float
    ) -> dict[str, Any]:
        """Run an arm, again where other programs disturbed it, and return the run that waited least for them.

        That chooses by what others did, not by how fast the arm was.
        """
        runs: list[dict[str, Any]] = []
        while not runs or (len(runs) < _TRIES and is_disturbed(runs[-1], self.num_threads)):
            runs.append(live.run_arm(host, texts, arm, self.settings, temperature, meter))
        return min(runs, key=lambda run: run["waited_s"] or 0.0)


def named(paths: Sequence[str]) -> dict[str, str]:
    """Return the paths by the names of their files, told apart by their folders where those are the same."""
    found: dict[str, str] = {}
    for path in paths:
        name = Path(path).stem
        if name in found:
            name = f"{Path(path).parent.name}/{name}"
        if name in found or name in (NGRAM, TARGET):
            message = f"draft model {path} cannot be told apart from another one; give each its own file name, once"
            raise InvalidRequestError(message, param="draft")
        found[name] = path
    return found
