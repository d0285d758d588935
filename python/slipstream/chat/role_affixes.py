"""Messages to prompts by manual prefixes and suffixes of roles."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from slipstream.base.errors import TemplateError
from slipstream.chat.openings import Openings, lead_of
from slipstream.chat.plan import Message, PromptPlan
from slipstream.chat.template import chatml, default_form, plan_of, tell_of_tools
from slipstream.chat.thinking import refuse_reasoning, template_variables
from slipstream.chat.tools import clean_messages, tool_set

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slipstream.base.types import GenerationSpec


class RoleAffixes:
    """Manual prompt format: each message between its role's prefix and suffix.

    Args:
        affixes: Role to (prefix, suffix); "user" and "assistant" at least. A role without an entry is refused.

    Raises:
        TemplateError: "user" or "assistant" is missing.
    """

    def __init__(self, affixes: Mapping[str, tuple[str, str]]) -> None:
        for role in ("user", "assistant"):
            if role not in affixes:
                message = (
                    f"role_affixes has no entry for {role!r}; it needs (prefix, suffix) for it"
                )
                raise TemplateError(message, param="role_affixes")
        self._affixes = dict(affixes)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Join the messages with their affixes; see ChatTemplate.render."""
        parts: list[str] = []
        for entry in messages:
            role = entry.get("role")
            if role not in self._affixes:
                message = f"role_affixes has no entry for role {role!r}; it has {', '.join(self._affixes)}"
                raise TemplateError(message, param="messages")
            prefix, suffix = self._affixes[role]
            parts.append(f"{prefix}{text_of(entry)}{suffix}")
        if add_generation_prompt:
            parts.append(self._affixes["assistant"][0])
        return "".join(parts)

    def plan(self, spec: GenerationSpec, messages: Sequence[Message]) -> PromptPlan:
        """See PromptFormat. Tools are told of in the default format."""
        template_variables(spec)
        refuse_reasoning(spec.reasoning)
        tools = tool_set(spec) if spec.parse_output else None
        if tools is None and spec.tools and not spec.parse_output:
            message = "a manual prompt format has no place for tools; use a chat template"
            raise TemplateError(message, param="tools")
        is_open = spec.add_generation_prompt
        if tools is None:
            return PromptPlan(self.render(messages, add_generation_prompt=is_open))
        messages = clean_messages(messages, tools.originals)
        has_system = "system" in self._affixes
        text = self.render(
            tell_of_tools(spec, messages, tools, has_system=has_system),
            add_generation_prompt=is_open,
        )
        # The form of an answer is the same whatever stands around it.
        _text, form = default_form(chatml(), spec, messages, tools, {})
        plan = plan_of(spec, text, form, tools)
        return dataclasses.replace(plan, lead=lead_of(plan, form.words, [], Openings()))


def text_of(message: Message) -> str:
    """Return a message's text: its content, or the text parts of it joined by newlines.

    Raises:
        TemplateError: a part is no text.
    """
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    if len(texts) != len(content) or not all(isinstance(text, str) for text in texts):
        error = "message content must be a string or a list of text parts"
        raise TemplateError(error, param="messages")
    return "\n".join(str(text) for text in texts)
