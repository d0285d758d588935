"""Chat templates: llama.cpp's engine against Jinja2, overrides, refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.sandbox
import pytest

from slipstream.base.errors import TemplateError
from slipstream.chat.role_affixes import RoleAffixes
from slipstream.chat.template import CHATML, ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Grüße "you" <b>&</b>'},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Again?"},
]
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'system' %}<<SYS>>{{ m['content'] }}<</SYS>>{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def jinja2_render(source: str, **variables: Any) -> str:
    """Render as transformers sets Jinja2 up."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    environment.globals["strftime_now"] = lambda fmt: datetime.now(UTC).strftime(fmt)
    return environment.from_string(source).render(**variables)


@pytest.mark.parametrize("source", [CHATML, LLAMA_2, GEMMA], ids=["chatml", "llama-2", "gemma"])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_rendering_agrees_with_jinja2(source: str, add_generation_prompt: bool) -> None:
    template = ChatTemplate(source, "<s>", "</s>")
    rendered = template.render(MESSAGES, add_generation_prompt=add_generation_prompt)
    assert rendered == jinja2_render(
        source,
        messages=MESSAGES,
        bos_token="<s>",
        eos_token="</s>",
        add_generation_prompt=add_generation_prompt,
    )


def test_options_reach_the_template() -> None:
    template = ChatTemplate("{{ messages[0].content }}{% if shout %}!{% endif %}{{ level }}")
    assert template.render(MESSAGES[1:2], options={"shout": True, "level": 3}).endswith("!3")


def test_tools_reach_the_template() -> None:
    template = ChatTemplate(
        "{% for t in tools %}{{ t.function.name }};{% endfor %}{{ messages[0].content }}"
    )
    tool = {
        "type": "function",
        "function": {"name": "look_up", "description": "d", "parameters": {}},
    }
    assert "look_up;" in template.render(MESSAGES[1:2], [tool])


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    rendered = ChatTemplate(CHATML).render([{"role": "user", "content": parts}])
    assert "one\ntwo" in rendered


@pytest.mark.parametrize("source", ["{% for", "{{ unclosed", "{% if x %}no end"])
def test_templates_that_do_not_parse_are_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="does not parse"):
        ChatTemplate(source)


def test_a_template_can_refuse_messages() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        template.render(MESSAGES)


@pytest.mark.parametrize(
    "messages",
    [
        [{"content": "no role"}],
        [{"role": "user", "content": 5}],
        ["text"],
        [{"role": "user", "content": float("nan")}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    ],
)
def test_messages_of_another_shape_are_refused(messages: list[Any]) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(CHATML).render(messages)


def test_user_text_is_never_template_code() -> None:
    rendered = ChatTemplate(CHATML).render([{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}])
    assert "{{ 7 * 7 }}{% raw %}" in rendered


def test_manual_affixes_replace_a_template() -> None:
    affixes = RoleAffixes(
        {"user": ("U: ", "\n"), "assistant": ("A: ", "\n"), "system": ("", "\n\n")}
    )
    assert (
        affixes.render(MESSAGES) == 'Be brief.\n\nU: Grüße "you" <b>&</b>\nA: Hi.\nU: Again?\nA: '
    )
    with pytest.raises(TemplateError, match="tool"):
        affixes.render([{"role": "tool", "content": "x"}])
    with pytest.raises(TemplateError, match="assistant"):
        RoleAffixes({"user": ("", "")})


def test_capabilities_tell_tool_templates_apart() -> None:
    assert ChatTemplate(CHATML).capabilities()["supports_tools"] is False
    assert json.dumps(ChatTemplate(CHATML).capabilities())
