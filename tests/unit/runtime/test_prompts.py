"""Specs become token ids: which text, which special tokens, and what is refused."""

import pytest

from slipstream.base.errors import InvalidRequestError, TemplateError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec
from slipstream.runtime.prompts import ChosenFormat, Prompt, PromptBuilder
from tests.support.fake_runner import text_tokens
from tests.support.fake_text_model import FakeFormat, FakeTextModel

HELLO = [{"role": "user", "content": "hi"}]


def builder(*, has_bos=True, prefix="", stop=(), limit=1000):
    chosen = ChosenFormat(FakeFormat(prefix), "model", stop)
    return PromptBuilder(FakeTextModel(has_bos=has_bos), chosen, limit)


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


TURNS = [
    {"role": "system", "content": "sys"},
    *(
        {"role": role, "content": f"{role[0]}{turn}" + "." * 20}
        for turn in range(8)
        for role in ("user", "assistant", "tool")
    ),
    {"role": "user", "content": "last"},
]


def shortened(policy, limit=300, **fields):
    built = builder(limit=limit).build(spec(context_overflow=policy, **fields))
    return bytes(built.token_ids).decode()


def test_a_prompt_that_fits_is_left_alone_by_every_policy():
    plain = builder(limit=10_000).build(spec(messages=TURNS))
    for policy in ("error", "truncate_middle", "rolling_window"):
        assert builder(limit=10_000).build(spec(messages=TURNS, context_overflow=policy)) == plain


def test_by_error_a_long_prompt_stays_long_for_the_engine_to_refuse():
    assert len(builder(limit=10).build(spec(prompt="a" * 50)).token_ids) == 51


def test_a_rolling_window_keeps_the_system_prompt_and_whole_recent_turns():
    text = shortened("rolling_window", messages=TURNS)
    assert text.startswith("^system:sys;user:u")
    assert text.endswith("user:last;0assistant:")
    assert len(text) <= 225  # a quarter is for the answer
    assert len(text) > 225 - 110  # and no more is left out than has to be
    assert "u7" in text
    assert "t7" in text
    assert "u0" not in text


def test_the_middle_goes_and_the_first_turn_stays():
    text = shortened("truncate_middle", messages=TURNS)
    assert text.startswith("^system:sys;user:u0")
    assert "t0" in text
    assert "u1" not in text
    assert text.endswith("user:last;0assistant:")


def test_a_short_answer_leaves_more_room_to_the_prompt():
    fields = {"messages": TURNS, "limit": 310}
    longest = len(shortened("rolling_window", **fields))
    fields["sampling"] = SamplingParams(max_tokens=5)
    assert longest < len(shortened("rolling_window", **fields)) <= 305


@pytest.mark.parametrize("messages", [[{"role": "user", "content": "x" * 90 + "end"}], TURNS])
def test_what_no_left_out_turn_can_help_loses_tokens(messages):
    assert shortened("rolling_window", 40, messages=messages).startswith("^")
    assert shortened("truncate_middle", 40, messages=messages).endswith("0assistant:")
    assert len(shortened("truncate_middle", 40, messages=messages)) <= 30


def test_a_text_loses_its_oldest_tokens_or_its_middle():
    text = "".join(chr(97 + i % 26) for i in range(100))
    assert shortened("rolling_window", 40, prompt=text) == "^" + text[-29:]
    assert shortened("truncate_middle", 40, prompt=text) == "^" + text[:14] + text[-15:]
    assert shortened("rolling_window", 2, prompt=text) == text[-1:]


def test_a_policy_there_is_not_is_refused():
    with pytest.raises(InvalidRequestError, match="rolling_window") as caught:
        builder().build(spec(prompt="a", context_overflow="shrink"))
    assert caught.value.param == "context_overflow"
