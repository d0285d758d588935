"""Tool calls and reasoning of each family of templates, whole and character by character. Templates are llama.cpp's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.types import GenerationSpec, OutputFormat, Reasoning
from slipstream.chat.role_affixes import RoleAffixes
from slipstream.chat.template import CHATML, ChatTemplate
from slipstream.engine.grammar import GrammarCompiler
from tests.support.chat_templates import llama_cpp_template

if TYPE_CHECKING:
    from slipstream.chat.plan import PromptPlan
    from slipstream.native import Model

HELLO = [{"role": "user", "content": "Weather in Rome?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get weather",  # the model and its output see get_weather
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
ROME = {"city": "Rome"}
ROME_3 = {"city": "Rome", "days": 3}


class Case(NamedTuple):
    """A template, what its model says, and what that means."""

    template: str
    output: str
    calls: list[tuple[str, dict[str, Any]]]
    content: str = ""
    reasoning: str = ""


CASES = {
    "qwen2.5": Case(
        "Qwen-Qwen2.5-7B-Instruct",
        'I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        [("get weather", ROME), ("now", {})],
        "I look.",
    ),
    "qwen3": Case(
        "Qwen-Qwen3-0.6B",
        "<think>\nA < b, so I ask.\n</think>\n\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>',
        [("get weather", ROME_3)],
        reasoning="A < b, so I ask.",
    ),
    "qwq": Case(
        "Qwen-QwQ-32B",
        'Hm.\n</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        [("now", {})],
        reasoning="Hm.",
    ),
    "qwen3-coder": Case(
        "Qwen3-Coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        [("get weather", ROME_3)],
    ),
    "hermes": Case(
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        [("get weather", ROME)],
    ),
    "llama3": Case(
        "meta-llama-Llama-3.1-8B-Instruct",
        '{"name": "get_weather", "parameters": {"city": "Rome"}}',
        [("get weather", ROME)],
    ),
    "mistral-nemo": Case(
        "mistralai-Mistral-Nemo-Instruct-2407",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}, "id": "123456789"}]',
        [("get weather", ROME)],
    ),
    "mistral-small": Case(
        "Mistral-Small-3.2-24B-Instruct-2506",
        '[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{"city": "Rome"}',
        [("get weather", ROME)],
    ),
    "deepseek-r1": Case(
        "llama-cpp-deepseek-r1",
        (
            "Hm.</think>\n\n<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>get_weather\n```json\n"
            '{"city": "Rome"}\n```<|tool▁call▁end|><|tool▁calls▁end|>'
        ).replace("|", "\uff5c"),  # its bars are wide ones
        [("get weather", ROME)],
        reasoning="Hm.",
    ),
    "deepseek-r1-distill": Case(  # knows no tools
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        'Hm.\n</think>\n\nSo:\n[TOOL_REQUEST]{"name": "get_weather", "arguments": {"city": "Rome"}}[END_TOOL_REQUEST]',
        [("get weather", ROME)],
        "So:",
        "Hm.",
    ),
    "gemma2": Case(  # knows neither tools nor a system message
        "google-gemma-2-2b-it",
        'Ok. [TOOL_REQUEST]{"name": "get_weather", "arguments": {"city": "Rome"}}[END_TOOL_REQUEST]\n'
        '[TOOL_REQUEST]{"name": "now", "arguments": {}}[END_TOOL_REQUEST]',
        [("get weather", ROME), ("now", {})],
        "Ok.",
    ),
    "gemma4": Case(
        "google-gemma-4-31B-it",
        '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:3}<tool_call|>',
        [("get weather", ROME_3)],
    ),
    "phi3.5": Case(  # knows no tools
        "microsoft-Phi-3.5-mini-instruct",
        '[TOOL_REQUEST]{"name": "now", "arguments": {}}[END_TOOL_REQUEST]',
        [("now", {})],
    ),
    "gpt-oss": Case(
        "openai-gpt-oss-120b",
        "<|channel|>analysis<|message|>I ask.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}',
        [("get weather", ROME)],
        reasoning="I ask.",
    ),
    "command-r7b": Case(
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "<|START_THINKING|>I plan.<|END_THINKING|><|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Rome"}},\n'
        '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
        [("get weather", ROME), ("now", {})],
        reasoning="I plan.",
    ),
    "granite4": Case(
        "ibm-granite-granite-4.0",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        [("get weather", ROME)],
    ),
    "granite3.3": Case(  # describes tools, and says nothing of calls
        "ibm-granite-granite-3.3-2B-Instruct",
        '[TOOL_REQUEST]{"name": "now", "arguments": {}}[END_TOOL_REQUEST]',
        [("now", {})],
    ),
    "glm4.6": Case(
        "GLM-4.6",
        "<think>Hm.</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
        [("get weather", ROME)],
        reasoning="Hm.",
    ),
}


def load(name: str) -> ChatTemplate:
    return ChatTemplate(llama_cpp_template(name), "<s>", "</s>")


def planned(template: ChatTemplate | RoleAffixes, **fields: Any) -> PromptPlan:
    messages = fields.pop("messages", HELLO)
    spec = GenerationSpec(request_id="r", messages=messages, parse_output=True, **fields)
    return template.plan(spec, messages)


def split(plan: PromptPlan, pieces: list[str]) -> tuple[str, str, list[tuple[str, str]]]:
    """Return content, reasoning and (name, arguments) of the calls that the pieces add up to."""
    assert plan.parser is not None
    text = reasoning = ""
    calls: list[list[str]] = []
    for index, piece in enumerate(pieces):
        delta = plan.parser.feed(piece, is_last=index == len(pieces) - 1)
        text += delta.text
        reasoning += delta.reasoning
        for call in delta.tool_calls:
            if call.call_id:
                assert call.name
                calls.append([call.name, ""])
            else:
                assert not call.name, "a name is told once"
            calls[call.index][1] += call.arguments
    return text, reasoning, [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize("family", CASES)
def test_a_call_is_understood_however_it_comes(family: str) -> None:
    case = CASES[family]
    template = load(case.template)
    whole = split(planned(template, tools=TOOLS), [case.output])
    assert (whole[0], whole[1]) == (case.content, case.reasoning)
    assert [(name, json.loads(arguments)) for name, arguments in whole[2]] == case.calls
    assert split(planned(template, tools=TOOLS), list(case.output)) == whole


@pytest.mark.parametrize("family", CASES)
def test_words_with_tools_at_hand_are_content(family: str) -> None:
    template = load(CASES[family].template)
    answer = "Sunny, {1, 2} < 3 [maybe]. "
    plan = planned(template, tools=TOOLS, reasoning=Reasoning(effort="off"))
    assert split(plan, [answer])[0].rstrip() == answer.rstrip()
    plan = planned(template, tools=TOOLS, reasoning=Reasoning(effort="off"))
    assert split(plan, list(answer))[0].rstrip() == answer.rstrip()


@pytest.mark.parametrize("family", CASES)
def test_an_answer_that_is_cut_off_adds_up_to_the_same(family: str) -> None:
    template, output = load(CASES[family].template), CASES[family].output
    for end in range(5, len(output), 17):
        whole = split(planned(template, tools=TOOLS), [output[:end]])
        for name, _arguments in whole[2]:
            assert name in ("get weather", "now")
        piecewise = split(planned(template, tools=TOOLS), list(output[:end]))
        assert (piecewise[0], piecewise[1]) == (whole[0], whole[1])
        assert [name for name, _ in piecewise[2]] == [name for name, _ in whole[2]]


@pytest.mark.parametrize("family", CASES)
def test_every_family_has_a_grammar_for_a_call_that_must_be(family: str) -> None:
    template = load(CASES[family].template)
    plan = planned(template, tools=TOOLS, tool_choice="name:now")
    assert plan.calls is not None
    assert "now" in plan.calls.text
    assert "get_weather" not in plan.calls.text, "only the named tool can be called"
    assert plan.calls.triggers == ()
    assert "get_weather" in plan.text, "but all are shown"


@pytest.mark.parametrize("family", CASES)
def test_results_of_tools_can_be_shown(family: str) -> None:
    function = {"name": "get weather", "arguments": '{"city": "Rome"}'}
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "123456789", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "123456789", "content": "sunny and 21"},
    ]
    plan = planned(load(CASES[family].template), tools=TOOLS, messages=messages)
    assert "sunny and 21" in plan.text
    assert "get_weather" in plan.text
    assert "get weather" not in plan.text


PARAMETERS = {
    "refs at the root": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"enum": ["x", "y"]}},
    },
    "a pattern no grammar has": {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "(?<=b)c"}},
        "required": ["a"],
    },
    "a reference to nowhere": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}},
    "no type": {"properties": {"a": {"type": "integer"}}},
    "a boolean": {"type": "object", "properties": {"a": True}},
    "combined": {"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"not": {}}]}}},
}


@pytest.mark.parametrize("parameters", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "Qwen3-Coder", "google-gemma-2-2b-it"])
def test_parameters_of_any_kind_can_be_told_of(name: str, parameters: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "t", "parameters": parameters}}
    for choice in ("auto", "required"):
        plan = planned(load(name), tools=[tool], tool_choice=choice)
        assert plan.calls is not None
        assert plan.parser is not None


@pytest.mark.parametrize("name", ["Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"])
def test_reasoning_that_the_prompt_begins_can_be_off(name: str) -> None:
    template = load(name)
    on, off = planned(template), planned(template, reasoning=Reasoning(effort="off"))
    assert on.thinking is not None
    assert off.thinking is not None
    assert (on.thinking.is_open, off.thinking.is_open) == (True, False)
    assert off.text.rstrip().endswith("</think>")
    assert split(on, ["Hm.</think>Yes."])[:2] == ("Yes.", "Hm.")
    assert split(off, ["Yes."])[:2] == ("Yes.", "")


@pytest.mark.parametrize(
    "name", ["Qwen-QwQ-32B", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "Qwen-Qwen3-0.6B"]
)
def test_a_model_that_thinks_though_the_prompt_has_ended_it_is_understood(name: str) -> None:
    for reasoning in (Reasoning(effort="off"), Reasoning(budget=0, effort="off")):
        for said, thought in (
            (["</think>", "\n\nYes."], ""),
            (["<think>", "\n\n</think>", " \n\nYes."], ""),
            (["<th", "ink>Hm. ", "So.\n</thi", "nk>Yes."], "Hm. So."),
        ):
            off = planned(load(name), reasoning=reasoning)
            assert split(off, said)[:2] == ("Yes.", thought)
    off = planned(load(name), reasoning=Reasoning(effort="off"), output_format=SCHEMA)
    assert off.lead is not None
    assert off.lead.thinking is None, "a grammar has no place for it"


def test_a_template_has_its_own_switch() -> None:
    template = load("Qwen-Qwen3-0.6B")
    off = planned(template, reasoning=Reasoning(effort="off"))
    assert off.text.endswith("<think>\n\n</think>\n\n")
    assert split(off, ["Yes."])[:2] == ("Yes.", "")
    kept = planned(template, reasoning=Reasoning(effort="on"))
    assert kept.text.endswith("<|im_start|>assistant\n")


def test_efforts_reach_the_template() -> None:
    template = load("openai-gpt-oss-120b")
    for effort in ("low", "high"):
        assert f"Reasoning: {effort}" in planned(template, reasoning=Reasoning(effort=effort)).text


def test_a_model_that_does_not_reason_says_so_only_where_it_must() -> None:
    template = ChatTemplate(CHATML)
    assert planned(template, reasoning=Reasoning(effort="high")).parser is None
    with pytest.raises(InvalidRequestError, match="does not reason"):
        planned(template, reasoning=Reasoning(effort="on", is_required=True))
    with pytest.raises(InvalidRequestError, match="reasoning is 'much'"):
        planned(template, reasoning=Reasoning(effort="much"))


def test_manual_affixes_have_the_default_format() -> None:
    affixes = RoleAffixes({"user": ("U: ", "\n"), "assistant": ("A: ", "\n")})
    plan = planned(affixes, tools=TOOLS)
    assert plan.text.startswith("U: You can use tools.")
    assert plan.text.endswith("A: ")
    output = '[TOOL_REQUEST]{"name": "now", "arguments": {}}[END_TOOL_REQUEST]'
    assert split(plan, list(output))[2] == [("now", "{}")]


def test_a_level_is_refused_where_a_model_has_none_and_it_is_required() -> None:
    required = Reasoning(effort="high", is_required=True)
    with pytest.raises(InvalidRequestError, match="no levels"):
        planned(load("Qwen-Qwen3-0.6B"), reasoning=required)
    assert "Reasoning: high" in planned(load("openai-gpt-oss-120b"), reasoning=required).text
    assert planned(load("Qwen-Qwen3-0.6B"), reasoning=Reasoning(effort="high")).text


SCHEMA = OutputFormat(
    kind="json_schema",
    value='{"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}',
)
# What a model says with a form of the content and tools, and what that is: content, reasoning, calls.
HARMONY = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FORMED: dict[str, list[tuple[str, str, str, list[str]]]] = {
    "openai-gpt-oss-120b": [
        ('<|channel|>final<|message|>{"a": 1}', '{"a": 1}', "", []),
        (f'{HARMONY}<|channel|>final<|message|>{{"a": 1}}', '{"a": 1}', "Hm.", []),
        (
            f"{HARMONY}<|channel|>commentary to=functions.now <|constrain|>json<|message|>{{}}",
            "",
            "Hm.",
            ["now"],
        ),
        ("<|channel|>commentary to=functions.now<|message|>{}", "", "", ["now"]),
    ],
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": [
        ('<|START_RESPONSE|>{"a": 1}', '{"a": 1}', "", []),
        (
            '<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>{"a": 1}',
            '{"a": 1}',
            "Hm.",
            [],
        ),
        (
            "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n"
            '    {"tool_call_id": "0", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
            "",
            "Hm.",
            ["now"],
        ),
    ],
    "meetkai-functionary-medium-v3.2": [
        ('all\n{"a": 1}', '{"a": 1}', "", []),
        ("now\n{}", "", "", ["now"]),
    ],
    "meta-llama-Llama-3.1-8B-Instruct": [
        ('{"a": 1}', '{"a": 1}', "", []),
        ('{"name": "now", "parameters": {}}', "", "", ["now"]),
    ],
    "Qwen-Qwen3-0.6B": [
        ('{"a": 1}', '{"a": 1}', "", []),
        ('<think>Hm.</think>\n\n{"a": 1}', '{"a": 1}', "Hm.", []),
        (
            '<think>Hm.</think>\n\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
            "",
            "Hm.",
            ["now"],
        ),
    ],
    "deepseek-ai-DeepSeek-V3.1": [('Hm.</think>{"a": 1}', '{"a": 1}', "Hm.", [])],
}


@pytest.mark.parametrize("name", FORMED)
def test_content_with_a_form_stands_where_the_template_puts_content(
    model: Model, name: str
) -> None:
    template, compiler = load(name), GrammarCompiler(model)
    for tools in (TOOLS, None):
        for output, content, reasoning, calls in FORMED[name]:
            if calls and not tools:
                continue
            plan = planned(template, tools=tools, output_format=SCHEMA)
            assert plan.lead is not None
            matcher = compiler.matcher(SCHEMA, plan.lead)
            ids = model.tokenize(output, add_special=False, parse_special=False)
            assert matcher.num_allowed(ids) == len(ids), output[: matcher.num_allowed(ids)]
            matcher.accept(ids)
            assert matcher.can_end
            if plan.parser is None:
                assert (content, reasoning) == (output, "")
                continue
            text, thought, called = split(plan, list(output))
            assert (text.strip(), thought.strip()) == (content, reasoning)
            assert [called_name for called_name, _ in called] == calls


@pytest.mark.parametrize("name", FORMED)
def test_content_of_another_form_is_not_allowed_anywhere(model: Model, name: str) -> None:
    template, compiler = load(name), GrammarCompiler(model)
    plan = planned(template, tools=TOOLS, output_format=SCHEMA)
    for output, content, _reasoning, _calls in FORMED[name]:
        if content:
            wrong = output.replace(content, '{"b": 1}')
            ids = model.tokenize(wrong, add_special=False, parse_special=False)
            assert compiler.matcher(SCHEMA, plan.lead).num_allowed(ids) < len(ids)


def test_a_template_that_cannot_tell_calls_from_content_says_so() -> None:
    plan = planned(load("muse-glimmer"), tools=TOOLS, output_format=SCHEMA)
    assert plan.lead is None
