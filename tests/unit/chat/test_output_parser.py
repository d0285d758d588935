"""Outputs are split as they come: nothing twice, nothing lost, and the native parser asked seldom."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from slipstream.chat.output_parser import OutputParser

if TYPE_CHECKING:
    from collections.abc import Iterable

THINK = re.compile(r"<think>(.*?)(</think>|$)", re.DOTALL)
CALL = re.compile(r"<call>(\w+)(\{.*?)(?:</call>|$)", re.DOTALL)


class FakeNative:
    """Knows <think>…</think>content<call>name{…}</call>; another text in a call is no match."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.cost_s = cost_s

    def clock(self) -> float:
        return self.now_s

    def delimiters(self) -> list[str]:
        return ["</think>", "<call>"]

    def parse(
        self, text: str, is_last: bool = False
    ) -> tuple[bool, str, str, list[tuple[str, str, str]]]:
        self.now_s += self.cost_s
        if not is_last and "<think>".startswith(text):
            return True, "", "", []
        thought = THINK.match(text)
        reasoning = _without_partial(thought[1], "</think>") if thought else ""
        rest = text[thought.end() :] if thought else text
        content, mark, behind = rest.partition("<call>")
        found = CALL.finditer(mark + behind)
        calls = [("", m[1], _without_partial(m[2], "</call>")) for m in found]
        is_match = not (is_last and mark and not calls)
        return is_match, reasoning, _without_partial(content, "<call>"), calls


def _without_partial(text: str, mark: str) -> str:
    for length in range(len(mark) - 1, 0, -1):
        if text.endswith(mark[:length]):
            return text[:-length]
    return text


def play(parser: OutputParser, pieces: Iterable[str]) -> tuple[str, str, list[list[str]]]:
    """Return the content, the reasoning and (name, arguments) of the calls that deltas add up to."""
    pieces = list(pieces)
    text = reasoning = ""
    calls: list[list[str]] = []
    for index, piece in enumerate(pieces):
        delta = parser.feed(piece, is_last=index == len(pieces) - 1)
        text += delta.text
        reasoning += delta.reasoning
        for call in delta.tool_calls:
            if call.call_id:
                assert call.index == len(calls), "a call begins once"
                calls.append([call.name, ""])
            calls[call.index][1] += call.arguments
    return text, reasoning, calls


OUTPUTS = [
    "just words, a < b and so on. ",
    "<think>\nhm <b>\n</think>\n\nThe answer. ",
    '<think>x</think>Let me see.\n<call>add{"a": 1}</call><call>now{}</call>',
    "no end <think",
    '<call>add{"a": "cut o',
    "Broken <call> of no form",
    "<think>only thought",
]


@pytest.mark.parametrize("output", OUTPUTS)
def test_however_it_is_cut_it_adds_up_to_the_same(output: str) -> None:
    names = {"add": "add", "now": "now"}
    whole = play(OutputParser(FakeNative(), names, can_think=True), [output])
    for size in (1, 3, 7):
        cut = [output[i : i + size] for i in range(0, len(output), size)]
        assert play(OutputParser(FakeNative(), names, can_think=True), cut) == whole


def test_parts_come_apart_without_the_white_space_of_the_form() -> None:
    parts = play(OutputParser(FakeNative(), can_think=True), [OUTPUTS[2]])
    assert parts == ("Let me see.", "x", [["add", '{"a": 1}'], ["now", "{}"]])


def test_what_is_no_call_stays_text() -> None:
    text, _reasoning, calls = play(OutputParser(FakeNative()), OUTPUTS[5])
    assert (text, calls) == (OUTPUTS[5], [])


def test_plain_text_hardly_costs_a_parse() -> None:
    parser = OutputParser(FakeNative(), can_think=True)
    words = [f"word{i} " for i in range(1000)]
    assert play(parser, words)[0] == "".join(words)
    assert parser.num_parses < 10


def test_after_a_parse_that_took_long_text_gathers() -> None:
    native = FakeNative(cost_s=0.1)
    parser = OutputParser(native, clock=native.clock)
    pieces = ["<call>", "add", *(f'{{"a": {i}' for i in range(1)), *("1" for _ in range(50))]
    for piece in pieces:
        parser.feed(piece)
        native.now_s += 0.01
    assert parser.num_parses <= 3
    assert parser.feed("}", is_last=True).tool_calls


def test_a_name_is_told_when_it_is_whole() -> None:
    native = FakeNative()
    parser = OutputParser(native, {"get": "get", "get_all": "get all"}, clock=native.clock)
    assert not parser.feed("<call>get{").tool_calls, "it may still grow"
    begun = parser.feed('"').tool_calls
    assert [(call.name, call.arguments) for call in begun] == [("get", ""), ("", '{"')]


def test_further_calls_are_left_out_where_one_is_the_most() -> None:
    parser = OutputParser(FakeNative(), has_many=False)
    assert len(play(parser, list("<call>a{}</call><call>b{}</call>"))[2]) == 1


def test_names_come_back_as_the_caller_gave_them_with_ids_of_their_own() -> None:
    parser = OutputParser(FakeNative(), {"get_all": "get all!"})
    delta = parser.feed("<call>get_all{}</call><call>get_all{}</call>", is_last=True)
    begun = [call for call in delta.tool_calls if call.call_id]
    assert [call.name for call in begun] == ["get all!"] * 2
    assert len({call.call_id for call in begun}) == 2
    assert all(re.fullmatch("[0-9]{9}", call.call_id) for call in begun)
    assert json.loads("".join(c.arguments for c in delta.tool_calls if c.index == 1)) == {}


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_calls_as_plain_json_are_calls_and_other_json_is_content(size: int) -> None:
    for output, calls in (
        ('{"name": "add", "arguments": {"a": 1}}', [["plus", '{"a": 1}']]),
        ('{"name": "Ada", "arguments": {"a": 1}}', []),
    ):
        pieces = [output[i : i + size] for i in range(0, len(output), size)]
        parts = play(OutputParser(FakeNative(), {"add": "plus"}), pieces)
        assert parts == ("" if calls else output, "", calls)
