"""What the load generator asks: conversations of one or more turns. Knows no server and no clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve import texts

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEM_WORDS = 700
LONG_PROMPT_WORDS = 1500
INTRUDER_WORDS = 3000  # about 4,000 tokens
NUM_INTRUDED = 4
CODE_LINES = 40
NUM_TURNS = 3
TURN_WORDS = 40
INTRUDED_TOKENS = 2048  # more than an intrusion lasts; the driver ends these streams

Message = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One client's chat.

    Attributes:
        turns: What the user says in each turn; an answer comes in between.
        max_tokens: Of each answer. With `ignore_eos` exactly as many.
        label: Which part of the workload it belongs to.
        system: System prompt, "" for none.
        temperature: Of the sampling.
        seed: Of the sampling.
    """

    turns: tuple[str, ...]
    max_tokens: int
    label: str
    system: str = ""
    temperature: float = 0.8
    seed: int = 0

    def opening(self) -> list[Message]:
        """Return the messages before the first turn."""
        return [{"role": "system", "content": self.system}] if self.system else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Conversations to hold, of which all are new for another seed.

    Attributes:
        name: See WORKLOADS.
        conversations: In the order in which they begin.
        intruded: Streams that run already when the conversations begin; only `intrusion` has some.
    """

    name: str
    conversations: tuple[Conversation, ...]
    intruded: tuple[Conversation, ...] = ()

    @property
    def num_requests(self) -> int:
        """Requests that make the figures; each turn is one."""
        return sum(len(conversation.turns) for conversation in self.conversations)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of WORKLOADS: how to make a conversation of it, and what answers it has by default."""

    make: Callable[[Random, dict[str, Any]], Conversation]
    max_tokens: int
    help: str
    shared: Callable[[Random], dict[str, Any]] = field(default=lambda _random: {})


def _ask(
    label: str, max_tokens: int, *turns: str, system: str = "", **sampling: Any
) -> Conversation:
    return Conversation(turns=turns, max_tokens=max_tokens, label=label, system=system, **sampling)


def _short(random: Random, given: dict[str, Any]) -> Conversation:
    return _ask("short", given["max_tokens"], texts.question(random))


def _long_prompt(random: Random, given: dict[str, Any]) -> Conversation:
    text = texts.prose(random, given.get("words", LONG_PROMPT_WORDS))
    label = given.get("label", "long-prompt")
    return _ask(label, given["max_tokens"], f"Summarize these notes.\n\n{text}")


def _shared_prefix(random: Random, given: dict[str, Any]) -> Conversation:
    return _ask(
        "shared-prefix", given["max_tokens"], texts.question(random), system=given["system"]
    )


def _multi_turn(random: Random, given: dict[str, Any]) -> Conversation:
    turns = [
        f"{texts.prose(random, TURN_WORDS)} {texts.question(random)}" for _ in range(NUM_TURNS)
    ]
    return _ask("multi-turn", given["max_tokens"], *turns)


def _copy_edit(random: Random, given: dict[str, Any]) -> Conversation:
    file, name = texts.code_file(random, CODE_LINES)
    turn = (
        f"Rename the function {name} to {name}_v2 in this file. Repeat the whole file with that change, and nothing "
        f"else.\n\n```python\n{file}\n```"
    )
    return _ask("copy-edit", given["max_tokens"], turn, temperature=0.0)


def _creative(random: Random, given: dict[str, Any]) -> Conversation:
    turn = f"Write a long and surprising story about {texts.topic(random)}."
    return _ask("creative", given["max_tokens"], turn)


def _system(random: Random) -> dict[str, Any]:
    return {"system": texts.system_prompt(random, SYSTEM_WORDS)}


def _mixed(random: Random, given: dict[str, Any]) -> Conversation:
    name = random.choices(list(_MIX), weights=list(_MIX.values()))[0]
    kind = _KINDS[name]
    return kind.make(random, {**given, "max_tokens": given.get("most") or kind.max_tokens})


_KINDS = {
    "short": _Kind(_short, 64, "one short question each"),
    "long-prompt": _Kind(_long_prompt, 64, f"a prompt of {LONG_PROMPT_WORDS} words each"),
    "shared-prefix": _Kind(
        _shared_prefix, 32, f"short questions under one {SYSTEM_WORDS}-word system prompt", _system
    ),
    "multi-turn": _Kind(_multi_turn, 32, f"chats of {NUM_TURNS} turns"),
    "copy-edit": _Kind(_copy_edit, 320, f"repeat a file of {CODE_LINES} lines with one change"),
    "creative": _Kind(_creative, 128, "stories; nothing to look up in the prompt"),
    "mixed": _Kind(_mixed, 64, "all of the above, mostly short", _system),
}
_MIX = {
    "short": 10,
    "creative": 4,
    "shared-prefix": 4,
    "multi-turn": 2,
    "long-prompt": 1,
    "copy-edit": 1,
}
_INTRUSION = f"{NUM_INTRUDED} running streams while a prompt of about 4,000 tokens arrives"
WORKLOADS = {name: kind.help for name, kind in _KINDS.items()} | {"intrusion": _INTRUSION}
"""What each workload is, by its name."""


def make_workload(name: str, *, num: int, seed: int = 0, max_tokens: int | None = None) -> Workload:
    """Make a workload.

    Args:
        name: One of WORKLOADS.
        num: Conversations in it; `intrusion` has as many intruders, one after the other.
        seed: Other seeds give other texts of the same shape, which no cache has seen.
        max_tokens: Of each answer; what the workload is made for if None.

    Raises:
        InvalidRequestError: there is no such workload, or a number is below 1.
    """
    if name not in WORKLOADS:
        message = f"{name!r} is no workload; there are {', '.join(WORKLOADS)}"
        raise InvalidRequestError(message, param="workload")
    for param, value in (("num", num), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            message = f"{param} is {value}; it must be at least 1"
            raise InvalidRequestError(message, param=param)
    random = Random(f"{name} {seed}")
    if name == "intrusion":
        return _intrusion(random, num, max_tokens)
    kind = _KINDS[name]
    given = {"max_tokens": max_tokens or kind.max_tokens, "most": max_tokens, **kind.shared(random)}
    return Workload(
        name=name,
        conversations=tuple(_seeded(kind.make(random, given), random) for _ in range(num)),
    )


def _intrusion(random: Random, num: int, max_tokens: int | None) -> Workload:
    given = {"max_tokens": max_tokens or 16, "words": INTRUDER_WORDS, "label": "intruder"}
    streams = [_creative(random, {"max_tokens": INTRUDED_TOKENS}) for _ in range(NUM_INTRUDED)]
    intruders = [_long_prompt(random, given) for _ in range(num)]
    return Workload(
        name="intrusion",
        conversations=tuple(_seeded(intruder, random) for intruder in intruders),
        intruded=tuple(_seeded(stream, random) for stream in streams),
    )


def _seeded(conversation: Conversation, random: Random) -> Conversation:
    return replace(conversation, seed=random.getrandbits(31))
