"""Where a prompt leaves the model to think."""

from __future__ import annotations

import pytest

from slipstream.chat.thinking import is_closed, thinking_tags


@pytest.mark.parametrize(
    ("start", "prompt_end", "is_open", "closed"),
    [
        ("<think>", "<|assistant|>", False, False),
        ("<think>", "<|assistant|><think>\n", True, False),
        ("<think>", "<|assistant|><think>\n\n</think>\n\n", False, True),
        ("<think>", "</think><|assistant|><think>", True, False),
        ("", "<|assistant|>", True, False),
        ("", "<|assistant|></think>", False, True),
    ],
)
def test_thinking_is_open_closed_or_not_begun(
    start: str, prompt_end: str, is_open: bool, closed: bool
) -> None:
    tags = thinking_tags(start, ["</think>"], prompt_end)
    assert tags.is_open == is_open
    assert is_closed(tags, prompt_end) == closed
