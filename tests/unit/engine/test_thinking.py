"""Where an output thinks, and when it must stop."""

from __future__ import annotations

import pytest

from slipstream.base.output_rules import ThinkingTags
from slipstream.engine.thinking import ThinkingTracker

TAGS = ThinkingTags(start="<think>", ends=("</think>",))
OPEN = ThinkingTags(start="<think>", ends=("</think>",), is_open=True)
HARMONY = ThinkingTags(start="<|channel|>analysis<|message|>", ends=("<|end|>",))


def push(tracker: ThinkingTracker, *pieces: str) -> ThinkingTracker:
    for piece in pieces:
        tracker.push(piece.encode())
    return tracker


def test_tokens_between_the_tags_count() -> None:
    tracker = push(ThinkingTracker(TAGS), "<th", "ink>", "a", "b", "</", "think>", "c", "d")
    assert tracker.num_tokens == 4
    assert push(ThinkingTracker(OPEN), "a", "</think>", "b").num_tokens == 2
    assert push(ThinkingTracker(TAGS), "no", "thought").num_tokens == 0


def test_it_can_begin_again_but_not_in_the_midst_of_an_answer() -> None:
    head = ["<|start|>assistant", "<|channel|>", "analysis", "<|message|>"]
    tracker = push(ThinkingTracker(HARMONY), *head[1:], "a", "<|end|>", *head, "b", "<|end|>")
    assert tracker.num_tokens == 4
    answer = push(ThinkingTracker(TAGS), "An answer that speaks of tags " * 5, "<think>", "x")
    assert answer.num_tokens == 0


@pytest.mark.parametrize("budget", [1, 3])
def test_a_spent_budget_must_end_it(budget: int) -> None:
    tracker = ThinkingTracker(OPEN, budget)
    for left in range(budget, 0, -1):
        assert not tracker.must_end
        assert tracker.num_left == left
        push(tracker, "x")
    assert tracker.must_end
    assert not push(tracker, "</think>").must_end
    assert tracker.num_left is None


def test_without_any_budget_it_ends_as_it_begins() -> None:
    tracker = ThinkingTracker(TAGS, 0)
    assert not tracker.must_end
    assert tracker.num_left == 1, "the next token may begin it"
    assert push(tracker, "<think>").must_end
    assert push(ThinkingTracker(TAGS, 0), "word " * 30).num_left is None
