"""A grammar of llguidance with what may come before it: reasoning, or a tool call in its place. Knows its text only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from slipstream.base.output_rules import Lead, ThinkingTags

_SPACE = r"/[\x20\x0A\x0D\x09]{0,16}/"
_CONTENT = "content"


class Spelling(Protocol):
    """What is asked of a model's tokens; see grammar.Vocabulary."""

    def token_to_piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of a token; those of control tokens with `special`."""

    def is_control(self, token: int) -> bool:
        """Whether the token is no text."""

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Return the token ids of a text."""


def with_lead(grammar: str, lead: Lead, vocabulary: Spelling) -> str:
    """Return a grammar that allows what `lead` does before another one.

    Args:
        grammar: In llguidance's JSON form, or Lark text.
        lead: What may come before, or instead.
        vocabulary: Of the model.
    """
    # Where the content has a mark to begin with, the model's form has no blanks before it.
    start, content = f"{_SPACE} body", "@content"
    if lead.opening:
        start, content = "body", f"{_spelled(lead.opening, vocabulary)} @content"
    rules = [f"body: {content}"]
    if lead.calls:
        # The call's own form is kept to by the grammar of calls.
        calls = " | ".join(f"{_spelled(word, vocabulary)} <[*]>*" for word in lead.calls)
        rules[0] += f" | {calls}"
    schemas = [
        {"name": f"call{index}", "json_schema": json.loads(schema)}
        for index, schema in enumerate(lead.call_schemas)
    ]
    rules[0] += "".join(f" | @{schema['name']}" for schema in schemas)
    if lead.thinking is not None:
        rules += _thinking(lead.thinking, vocabulary)
        between = f" {_spelled(lead.between, vocabulary)}" if lead.between else ""
        must_think = lead.thinking.is_open or not lead.thinking.start
        start = f"thinking{between} {start}" if must_think else f"(thinking{between})? {start}"
    outer = "\n".join([f"start: {start}", *rules])
    is_json = grammar.startswith("{")
    inner = json.loads(grammar)["grammars"] if is_json else [{"lark_grammar": grammar}]
    inner[0]["name"] = _CONTENT
    return json.dumps({"grammars": [{"name": "answer", "lark_grammar": outer}, *inner, *schemas]})


def _thinking(tags: ThinkingTags, vocabulary: Spelling) -> list[str]:
    begin = "" if tags.is_open or not tags.start else _spelled(tags.start, vocabulary) + " "
    end = tags.ends[0]
    spelled = _spelled(end, vocabulary)
    if spelled.startswith("<["):  # no text can hold it
        return [f"thinking: {begin}/(?s:.*)/ {spelled}"]
    return [f"thinking: {begin}thought", f"thought[suffix={json.dumps(end)}]: /(?s:.*)/"]


def _spelled(text: str, vocabulary: Spelling) -> str:
    """Return a text in Lark: control tokens by their ids, the rest as strings."""
    token_ids = vocabulary.tokenize(text, add_special=False, parse_special=True)
    if not any(vocabulary.is_control(token_id) for token_id in token_ids):
        return json.dumps(text, ensure_ascii=False)
    parts: list[str] = []
    run = b""
    for token_id in token_ids:
        if vocabulary.is_control(token_id):
            parts += [json.dumps(run.decode()), f"<[{token_id}]>"] if run else [f"<[{token_id}]>"]
            run = b""
        else:
            run += vocabulary.token_to_piece(token_id)
    return " ".join([*parts, json.dumps(run.decode())] if run else parts)
