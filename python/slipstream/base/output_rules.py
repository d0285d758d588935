"""The form of a chat's answer, as far as an engine keeps to it. Plain values; knows no templates."""

from __future__ import annotations

import msgspec


class ThinkingTags(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's reasoning stands between.

    Attributes:
        start: What it begins with; "" where the answer always begins with it.
        ends: What can end it; the first one is for who has to end it.
        is_open: Whether the prompt ends within it.
    """

    start: str = ""
    ends: tuple[str, ...] = ()
    is_open: bool = False


class CallGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps calls of tools to their form.

    Attributes:
        text: GBNF of the calls, or with no triggers, of the answer.
        triggers: Regular expressions: the grammar holds from the first group of a match on.
        prefix: The end of the prompt, which a grammar without triggers takes for said.
        thinking: Between these, nothing is a match.
    """

    text: str
    triggers: tuple[str, ...] = ()
    prefix: str = ""
    thinking: ThinkingTags | None = None


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """What may come before content that has a form of its own, or in its place.

    Attributes:
        thinking: Reasoning, which may come before it.
        between: Text between reasoning and what follows it, such as the head of another message.
        opening: Text the content begins with in the model's form, which is no part of it.
        calls: What calls of tools begin with, which may be there instead.
        call_schemas: JSON Schemas of calls without a mark, which may be there instead.
    """

    thinking: ThinkingTags | None = None
    between: str = ""
    opening: str = ""
    calls: tuple[str, ...] = ()
    call_schemas: tuple[str, ...] = ()


NO_LEAD = Lead()
