"""What a run has measured so far, put together from its journal. Figures are made of this; nothing here is timed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipstream.benchmark.pair.acceptance import Reading, model_reading, runs_of
from slipstream.benchmark.pair.costs import Costs
from slipstream.benchmark.pair.live import Text
from slipstream.benchmark.pair.plan import NGRAM
from slipstream.benchmark.pair.scan import Control, DraftScan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.pair.journal import Journal

_DRAWS = 8  # replays of a text at a temperature, where being right is a matter of chance
MOST_WAITED = 0.05  # undisturbed runs wait for some 1 %, as threads hand over to one another
TARGET = "target"


@dataclass(slots=True, kw_only=True)
class Block:
    """The arms of one block: the same requests, one arm after the other.

    Attributes:
        candidate: Whose session it was.
        temperature: Of the requests.
        batch: Requests at the same time.
        number: Of the pass through the prompts.
        category: Of the prompts.
        names: Of the prompts; with few of them some stand there twice.
        arms: By name what `live.run_arm` tells, {} where the block failed.
        failed: Why, "" if it did not.
        costs: Of steps of the target and of the draft model, timed before the arms.
    """

    candidate: str
    temperature: float
    batch: int
    number: int
    category: str
    names: list[str]
    arms: dict[str, dict[str, Any]]
    failed: str = ""
    costs: list[dict[str, Any]] = field(default_factory=list)

    def is_disturbed(self, num_threads: int) -> bool:
        """Whether other programs had so much of the processor during some arm that its time says nothing."""
        return any(is_disturbed(run, num_threads) for run in self.arms.values())


@dataclass(slots=True, kw_only=True)
class Measured:
    """Everything measured, by temperature and prompt.

    Attributes:
        texts: What the target said.
        controls: The target over its own texts.
        scans: Each draft model over them.
        ngrams: The n-gram index along them.
        costs: Of steps, of TARGET and of draft models.
        blocks: Live ones.
        skipped: Prompt, and the draft model or step of the run at fault, to why.
        peaks: Session to its peak memory in bytes.
    """

    texts: dict[float, dict[str, Text]] = field(default_factory=dict)
    controls: dict[tuple[float, str], Control] = field(default_factory=dict)
    scans: dict[tuple[str, float, str], DraftScan] = field(default_factory=dict)
    ngrams: dict[tuple[float, str], Reading] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int | None] = field(default_factory=dict)

    @classmethod
    def of(cls, journal: Journal) -> Measured:
        """Read a journal."""
        found = cls()
        for (_, temperature, name), record in journal.items("text"):
            found.texts.setdefault(float(temperature), {})[name] = Text(**record)
        for (_, temperature, name), record in journal.items("control"):
            found.controls[float(temperature), name] = Control(**record)
        for (_, candidate, temperature, name), record in journal.items("scan"):
            found.scans[candidate, float(temperature), name] = DraftScan(**record)
        for (_, temperature, name), record in journal.items("ngram"):
            found.ngrams[float(temperature), name] = Reading(
                tuple(record["runs"]), tuple(record["offers"])
            )
        for (_, model), record in journal.items("costs"):
            found.costs[model] = Costs.of_json(record)
        found.blocks = [Block(**record) for _, record in journal.items("live")]
        found.skipped = {" · ".join(key[1:]): reason for key, reason in journal.items("skipped")}
        found.peaks = {key[1]: value for key, value in journal.items("peak")}
        return found

    def temperatures(self) -> list[float]:
        """Return those that have texts."""
        return sorted(self.texts)

    def categories(self) -> list[str]:
        """Return the categories of the texts, in the order of the prompts."""
        return list(dict.fromkeys(t.category for by in self.texts.values() for t in by.values()))

    def texts_of(self, temperature: float, category: str | None = None) -> list[Text]:
        """Return the texts of a category, of all for None."""
        texts = self.texts.get(temperature, {}).values()
        return [text for text in texts if category is None or text.category == category]

    def is_read(self, candidate: str, temperature: float) -> bool:
        """Whether a candidate has read any text."""
        if candidate == NGRAM:
            return any(key[0] == temperature for key in self.ngrams)
        return any(key[:2] == (candidate, temperature) for key in self.scans)

    def readings(
        self,
        candidate: str,
        text: Text,
        temperature: float,
        cut: float = 0.0,
        *,
        is_drawn: bool = False,
    ) -> list[Reading]:
        """Return a candidate's reading of a text.

        Exact at temperature 0. Above it there are several readings, of which each draws anew what is right.

        Args:
            candidate: A draft model's name, or NGRAM.
            text: Of the target.
            temperature: Of the text.
            cut: Probability below which the draft model stops.
            is_drawn: Drafts are drawn at random and judged by the rejection rule (verify distribution).
        """
        if candidate == NGRAM:
            reading = self.ngrams.get((temperature, text.name))
            return [reading] if reading else []
        scan = self.scans.get((candidate, temperature, text.name))
        if scan is None:
            return []
        if not scan.chances:
            return [model_reading(self.matches(scan, text), scan.confidences, cut)]
        import random

        readings = []
        for draw in range(_DRAWS):
            source = random.Random(draw)
            chances = scan.overlaps if is_drawn else scan.chances
            matches = [source.random() < chance for chance in chances]
            readings.append(model_reading(matches, scan.confidences, cut))
        return readings

    def matches(self, scan: DraftScan, text: Text) -> list[bool]:
        """Return where a draft model's likeliest token is the text's."""
        return [said == is_ for said, is_ in zip(scan.tokens, text.output, strict=True)]


def waited_share(runs: Sequence[dict[str, Any]], num_threads: int) -> float | None:
    """Return how much of the processor time of some runs other programs had; None where it could not be read."""
    waited = [run["waited_s"] for run in runs if run.get("waited_s") is not None]
    if len(waited) < len(runs):
        return None
    return float(sum(waited) / (sum(_wall_s(run) for run in runs) * num_threads))


def _wall_s(run: dict[str, Any]) -> float:
    """Return the seconds of a run in all; those of its tokens leave the first one out."""
    return float(run.get("wall_s", run["seconds"]))


def is_disturbed(run: dict[str, Any], num_threads: int) -> bool:
    """Whether other programs had so much of the processor that the time of a run says nothing."""
    share = waited_share([run], num_threads) if _wall_s(run) > 0 else None
    return share is not None and share > MOST_WAITED


def ngram_reading(proposals: Sequence[Sequence[int]], output: Sequence[int]) -> Reading:
    """Return the reading of n-gram drafts.

    Args:
        proposals: What the index offers before each token of the output.
        output: The text.
    """
    runs = []
    for place, proposal in enumerate(proposals):
        rest = output[place : place + len(proposal)]
        matches = [a == b for a, b in zip(proposal, rest, strict=False)]
        runs.append(runs_of(matches)[0] if matches else 0)
    return Reading(tuple(runs), tuple(len(proposal) for proposal in proposals))


def grouped(texts: Sequence[Text], batch: int) -> list[list[Text]]:
    """Return texts in groups that run at the same time, each of one category, categories taking turns.

    Where a category has fewer texts than a group, it goes round.
    """
    by_category: dict[str, list[Text]] = {}
    for text in texts:
        by_category.setdefault(text.category, []).append(text)
    groups = {
        category: [
            [some[(begin + i) % len(some)] for i in range(batch)]
            for begin in range(0, len(some), batch)
        ]
        for category, some in by_category.items()
    }
    longest = max(map(len, groups.values()), default=0)
    return [group[i] for i in range(longest) for group in groups.values() if i < len(group)]
