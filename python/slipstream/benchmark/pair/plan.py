"""What a pair benchmark is asked to do, and which arms its live runs have. Measures nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipstream.base.errors import InvalidRequestError
from slipstream.base.limits import MAX_DRAFT_TOKENS, MAX_THREADS, VERIFY_MODES
from slipstream.base.ranges import check_ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OFF, AGAIN = "off", "off again"
NGRAM = "ngram"
MAX_ROWS_DRAFTED = 32  # drafts of all sequences in one step (engine.llama_runner.MAX_DRAFTS)
MAX_BATCH = 16
CONFIRM = ("best", "all", "none")
PROMPTS_PER_CATEGORY = 3
PROBABILITY_CUTS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """What is measured.

    Attributes:
        num_tokens: Most tokens of an answer; it ends where the model ends it.
        temperatures: Each gets texts and figures of its own.
        gammas: Draft lengths looked at, 0 left aside: that is the arm without drafts.
        batches: Requests at the same time, each gets live runs of its own.
        confirm: Which candidates run live: the `best` by prediction, `all`, or `none`.
        blocks: Times the live runs go through the prompts.
        threads: CPU threads; 0 takes the physical cores.
        repack: Let ggml re-arrange weights, as LoadConfig.
        verify: exact or distribution, as LoadConfig.
        seed: Of random numbers.

    Raises:
        InvalidRequestError: a value is out of its range; `param` names it.
    """

    num_tokens: int = 96
    temperatures: tuple[float, ...] = (0.0,)
    gammas: tuple[int, ...] = tuple(range(1, 9))
    batches: tuple[int, ...] = (1,)
    confirm: str = "best"
    blocks: int = 1
    threads: int = 0
    repack: bool = False
    verify: str = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "num_tokens": (8, 1 << 16),
            "blocks": (1, 1000),
            "threads": (0, MAX_THREADS),
            "seed": (0, 2**32 - 1),
        }
        check_ranges(self, ranges)
        _check_all("temperatures", self.temperatures, 0.0, 10.0)
        _check_all("gammas", self.gammas, 1, MAX_DRAFT_TOKENS)
        _check_all("batches", self.batches, 1, MAX_BATCH)
        for name, choices in (("confirm", CONFIRM), ("verify", VERIFY_MODES)):
            if getattr(self, name) not in choices:
                message = f"{name} is {getattr(self, name)!r}; it must be {', '.join(choices)}"
                raise InvalidRequestError(message, param=name)


def _check_all(name: str, values: Sequence[float], low: float, high: float) -> None:
    if not values or len(set(values)) != len(values):
        message = f"{name} is {list(values)}; it must have at least one value, each once"
        raise InvalidRequestError(message, param=name)
    for value in values:
        if not (math.isfinite(value) and low <= value <= high):
            message = f"{name} has {value}; each must be {low:g} to {high:g}"
            raise InvalidRequestError(message, param=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to run the same requests.

    Attributes:
        name: Unique within a session: "off", "draft 3", "ngram auto", "chain auto" …
        source: As Speculation.source.
        num_tokens: As Speculation.num_tokens; None drafts as many as pay.
    """

    name: str
    source: str
    num_tokens: int | None = None

    def drafter(self, candidate: str) -> str:
        """Return what drafts in a session of a candidate: that one, or n-grams."""
        return NGRAM if self.source == "ngram" else candidate


def arms_of(
    candidate: str, gamma: int, gammas: Sequence[int], ngram_gamma: int | None, batch: int
) -> list[Arm]:
    """Return the arms of a session, the one without drafts twice.

    Args:
        candidate: A draft model's name, or NGRAM for a session without one.
        gamma: The draft length predicted to be best, of the candidate; its neighbours run, too.
        gammas: Draft lengths asked for.
        ngram_gamma: The best length of n-gram drafts; None leaves them out.
        batch: Requests at the same time; drafts of all of them share one step's room.
    """
    most = max(1, MAX_ROWS_DRAFTED // batch)
    arms = [Arm(name=OFF, source="off"), Arm(name=AGAIN, source="off")]
    if candidate != NGRAM:
        place = sorted(gammas).index(gamma)
        near = sorted(gammas)[max(0, place - 1) : place + 2]
        lengths = sorted({min(g, most) for g in near})
        arms += [Arm(name=f"draft {g}", source="draft", num_tokens=g) for g in lengths]
        arms.append(Arm(name="draft auto", source="draft"))
    if ngram_gamma is not None:
        length = min(ngram_gamma, most)
        arms.append(Arm(name=f"ngram {length}", source="ngram", num_tokens=length))
        if candidate == NGRAM:
            arms.append(Arm(name="ngram auto", source="ngram"))
        else:
            arms.append(Arm(name="chain auto", source="auto"))
    return arms


def arm_of(name: str) -> Arm:
    """Return the arm of a name that `arms_of` gave."""
    kind, _, length = name.partition(" ")
    source = {"chain": "auto"}.get(kind, kind)
    return Arm(name=name, source=source, num_tokens=int(length) if length.isdigit() else None)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of arms in the order of reports: no drafts, draft model, n-grams, both, and by length."""
    return sorted(names, key=lambda name: _rank(arm_of(name)))


def _rank(arm: Arm) -> tuple[int, float, str]:
    length = math.inf if arm.num_tokens is None else arm.num_tokens
    return (("off", "draft", "ngram", "auto").index(arm.source), length, arm.name)


def rotated(arms: Sequence[Arm], block: int) -> list[Arm]:
    """Return the arms in the order of one block: a Latin square over blocks, every second one backwards.

    Each arm takes each place equally often, and what an arm leaves behind (heat, a busy neighbour) meets all others.
    """
    place = block // 2 % len(arms)
    order = [*arms[place:], *arms[:place]]
    return order[::-1] if block % 2 else order
