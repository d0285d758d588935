"""A prompt with everything its answer's form asks for. Plain values; loads nothing native."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from slipstream.base.output_rules import NO_LEAD, Lead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.base.output_rules import CallGrammar, ThinkingTags
    from slipstream.base.types import GenerationSpec
    from slipstream.chat.output_parser import OutputParser

Message = dict[str, Any]


@dataclass(slots=True, frozen=True)
class PromptPlan:
    """What a prompt format makes of a chat.

    Attributes:
        text: The prompt.
        stop: Strings that end the answer.
        preserved: Control tokens whose text belongs to the answer's form.
        calls: What keeps calls of tools to their form; None where nothing does.
        thinking: Where the model thinks; None if it does not.
        lead: What may come before content that has a form, or in its place; None where tools and a form of the content
            exclude each other.
        parser: Of the answer; None where all of it is content.
    """

    text: str
    stop: tuple[str, ...] = ()
    preserved: tuple[str, ...] = ()
    calls: CallGrammar | None = None
    thinking: ThinkingTags | None = None
    lead: Lead | None = NO_LEAD
    parser: OutputParser | None = None


class PromptFormat(Protocol):
    """Anything that turns messages into a prompt. Safe from any thread."""

    def plan(self, spec: GenerationSpec, messages: Sequence[Message]) -> PromptPlan:
        """Return the prompt of messages and what its answer looks like.

        Args:
            spec: What is asked for, but for the messages.
            messages: In OpenAI's shape.

        Raises:
            TemplateError: the messages or tools are refused, or of another shape.
            InvalidRequestError: the tool choice names no tool, or reasoning is asked of a model that does not reason.
        """
