"""Specs become token ids: which text, which special tokens, and what is refused."""

import pytest

from slipstream.base.errors import InvalidRequestError, TemplateError, UnsupportedError
from slipstream.base.types import GenerationSpec, Reasoning
from slipstream.runtime.prompts import ChosenFormat, Prompt, PromptBuilder
from tests.support.fake_runner import text_tokens
from tests.support.fake_text_model import FakeFormat, FakeTextModel

HELLO = [{"role": "user", "content": "hi"}]


def builder(*, has_bos=True, prefix="", stop=()):
    chosen = ChosenFormat(FakeFormat(prefix), "model", stop)
    return PromptBuilder(FakeTextModel(has_bos=has_bos), chosen)


def spec(**fields):
    return GenerationSpec(request_id="r", **fields)


def test_text_gets_the_special_tokens_of_the_model():
    assert builder().build(spec(prompt="abc")).token_ids == text_tokens("^abc")


def test_token_ids_are_taken_as_they_are():
    assert builder().build(spec(prompt_token_ids=[5, 6])) == Prompt([5, 6], "")


def test_messages_are_rendered_with_tools_and_options():
    prompt = builder().build(
        spec(messages=HELLO, tools=[{}, {}], template_options={"a": 1}, add_generation_prompt=False)
    )
    assert prompt.token_ids == text_tokens("^user:hi;2{'a': 1}")


def test_a_template_that_writes_the_bos_gets_no_second_one():
    assert builder(prefix="^").build(spec(messages=HELLO)).token_ids[:2] == text_tokens("^u")


def test_only_chats_get_the_stop_strings_of_the_format():
    assert builder(stop=("END",)).build(spec(messages=HELLO)).stop == ("END",)
    assert builder(stop=("END",)).build(spec(prompt="x")).stop == ()


@pytest.mark.parametrize("fields", [{"prompt": ""}, {"prompt_token_ids": []}])
def test_an_empty_prompt_becomes_the_bos_where_there_is_one(fields):
    assert builder().build(spec(**fields)).token_ids == text_tokens("^")
    with pytest.raises(InvalidRequestError, match="empty") as caught:
        builder(has_bos=False).build(spec(**fields))
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{}], "parse_output": True}, "tools"),
        ({"reasoning": Reasoning(effort="low")}, "reasoning"),
        ({"context_overflow": "rolling_window"}, "context_overflow"),
    ],
)
def test_what_nothing_serves_yet_is_refused_and_not_ignored(fields, param):
    with pytest.raises(UnsupportedError) as caught:
        builder().build(spec(messages=HELLO, **fields))
    assert caught.value.param == param


def test_empty_messages_are_refused():
    with pytest.raises(InvalidRequestError) as caught:
        builder().build(spec(messages=[]))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("fields", [{}, {"prompt": "a", "prompt_token_ids": [1]}])
def test_exactly_one_form_of_prompt_is_needed(fields):
    with pytest.raises(InvalidRequestError, match="exactly one"):
        builder().build(spec(**fields))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"prompt": "abc"}, "abc"),
        ({"prompt_token_ids": text_tokens("xyz")}, "xyz"),
        ({"messages": HELLO}, "user:hi;0assistant:"),
        ({"prompt": ""}, ""),
    ],
)
def test_the_text_to_echo(fields, text):
    assert builder().build(spec(echo_prompt=True, **fields)).text == text


def test_the_templates_refusal_passes():
    with pytest.raises(TemplateError):
        builder().build(spec(messages=[{"role": "evil", "content": ""}]))
