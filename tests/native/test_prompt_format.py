"""Which prompt format a model gets, with the native template engine."""

import queue

import pytest

from slipstream.base.errors import TemplateError
from slipstream.base.load_config import LoadConfig
from slipstream.base.types import GenerationSpec, RequestFailed
from slipstream.runtime.host import EngineHost
from slipstream.runtime.prompts import choose_format
from tests.support.fake_text_model import FakeTextModel

HELLO = [{"role": "user", "content": "hi"}]


def chosen(template=None, **config):
    return choose_format(FakeTextModel(template=template), LoadConfig(**config))


def test_the_models_own_template_is_used():
    found = chosen("{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}")
    assert (found.format.render(HELLO), found.source, found.stop) == ("^[hi]$", "model", ())


@pytest.mark.parametrize("template", [None, "{% if %}"])
def test_without_a_usable_template_chats_use_chatml_and_say_so_once(template, caplog):
    found = chosen(template)
    assert found.source == "fallback"
    assert found.stop == ("<|im_end|>",)
    assert found.format.render(HELLO) == ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert caplog.text.count("ChatML") == 1


def test_the_config_overrides_the_model():
    assert chosen("model", chat_template="mine").format.render(HELLO) == "mine"
    affixes = {"user": ("<", ">"), "assistant": ("A:", "")}
    found = chosen("model", role_affixes=affixes)
    assert (found.format.render(HELLO), found.source) == ("<hi>A:", "affixes")


def test_a_broken_or_doubled_override_is_refused():
    with pytest.raises(TemplateError):
        chosen(chat_template="{% if %}")
    with pytest.raises(TemplateError, match="exclude"):
        chosen(chat_template="x", role_affixes={"user": ("", ""), "assistant": ("", "")})


def test_text_that_is_no_unicode_is_the_callers_fault(tiny_path):
    host = EngineHost.load(str(tiny_path("llama")), LoadConfig(context_length=256, threads=1))
    events = queue.SimpleQueue()
    try:
        for fields in (
            {"prompt": "\ud800"},
            {"messages": [{"role": "user", "content": "\ud800"}]},
        ):
            host.submit(GenerationSpec(request_id="r", **fields), events.put)
            (event,) = events.get(timeout=20)
            assert isinstance(event, RequestFailed)
            assert event.error in ("InvalidRequestError", "TemplateError")
    finally:
        host.close()
