"""What a template puts before an answer's words, found out by letting it render some. Knows no engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from slipstream.base.errors import TemplateError
from slipstream.base.output_rules import Lead
from slipstream.chat.gbnf_words import first_words
from slipstream.chat.tools import loosen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipstream.chat.plan import PromptPlan

_QUESTION = {"role": "user", "content": "A question."}
_WORDS = "Words-of-the-answer"
_THOUGHT = "Thought-of-the-answer"


class Openings(NamedTuple):
    """Texts before the content of an answer; "" or blanks where a template has none.

    Attributes:
        between: Between thinking and what an answer without thinking would begin with.
        content: Before the content.
    """

    between: str = ""
    content: str = ""


def find_openings(
    render: Callable[[list[dict[str, Any]], bool], str], start: str, ends: tuple[str, ...]
) -> Openings:
    """Return the openings of a template.

    Args:
        render: Messages, and whether the prompt of an answer follows, to text.
        start: What thinking begins with; "" if the model does not think.
        ends: What it ends with.
    """
    try:
        prompt = render([_QUESTION], True)
        plain = _before(render([_QUESTION, _answer()], False), _WORDS)
        thought = render([_QUESTION, _answer(reasoning_content=_THOUGHT)], False)
    except TemplateError:
        return Openings()
    content = plain.removeprefix(prompt) if plain.startswith(prompt) else ""
    if any(end in content for end in ends):  # of thinking that is closed, or empty
        content = _behind(content, ends)
    between = ""
    if start and _THOUGHT in thought:
        after = _behind(_before(thought.partition(_THOUGHT)[2], _WORDS), ends)
        between = after.removesuffix(content) if content.strip() and after.endswith(content) else ""
    return Openings(_unless_blank(between), _unless_blank(content))


def lead_of(
    plan: PromptPlan,
    words: Sequence[str],
    bare_tools: Sequence[dict[str, Any]],
    openings: Openings,
) -> Lead | None:
    """Return what may come before content that has a form of its own, or in its place.

    Args:
        plan: Of the prompt.
        words: What calls begin with, if llama.cpp knows.
        bare_tools: Tools whose calls are JSON without marks, as Llama 3's.
        openings: Of the template.

    Returns:
        None where calls and content cannot be told apart by what they begin with.
    """
    calls = tuple(words)
    if plan.calls is not None and plan.calls.triggers:
        calls = calls or first_words(plan.calls.text)
        if not calls or any(_is_alike(word, openings.content) for word in calls):
            return None
    return Lead(
        thinking=plan.thinking,
        between=openings.between,
        opening=openings.content,
        calls=calls,
        call_schemas=tuple(_call_schema(tool["function"]) for tool in loosen(bare_tools)),
    )


def _call_schema(function: dict[str, Any]) -> str:
    properties = {"name": {"const": function["name"]}, "parameters": function["parameters"]}
    schema = {"type": "object", "properties": properties, "required": list(properties),
              "additionalProperties": False}  # fmt: skip
    return json.dumps(schema)


def _is_alike(word: str, opening: str) -> bool:
    return bool(opening) and (opening.startswith(word) or word.startswith(opening))


def _answer(**fields: str) -> dict[str, Any]:
    return {"role": "assistant", "content": _WORDS, **fields}


def _before(text: str, mark: str) -> str:
    head, found, _ = text.partition(mark)
    return head if found else ""


def _behind(text: str, ends: tuple[str, ...]) -> str:
    """Return what follows the first end of thinking; nothing where there is none."""
    places = [(text.find(end), end) for end in ends if end in text]
    if not places:
        return ""
    place, end = min(places)
    return text[place + len(end) :]


def _unless_blank(text: str) -> str:
    return text if text.strip() else ""
