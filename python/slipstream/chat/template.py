"""Messages to prompts by a Jinja template, in llama.cpp's own engine."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

import msgspec

from slipstream import _core
from slipstream.base.errors import TemplateError
from slipstream.base.output_rules import CallGrammar
from slipstream.chat.default_tools import with_default_tools
from slipstream.chat.openings import Openings, find_openings, lead_of
from slipstream.chat.output_parser import OutputParser
from slipstream.chat.plan import Message, PromptPlan
from slipstream.chat.thinking import (
    closing,
    is_closed,
    is_off,
    refuse_level,
    refuse_reasoning,
    template_variables,
    thinking_tags,
)
from slipstream.chat.thinking_head import ThinkingHead
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
        self._found_openings: dict[str, Openings] = {}
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
        refuse_level(spec.reasoning, self.source)
        tools = tool_set(spec) if spec.parse_output else None
        if tools is not None:
            messages = clean_messages(messages, tools.originals)
            found = (
                self._with_tools(spec, messages, tools, variables) if self._knows_tools else None
            )
            if found is None:
                found = default_form(self._native, spec, messages, tools, variables)
            return self._plan(spec, *found, tools)
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
        return self._plan(spec, form.prompt, form, None)

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

    def _plan(
        self, spec: GenerationSpec, text: str, form: _core.ChatPlan, tools: ToolSet | None
    ) -> PromptPlan:
        plan = plan_of(spec, text, form, tools)
        if plan.parser is None or spec.output_format is None:
            return plan
        is_bare = (
            tools is not None and tools.choice == "auto" and form.can_call and not form.grammar
        )
        bare_tools = tools.callable if tools is not None and is_bare else []
        lead = lead_of(plan, form.words, bare_tools, self._openings(form))
        if lead is not None and is_off(spec):
            lead = msgspec.structs.replace(lead, thinking=None)
        return dataclasses.replace(plan, lead=lead)

    def _openings(self, form: _core.ChatPlan) -> Openings:
        """Return what stands before an answer's words; rendered once for each form of thinking."""
        start = form.thinking_start if form.can_think else ""
        if start not in self._found_openings:

            def render(messages: list[Message], is_open: bool) -> str:
                return self.render(messages, add_generation_prompt=is_open)

            ends = tuple(form.thinking_ends) if form.can_think else ()
            self._found_openings[start] = find_openings(render, start, ends)
        return self._found_openings[start]

    def capabilities(self) -> dict[str, bool]:
        """Return what the template can do by llama.cpp's analysis, e.g. {"supports_tools": True}."""
        return self._native.capabilities()


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
        _to_json(tell_of_tools(spec, messages, tools)),
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


def plan_of(
    spec: GenerationSpec, text: str, form: _core.ChatPlan, tools: ToolSet | None
) -> PromptPlan:
    """Put a plan together, all but its lead, with thinking that the prompt has begun ended where there must be none."""
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
            prompt_end = form.generation_prompt + continued
            has_head = thinking is not None and is_closed(thinking, prompt_end)
            parser = OutputParser(
                native,
                names,
                can_think=form.can_think,
                has_many=spec.parallel_tool_calls,
                head=ThinkingHead(thinking) if thinking is not None and has_head else None,
            )
    if tools is not None and form.grammar:
        calls = CallGrammar(
            text=form.grammar,
            triggers=tuple(form.triggers),
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


def tell_of_tools(
    spec: GenerationSpec, messages: Sequence[Message], tools: ToolSet, *, has_system: bool = True
) -> list[Message]:
    """Return the messages with what a template that knows no tools does not say of them."""
    return with_default_tools(
        messages,
        tools.definitions,
        is_required=tools.choice == "required",
        has_many=spec.parallel_tool_calls,
        has_system=has_system,
    )


@functools.cache
def chatml() -> _core.ChatTemplate:
    """Return the template of ChatML, for what is the same in every format."""
    return _core.ChatTemplate(CHATML, "", "")


def _to_json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair is no UTF-8, and nanobind would only say TypeError
        return text
    except (TypeError, ValueError, RecursionError) as error:
        message = f"messages, tools and template options must be JSON values: {error}"
        raise TemplateError(message, param="messages") from error
