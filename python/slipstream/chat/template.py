"""Messages to prompt text: by a Jinja template in llama.cpp's own engine, or by manual role prefixes and suffixes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from slipstream import _core
from slipstream.base.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Message = dict[str, Any]

# What a model without a template of its own is given: the format most instruction tunes have seen.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class PromptFormat(Protocol):
    """Anything that turns messages into prompt text."""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt. Raises TemplateError."""


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

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Render messages into prompt text.

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
        return self._native.render(
            _to_json(list(messages)),
            _to_json(list(tools)) if tools else "",
            _to_json(dict(options)) if options else "",
            add_generation_prompt,
        )

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

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Join the messages with their affixes; see ChatTemplate.render. Tools are refused: no place for them."""
        if tools:
            message = "a manual prompt format has no place for tools; use a chat template"
            raise TemplateError(message, param="tools")
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


def _to_json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair is no UTF-8, and nanobind would only say TypeError
        return text
    except (TypeError, ValueError, RecursionError) as error:
        message = f"messages, tools and template options must be JSON values: {error}"
        raise TemplateError(message, param="messages") from error
