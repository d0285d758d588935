"""How much a model thinks: the one setting as template variables, and where the prompt leaves the model to think."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError
from slipstream.base.output_rules import ThinkingTags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.types import GenerationSpec, Reasoning

_LEVELS = ("low", "medium", "high")
LEVEL_VARIABLE = "reasoning_effort"  # of templates that know levels
EFFORTS = ("", "off", "on", *_LEVELS)


def template_variables(spec: GenerationSpec) -> dict[str, Any]:
    """Return the template variables of a request: its effort by every name templates have for it, and its own.

    Raises:
        InvalidRequestError: an effort there is not, or a budget below 0.
    """
    reasoning = spec.reasoning
    check_reasoning(reasoning)
    variables: dict[str, Any] = {}
    if reasoning.effort:
        is_on = reasoning.effort != "off"
        variables = {"enable_thinking": is_on, "thinking": is_on}
    if reasoning.effort in _LEVELS:
        variables[LEVEL_VARIABLE] = reasoning.effort
    return {**variables, **spec.template_options}


def check_reasoning(reasoning: Reasoning) -> None:
    """Refuse values there are not.

    Raises:
        InvalidRequestError: so it is.
    """
    if reasoning.effort not in EFFORTS:
        message = f"reasoning is {reasoning.effort!r}; it must be {', '.join(EFFORTS[1:])}"
        raise InvalidRequestError(message, param="reasoning")
    if reasoning.budget is not None and reasoning.budget < 0:
        message = f"the reasoning budget is {reasoning.budget}; it must be at least 0"
        raise InvalidRequestError(message, param="reasoning")


def is_off(spec: GenerationSpec) -> bool:
    """Whether a model that thinks must not. A grammar of llama.cpp's own is about the whole output, so it must not."""
    form = spec.output_format
    has_gbnf = spec.sampling.grammar is not None or (form is not None and form.kind == "gbnf")
    return spec.reasoning.effort == "off" or spec.reasoning.budget == 0 or has_gbnf


def refuse_reasoning(reasoning: Reasoning) -> None:
    """Refuse reasoning that is required of a model that has none.

    Raises:
        InvalidRequestError: so it is.
    """
    if reasoning.is_required and reasoning.effort not in ("", "off"):
        message = f"this model does not reason, so reasoning {reasoning.effort!r} cannot be had; leave it out"
        raise InvalidRequestError(message, param="reasoning")


def refuse_level(reasoning: Reasoning, template: str) -> None:
    """Refuse a level that is required of a model which can only think or not.

    Raises:
        InvalidRequestError: so it is.
    """
    if reasoning.is_required and reasoning.effort in _LEVELS and LEVEL_VARIABLE not in template:
        message = (
            f"this model has no levels of reasoning such as {reasoning.effort!r}; say 'on' or 'off'"
        )
        raise InvalidRequestError(message, param="reasoning")


def thinking_tags(start: str, ends: Sequence[str], generation_prompt: str) -> ThinkingTags:
    """Return the tags of a plan.

    Args:
        start: Of the template's analysis, as `ends`.
        ends: At least one.
        generation_prompt: The end of the prompt, which tells whether the thinking has begun.
    """
    behind = _behind(start, generation_prompt)
    is_open = behind is not None and not any(end in behind for end in ends)
    return ThinkingTags(start=start, ends=tuple(ends), is_open=is_open)


def closing(tags: ThinkingTags, generation_prompt: str) -> str:
    """Return the text that ends thinking which the prompt has begun, as templates with an off switch write it."""
    end = tags.ends[0]
    return f"\n{end.strip()}\n\n" if generation_prompt.endswith("\n") else end


def is_closed(tags: ThinkingTags, prompt_end: str) -> bool:
    """Whether the prompt has begun thinking and ended it, so that the answer's form has no place for it any more.

    Args:
        tags: Of the plan.
        prompt_end: What of the prompt belongs to the answer.
    """
    behind = _behind(tags.start, prompt_end)
    return behind is not None and any(end in behind for end in tags.ends)


def _behind(start: str, prompt_end: str) -> str | None:
    """Return what follows the begin of thinking, all where it needs no tag; None if it has not begun."""
    if not start:
        return prompt_end
    _, found, behind = prompt_end.rpartition(start)
    return behind if found else None
