"""Splits what a model says into reasoning, content and tool calls, as it says it. Knows no template and no engine."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from slipstream.base.types import ToolCallDelta
from slipstream.chat.bare_calls import bare_calls, may_be_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slipstream.chat.thinking_head import ThinkingHead

_log = logging.getLogger(__name__)
_REST = 4  # after a parse, no other one for this many times as long
_TAIL_CHARS = 16


class NativeParser(Protocol):
    """What is asked of `_core.OutputParser`."""

    def parse(
        self, text: str, is_last: bool = False
    ) -> tuple[bool, str, str, list[tuple[str, str, str]]]:
        """Split all text so far: whether it has the form, reasoning, content, (id, name, arguments) of calls."""

    def delimiters(self) -> list[str]:
        """Return what can end a run of reasoning or content."""


class ParsedDelta(NamedTuple):
    """What one piece of output adds."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = []  # noqa: RUF012  # never changed


class _Call:
    """A tool call so far: what the reader has been told of it."""

    __slots__ = ("arguments", "call_id", "is_begun")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.arguments = ""
        self.is_begun = False


class OutputParser:
    """Follows one output. One thread at a time.

    ::

        text so far | told to the reader              | held: could be the start of a mark, or white space before one |
                    '-- reasoning, content, calls ----'

    The native parser reads all text from its beginning each time. So it is asked as little as possible: text in the
    middle of a run of reasoning or content, without the first character of anything that could end the run, is added
    to the run as it is; and a parse that has taken long is followed by a rest, in which text gathers. Deltas add up to
    what one parse of the whole text gives, however the text was cut.

    Args:
        native: Of the prompt's form.
        names: What tools are called in the prompt, to what the caller calls them.
        can_think: Whether the form has a place for reasoning; white space before the content belongs to that then.
        has_many: Whether there may be several calls; further ones are left out else.
        head: Takes off thinking the form has no place for any more; None where it has.
        clock: Seconds.

    Attributes:
        has_calls: Whether the reader has been told of a call.
        num_parses: How often the native parser was asked.
    """

    def __init__(
        self,
        native: NativeParser,
        names: Mapping[str, str] | None = None,
        *,
        can_think: bool = False,
        has_many: bool = True,
        head: ThinkingHead | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_calls = False
        self.num_parses = 0
        self._native = native
        self._names = dict(names or {})
        self._can_think = can_think
        self._most_calls = None if has_many else 1
        self._head = head
        self._clock = clock
        self._delimiters = [mark for mark in native.delimiters() if mark]
        first_chars = "".join(sorted({re.escape(mark[0]) for mark in self._delimiters}))
        self._marks = re.compile(f"[{first_chars}]" if first_chars else r"(?!)")
        self._text = ""
        self._reasoning = ""
        self._content = ""
        self._calls: list[_Call] = []
        self._run = ""  # reasoning or content: what further text goes on with; "" for who knows
        self._space = ""  # the end of `_text`, not told yet
        self._next_s = 0.0

    def feed(self, text: str, *, is_last: bool = False) -> ParsedDelta:
        """Take the next piece of output.

        Args:
            text: Whole characters.
            is_last: Nothing follows it.

        Returns:
            What can be told now, maybe nothing; after the last piece, all that was held back.
        """
        if self._head is None:
            return self._read(text, is_last)
        thought, text = self._head.feed(text, is_last=is_last)
        delta = self._read(text, is_last)
        return delta._replace(reasoning=thought + delta.reasoning)

    def _read(self, text: str, is_last: bool) -> ParsedDelta:
        self._text += text
        if not is_last:
            if not text:
                return ParsedDelta()
            if self._run and self._marks.search(text) is None:
                return self._go_on(text)
            self._run, self._space = "", ""
            if self._clock() < self._next_s:
                return ParsedDelta()
        return self._parse(is_last)

    def _go_on(self, text: str) -> ParsedDelta:
        """Add text to the open run, but for white space at its end, which may belong to what ends the run."""
        whole = self._space + text
        told = whole.rstrip()
        self._space = whole[len(told) :]
        if self._run == "content":
            self._content += told
            return ParsedDelta(text=told)
        self._reasoning += told
        return ParsedDelta(reasoning=told)

    def _parse(self, is_last: bool) -> ParsedDelta:
        begin_s = self._clock()
        is_match, reasoning, content, calls = self._native.parse(self._text, is_last)
        if is_last and not is_match:
            _, reasoning, content, calls = self._native.parse(self._text)
            calls = [call for call in calls if _is_object(call[2])]
        if self._names and not (calls or self._content) and may_be_calls(content):
            # Told when it is whole: as calls if that is all it is, else as content.
            found = bare_calls(content, self._names) if is_last else []
            calls, is_match = found, is_match or bool(found)
            content = "" if found or not is_last else content
        del calls[self._most_calls or len(calls) :]
        end_s = self._clock()
        self.num_parses += 1
        self._next_s = end_s + _REST * (end_s - begin_s)
        # White space around reasoning and before calls belongs to the form.
        reasoning = reasoning.strip()
        content = content.lstrip() if self._can_think else content
        content = content.rstrip() if calls or not is_last else content
        new_reasoning = _added(self._reasoning, reasoning)
        new_content = _added(self._content, content)
        self._reasoning += new_reasoning
        self._content += new_content
        deltas = []
        for index, (call_id, name, arguments) in enumerate(calls):
            is_closed = is_last or index < len(calls) - 1
            deltas += self._follow_call(index, call_id, name, arguments, is_closed)
        if is_last and not is_match:
            new_content += self._rest()
        if not (is_last or calls):
            self._open_run(reasoning, content)
        return ParsedDelta(new_content, new_reasoning, deltas)

    def _open_run(self, reasoning: str, content: str) -> None:
        """Note what the end of the text belongs to, if that can be told by the text itself."""
        kind, run, told = (
            ("content", content, self._content)
            if content
            else ("reasoning", reasoning, self._reasoning)
        )
        text = self._text.rstrip()
        if run and run == told and text.endswith(run[-_TAIL_CHARS:]):
            self._run, self._space = kind, self._text[len(text) :]

    def _follow_call(
        self, index: int, call_id: str, name: str, arguments: str, is_closed: bool
    ) -> list[ToolCallDelta]:
        if index == len(self._calls):
            self._calls.append(_Call(""))
        call = self._calls[index]
        deltas = []
        if not call.is_begun:
            # A name may still grow, and a parser of a form with tags puts the brace before the first argument.
            is_sure = name in self._names and not any(
                other != name and other.startswith(name) for other in self._names
            )
            if not name or not (is_closed or is_sure or len(arguments) > 1):
                return []
            call.is_begun = self.has_calls = True
            call.call_id = self._new_id(call_id)
            deltas.append(ToolCallDelta(index, call.call_id, self._names.get(name, name)))
        added = _added(call.arguments, arguments or ("{}" if is_closed else ""))
        if added:
            call.arguments += added
            deltas.append(ToolCallDelta(index, arguments=added))
        return deltas

    def _new_id(self, given: str) -> str:
        """Return the model's own id of a call, if that tells it from the others, else one of 9 digits.

        Nine, as LM Studio gives them and the templates of Mistral's models want them.
        """
        taken = {call.call_id for call in self._calls}
        while not given or given in taken:
            given = f"{secrets.randbelow(10**9):09d}"
        return given

    def _rest(self) -> str:
        """Return, of an output that turned out to have another form, what has not been told: it becomes content."""
        if self.has_calls:
            _log.warning("an output does not go on as a tool call; its end is left out")
            return ""
        told = self._content or self._reasoning
        place = self._text.find(told)
        rest = self._text[place + len(told) :] if place >= 0 else self._text
        if self._reasoning and not self._content:
            bare = rest.lstrip()
            for mark in self._delimiters:
                if bare.startswith(mark):
                    rest = bare[len(mark) :]
        self._content += rest
        return rest


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _added(old: str, new: str) -> str:
    """Return what `new` has behind `old`; nothing while it has not caught up, as parsers trim what is not complete."""
    return new[len(old) :] if new.startswith(old) else ""
