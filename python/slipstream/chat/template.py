"""Messages to prompts: by a Jinja template in llama.cpp's own engine, or by manual role prefixes and suffixes."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream import _core
from slipstream.base.errors import TemplateError
from slipstream.base.output_rules import CallGrammar
from slipstream.chat.default_tools import with_default_tools
from slipstream.chat.output_parser import OutputParser
from slipstream.chat.plan import Message, PromptPlan
from slipstream.chat.thinking import (
    closing,
    is_off,
    refuse_reasoning,
    template_variables,
    thinking_tags,
)
from slipstream.chat.tools import ToolSet, clean_messages, loosen, tool_set

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slipstream.base.types import GenerationSpec

# What a model without a template of its own is given: the format most instruction tunes have seen.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ChatTemplate:
    """A Jinja chat template. Safe from any thread.

    Args:
        source: Template text.
        bos: What `bos_token` stands for in it.
        eos: What `eos_token` stands for in it.

    Raises:
        TemplateError: the text does not parse.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        self.source = source
        self._native = _core.ChatTemplate(source, bos, eos)
        self._knows_tools = self.capabilities()["supports_tools"]

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Render messages into prompt text, and nothing else.

        Args:
            messages: In OpenAI's shape: role and content, content a string or a list of text parts.
            tools: OpenAI tool definitions, if any.
            add_generation_prompt: End with the start of an assistant turn.
            options: Further template variables, e.g. {"enable_thinking": False}.

        Returns:
            The prompt.

        Raises:
            TemplateError: the template refuses the messages, or they are of another shape.
        """
        return self._native.apply(
            _to_json(list(messages)),
            _to_json(list(tools)) if tools else "",
            _to_json(dict(options)) if options else "",
            add_generation_prompt=add_generation_prompt,
            tool_choice="none",
        ).prompt

    def plan(self, spec: GenerationSpec, messages: Sequence[Message]) -> PromptPlan:
        """See PromptFormat."""
        variables = template_variables(spec)
        tools = tool_set(spec) if spec.parse_output else None
        if tools is not None:
            messages = clean_messages(messages, tools.originals)
            found = (
                self._with_tools(spec, messages, tools, variables) if self._knows_tools else None
            )
            if found is None:
                found = default_form(self._native, spec, messages, tools, variables)
            return _plan(spec, *found, tools)
        if spec.parse_output:
            messages = clean_messages(messages, {})
        shown = [] if spec.parse_output else spec.tools or []
        form = self._native.apply(
            _to_json(list(messages)),
            _to_json(shown) if shown else "",
            _to_json(variables),
            add_generation_prompt=spec.add_generation_prompt,
            tool_choice="none",
        )
        return _plan(spec, form.prompt, form, None)

    def _with_tools(
        self,
        spec: GenerationSpec,
        messages: Sequence[Message],
        tools: ToolSet,
        variables: Mapping[str, Any],
    ) -> tuple[str, _core.ChatPlan] | None:
        """Return the prompt that shows all tools and the form of an answer that may call some; None if it has none."""
        apply = functools.partial(
            self._native.apply,
            _to_json(list(messages)),
            options=_to_json(variables),
            add_generation_prompt=spec.add_generation_prompt,
            parallel_tool_calls=spec.parallel_tool_calls,
        )
        is_shown_whole = tools.callable is tools.definitions
        try:
            form = apply(_to_json(tools.callable), tool_choice=tools.choice)
        except TemplateError:
            # Parameters no grammar can be made of; if it is the messages that are refused, they are again.
            form = apply(_to_json(loosen(tools.callable)), tool_choice=tools.choice)
            is_shown_whole = False
        if not form.can_call:
            return None
        if is_shown_whole:
            return form.prompt, form
        return apply(_to_json(tools.definitions), tool_choice="none").prompt, form

    def capabilities(self) -> dict[str, bool]:
        """Return what the template can do by llama.cpp's analysis, e.g. {"supports_tools": True}."""
        return self._native.capabilities()


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
            _tell_of_tools(spec, messages, tools, has_system=has_system),
            add_generation_prompt=is_open,
        )
        # The form of an answer is the same whatever stands around it.
        _text, form = default_form(_chatml(), spec, messages, tools, {})
        return _plan(spec, text, form, tools)


def default_form(
    template: _core.ChatTemplate,
    spec: GenerationSpec,
    messages: Sequence[Message],
    tools: ToolSet,
    variables: Mapping[str, Any],
) -> tuple[str, _core.ChatPlan]:
    """Return the prompt and the form of an answer for a template that knows no tools."""
    apply = functools.partial(
        template.apply,
        _to_json(_tell_of_tools(spec, messages, tools)),
        options=_to_json(variables),
        add_generation_prompt=spec.add_generation_prompt,
        tool_choice=tools.choice,
        parallel_tool_calls=spec.parallel_tool_calls,
        has_default_tools=True,
    )
    try:
        form = apply(_to_json(tools.callable))
    except TemplateError:
        form = apply(_to_json(loosen(tools.callable)))
    return form.prompt, form


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


def _plan(
    spec: GenerationSpec, text: str, form: _core.ChatPlan, tools: ToolSet | None
) -> PromptPlan:
    """Put a plan together, with thinking that the prompt has begun ended where there must be none."""
    thinking, continued = None, ""
    if form.can_think:
        thinking = thinking_tags(form.thinking_start, form.thinking_ends, form.generation_prompt)
        if not spec.add_generation_prompt:
            thinking = msgspec.structs.replace(thinking, is_open=False)
        elif thinking.is_open and is_off(spec):
            continued = closing(thinking, form.generation_prompt)
            thinking = msgspec.structs.replace(thinking, is_open=False)
    else:
        refuse_reasoning(spec.reasoning)
    parser, calls = None, None
    if spec.parse_output:
        native = _core.OutputParser(form, continued)
        if tools is not None or native.delimiters():
            names = tools.originals if tools is not None else None
            parser = OutputParser(
                native, names, can_think=form.can_think, has_many=spec.parallel_tool_calls
            )
    if tools is not None and form.grammar:
        calls = CallGrammar(
            text=form.grammar,
            triggers=tuple(form.triggers),
            words=tuple(form.words),
            prefix=form.generation_prompt + continued,
            thinking=thinking,
        )
    return PromptPlan(
        text + continued,
        stop=tuple(form.stops),
        preserved=tuple(form.preserved_tokens) if parser is not None else (),
        calls=calls,
        thinking=thinking,
        parser=parser,
    )


def _tell_of_tools(
    spec: GenerationSpec, messages: Sequence[Message], tools: ToolSet, *, has_system: bool = True
) -> list[Message]:
    return with_default_tools(
        messages,
        tools.definitions,
        is_required=tools.choice == "required",
        has_many=spec.parallel_tool_calls,
        has_system=has_system,
    )


@functools.cache
def _chatml() -> _core.ChatTemplate:
    return _core.ChatTemplate(CHATML, "", "")


def _to_json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair is no UTF-8, and nanobind would only say TypeError
        return text
    except (TypeError, ValueError, RecursionError) as error:
        message = f"messages, tools and template options must be JSON values: {error}"
        raise TemplateError(message, param="messages") from error
