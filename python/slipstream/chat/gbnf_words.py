"""The texts that what a GBNF grammar describes can begin with. Knows the part of GBNF that llama.cpp writes."""

from __future__ import annotations

import json
import re

_MAX_WORDS = 256
_MAX_DEPTH = 32
_RULE = re.compile(r"^([\w-]+) ::= (.*)$", re.MULTILINE)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{[\d,]*\}|[\w-]+|\S')
_REPEATS = "*?{"  # what may be left out

# A text, and whether nothing but text can be there up to its end.
_Word = tuple[str, bool]


def first_words(grammar: str) -> tuple[str, ...]:
    """Return texts one of which everything the grammar allows begins with; none of them begins with another.

    Args:
        grammar: With a rule `root`.

    Returns:
        Nothing if something can begin with what is no fixed text, or there are too many.
    """
    rules = {name: _TOKEN.findall(body) for name, body in _RULE.findall(grammar)}
    found = _Reader(rules).words("root", 0)
    if len(found) > _MAX_WORDS:
        return ()
    shortest: list[str] = []
    for text in sorted({text for text, _ in found}):  # a beginning comes before what it begins
        if not (shortest and text.startswith(shortest[-1])):
            shortest.append(text)
    return tuple(shortest) if all(shortest) else ()


class _Reader:
    """Follows rules from their beginnings.

    Args:
        rules: Name to tokens.
    """

    def __init__(self, rules: dict[str, list[str]]) -> None:
        self._rules = rules

    def words(self, rule: str, depth: int) -> list[_Word]:
        tokens = self._rules.get(rule)
        if tokens is None or depth > _MAX_DEPTH:
            return [("", False)]
        words, _ = self._choice(tokens, 0, depth)
        return [("", False)] if ("", True) in words else words

    def _choice(self, tokens: list[str], place: int, depth: int) -> tuple[list[_Word], int]:
        """Return the words of the alternatives from `place` on, and the place behind them."""
        found: list[_Word] = []
        while True:
            words, place = self._sequence(tokens, place, depth)
            found += words
            if place >= len(tokens) or tokens[place] == ")":
                return found, place
            place += 1

    def _sequence(self, tokens: list[str], place: int, depth: int) -> tuple[list[_Word], int]:
        words: list[_Word] = [("", True)]
        while place < len(tokens) and tokens[place] not in ("|", ")"):
            token = tokens[place]
            if token == "(":
                item, place = self._choice(tokens, place + 1, depth)
            elif token.startswith('"'):
                item = [(json.loads(token), True)]
            elif token[0].isalnum():
                item = self.words(token, depth + 1) if any(whole for _, whole in words) else []
            else:  # a class of characters
                item = [("", False)]
            place += 1
            sign = tokens[place] if place < len(tokens) else ""
            if sign and sign[0] in _REPEATS + "+":
                place += 1
                item = [("", False)] if sign != "+" else [(text, False) for text, _ in item]
            words = _joined(words, item)
        return words, place


def _joined(words: list[_Word], item: list[_Word]) -> list[_Word]:
    made: list[_Word] = []
    for text, is_whole in words:
        made += [(text + more, whole) for more, whole in item] if is_whole else [(text, False)]
    return list(dict.fromkeys(made))[: _MAX_WORDS + 1]
