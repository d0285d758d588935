"""Thinking that a model begins though its prompt has ended it."""

from __future__ import annotations

import pytest

from slipstream.base.output_rules import ThinkingTags
from slipstream.chat.thinking_head import ThinkingHead

THINK = ThinkingTags(start="<think>\n", ends=("\n</think>\n\n",))


def fed(pieces: list[str], tags: ThinkingTags = THINK) -> tuple[str, str]:
    head = ThinkingHead(tags)
    told = [head.feed(piece, is_last=False) for piece in pieces]
    told.append(head.feed("", is_last=True))
    return "".join(thought for thought, _ in told), "".join(rest for _, rest in told)


@pytest.mark.parametrize(
    ("text", "thought", "rest"),
    [
        ("Yes.", "", "Yes."),
        ("", "", ""),
        ("</think>", "", ""),
        ("</think>\n\nYes.", "", "\n\nYes."),
        ("\n\n</think> Yes.", "", " Yes."),
        ("<think>\n\n</think>\n\nyes", "", "\n\nyes"),
        ("<think>\n one\n\ntwo \n</think>yes", "one\n\ntwo", "yes"),
        ("<think>7 < 8</think>It is.</think>", "7 < 8", "It is.</think>"),
        ("<think>and never an end </thi", "and never an end </thi", ""),
        ("</thin air", "", "</thin air"),
        ("<thi", "", "<thi"),
        (" <b>bold</b>", "", " <b>bold</b>"),
        ("So <think> is a tag.", "", "So <think> is a tag."),
    ],
)
def test_the_head_is_taken_off_wherever_the_text_is_cut(text: str, thought: str, rest: str) -> None:
    for place in range(len(text) + 1):
        assert fed([text[:place], text[place:]]) == (thought, rest)
    assert fed(list(text)) == (thought, rest)


def test_thinking_is_told_as_it_comes_but_for_what_may_be_its_end() -> None:
    head = ThinkingHead(THINK)
    assert head.feed("<think>one", is_last=False) == ("one", "")
    assert head.feed(" two </", is_last=False) == (" two", "")
    assert head.feed("b>", is_last=False) == (" </b>", "")
    assert head.feed("</think>", is_last=False) == ("", "")
    assert head.feed("Done", is_last=False) == ("", "Done")


def test_a_model_that_always_thinks_has_no_start_tag() -> None:
    tags = ThinkingTags(start="", ends=("[/THINK]",))
    assert fed(["[/TH", "INK] Yes."], tags) == ("", " Yes.")
    assert fed(["Yes."], tags) == ("", "Yes.")
