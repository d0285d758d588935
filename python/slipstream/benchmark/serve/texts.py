"""Prompt texts of the load generator, made from seeded pieces. The same seed gives the same text everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_PEOPLE = (
    "the harbour master", "a young surveyor", "the night nurse", "our baker", "the retired pilot",
    "a travelling clerk", "the school cook", "an old glazier", "the new tenant", "a patient librarian",
)  # fmt: skip
_ACTS = (
    "repaired", "described", "measured", "forgot", "carried", "borrowed", "painted", "recorded",
    "questioned", "sorted", "delivered", "unpacked",
)  # fmt: skip
_THINGS = (
    "a brass compass", "the ferry timetable", "three crates of pears", "the broken barometer",
    "a box of letters", "the town archive", "a bicycle lamp", "the winter budget", "a jar of screws",
    "the tide tables", "an oil portrait", "the east stairwell",
)  # fmt: skip
_TIMES = (
    "before sunrise", "after the storm", "during the long meeting", "on the last Friday of March",
    "while the kettle boiled", "between two trains", "in the quiet season", "without telling anyone",
)  # fmt: skip
_RULES = (
    "Answer in plain words and keep to the point.",
    "When a figure is uncertain, say how it was obtained.",
    "Never promise a date that the office has not confirmed.",
    "Prefer a short list to a long paragraph.",
    "Name the form a visitor needs before you explain it.",
    "If two rules disagree, the newer one holds.",
    "Ask one question back when the wish is unclear.",
    "Quote prices with the tax included.",
)
_TOPICS = (
    "a lighthouse keeper who collects sounds", "two rival clockmakers", "a map that is never finished",
    "the last tram of the year", "a garden on a roof", "a letter that arrives late", "a quiet orchestra",
    "an island with one road", "a dog who knows the tides", "a museum of lost keys",
)  # fmt: skip
_QUESTIONS = (
    "Why do bridges have gaps between their plates?", "How does a tide clock work?",
    "What should I check before buying a used bicycle?", "Why does bread go stale faster in a fridge?",
    "How do I keep a diary for more than a week?", "What makes some paints dry faster than others?",
    "How are ferry routes planned?", "What is the use of a glossary in a contract?",
    "How do I store apples over the winter?", "Why do old windows rattle?",
)  # fmt: skip
_NOUNS = (
    "price", "weight", "width", "offset", "score", "volume", "delay", "margin", "height", "limit",
    "stock", "rate",
)  # fmt: skip
_VERBS = ("scale", "clamp", "adjust", "round", "shift", "check", "blend", "reduce")


def sentence(random: Random) -> str:
    """One sentence of about twelve words."""
    time = random.choice(_TIMES)
    who, act, thing = random.choice(_PEOPLE), random.choice(_ACTS), random.choice(_THINGS)
    number = random.randint(2, 999)
    return f"{time[0].upper()}{time[1:]}, {who} {act} {thing} under entry {number}."


def prose(random: Random, num_words: int) -> str:
    """Sentences with `num_words` words in all; the last one may be cut."""
    words: list[str] = []
    while len(words) < num_words:
        words += sentence(random).split()
    return " ".join(words[:num_words])


def system_prompt(random: Random, num_words: int) -> str:
    """Instructions of an office's assistant and the notes it works with, `num_words` words in all."""
    rules = random.sample(_RULES, len(_RULES))
    head = f"You are the assistant of office {random.randint(1000, 9999)}. {' '.join(rules)} Notes of the office:"
    return f"{head} {prose(random, num_words - len(head.split()))}"


def question(random: Random) -> str:
    """A short question anybody might ask, with a number that makes it one of its own."""
    return f"{random.choice(_QUESTIONS)} Answer for visitor {random.randint(100, 99999)}."


def topic(random: Random) -> str:
    """What a story is to be about."""
    return f"{random.choice(_TOPICS)}, in the year {random.randint(1700, 2200)}"


def code_file(random: Random, num_lines: int) -> tuple[str, str]:
    """A Python file of small functions.

    Args:
        random: Chooses names and numbers.
        num_lines: How long it is; 8 and a multiple of 8 end with a whole function.

    Returns:
        The file and the name of its first function.
    """
    lines = ['"""Small helpers for the stock ledger."""', "", "import math", ""]
    names = random.sample(_NOUNS, 4)
    lines += [f"MAX_{noun.upper()} = {random.randint(1000, 99999)}" for noun in names]
    first = ""
    while len(lines) < num_lines:
        verb, noun, number = random.choice(_VERBS), random.choice(_NOUNS), random.randint(2, 99)
        name = f"{verb}_{noun}_{random.randint(10, 99)}"
        first = first or name
        lines += [
            "",
            "",
            f"def {name}({noun}, factor={number}):",
            f'    """Return the {noun} after the {verb} rule."""',
            f"    if {noun} is None or math.isnan({noun}):",
            f"        return {random.randint(0, 9)}.0",
            f"    result = {noun} * factor + {random.randint(1, 500)}",
            f"    return min(result, {random.randint(1000, 9999)})",
        ]
    return "\n".join(lines[:num_lines]), first
