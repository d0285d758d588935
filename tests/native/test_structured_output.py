"""Structured output on tiny random models: what they say is what was asked for, alone, drafted and in batches."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from slipstream import LLM, FinishReason, LoadConfig, SamplingParams
from slipstream.base.errors import GrammarError
from slipstream.base.types import (
    GenerationSpec,
    OutputDelta,
    OutputFormat,
    RequestFailed,
    Speculation,
)
from slipstream.engine.grammar import Matcher
from slipstream.engine.request import Request, check_request
from tests.support.hand_driven import HandDrivenEngine
from tests.support.together import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from slipstream import GenerationResult
    from slipstream.base.types import Event

CONFIG = LoadConfig(context_length=512, parallel=4, threads=1)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(tiny_path: Callable[[str], Path]) -> Iterator[LLM]:
    with LLM(tiny_path("llama"), CONFIG) as llm:
        yield llm


def spec(request_id: str, kind: str, value: Any = "", **fields: Any) -> GenerationSpec:
    sampling = {"temperature": 1.0, "seed": 1, "max_tokens": 300, **fields.pop("sampling", {})}
    text = value if isinstance(value, str) else json.dumps(value)
    return GenerationSpec(
        request_id=request_id,
        prompt="say it: ",
        sampling=SamplingParams(**sampling),
        output_format=OutputFormat(kind=kind, value=text, name="response_format"),
        **fields,
    )


def one(llm: LLM, *args: Any, **fields: Any) -> GenerationResult:
    return llm.run([spec("one", *args, **fields)])[0]


@pytest.mark.parametrize(
    ("kind", "value", "pattern"),
    [
        ("regex", "[0-9]{3}-[a-f]{2}", "[0-9]{3}-[a-f]{2}"),
        ("choice", ["yes", "no", 'a "quoted" é'], 'yes|no|a "quoted" é'),
        ("lark", 'start: "<" /[a-c]{2,4}/ ">"', "<[a-c]{2,4}>"),
        ("gbnf", 'root ::= "<" [a-c] [a-c] ">"', "<[a-c]{2}>"),
        ("json_schema", {"enum": ["red", 7, None]}, '"red"|7|null'),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_output_is_what_was_asked_for(
    llm: LLM, kind: str, value: Any, pattern: str, seed: int
) -> None:
    result = one(llm, kind, value, sampling={"seed": seed})
    assert re.fullmatch(pattern, result.text)
    assert result.finish_reason is FinishReason.STOP


def test_it_ends_when_nothing_can_follow_without_a_further_token(llm: LLM) -> None:
    plain = Speculation(source="off")
    result = one(llm, "regex", "[a-c]{5}", sampling={"ignore_eos": True}, speculation=plain)
    assert result.finish_reason is FinishReason.STOP
    assert result.usage.num_output_tokens <= 5


def test_the_end_token_ends_it_where_more_could_follow(llm: LLM) -> None:
    result = one(llm, "regex", "[a-c]+", sampling={"logit_bias": {0: 50.0}, "ignore_eos": True})
    assert re.fullmatch("[a-c]+", result.text)
    assert result.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("json_schema", {"not": {"type": "string"}}, '"not"'),
        ("json_schema", {"type": "array", "uniqueItems": True}, "uniqueItems"),
        ("json_schema", {"type": "strin"}, "strin"),
        ("json_schema", {"$ref": "#/$defs/a"}, r"/\$defs/a"),
        ("json_schema", {"$ref": "http://127.0.0.1:9/x"}, "does not fetch"),
        ("json_schema", {"type": "integer", "minimum": 3, "maximum": 1}, "minimum"),
        ("json_schema", "{", "EOF"),
        ("json_schema", "[" * 100, "deep"),
        ("json_schema", '"' + "a" * 300_000 + '"', "characters"),
        ("regex", "(a", "unclosed"),
        ("regex", "(?=a)b", "look-ahead"),
        ("choice", [], "choices"),
        ("choice", [""], "choices"),
        ("lark", "start: foo", "foo"),
        ("yaml", "", "yaml"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    llm: LLM, kind: str, value: Any, what: str
) -> None:
    with pytest.raises(GrammarError, match=what) as caught:
        one(llm, kind, value)
    assert caught.value.param == "response_format"
    assert "<state>" not in caught.value.message
    assert "backtrace" not in caught.value.message


SAMPLINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 1.0, "seed": 6, "repeat_penalty": 1.2},
    {"temperature": 1.0, "seed": 7, "typical_p": 0.9},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("num_drafts", [1, 4, 8])
def test_drafts_change_nothing(llm: LLM, sampling: dict[str, Any], num_drafts: int) -> None:
    """A pattern that repeats itself is drafted from its own text; the grammar forbids drafts now and then."""
    rows = {"type": "array", "items": PERSON, "minItems": 3, "maxItems": 3}
    formats = [("regex", "(ab|abc){12}"), ("json_schema", rows)]
    for kind, value in formats:
        plain = one(llm, kind, value, sampling=sampling, speculation=Speculation(source="off"))
        drafts = Speculation(source="ngram", num_tokens=num_drafts)
        drafted = one(llm, kind, value, sampling=sampling, speculation=drafts)
        assert drafted.token_ids == plain.token_ids
        assert drafted.finish_reason is plain.finish_reason


def test_drafts_are_accepted_under_a_grammar(llm: LLM) -> None:
    drafts = Speculation(source="ngram", num_tokens=4)
    result = one(llm, "regex", "(abcdefgh){8}", speculation=drafts)
    assert result.text == "abcdefgh" * 8
    assert result.usage.num_accepted_tokens > 30
    assert result.usage.num_rejected_tokens == 0  # what is forbidden was cut


def test_each_of_a_batch_keeps_to_its_own_grammar(llm: LLM) -> None:
    formats = [("regex", "[0-9]{20}"), ("json_schema", PERSON), ("choice", ["only this"])] * 3
    specs = [
        spec(f"{i}", kind, value, sampling={"seed": i}) for i, (kind, value) in enumerate(formats)
    ]
    free = GenerationSpec(
        request_id="free", prompt="say it: ", sampling=SamplingParams(temperature=0, max_tokens=30)
    )
    alone = llm.run([free])[0]
    results = llm.run([*specs, free])
    for result, (kind, value) in zip(results, formats, strict=False):
        if kind == "regex":
            assert re.fullmatch("[0-9]{20}", result.text)
        elif kind == "choice":
            assert result.text == value[0]
        else:
            assert json.loads(result.text).keys() == {"name", "age"}
    assert results[-1].token_ids == alone.token_ids


def test_a_preempted_request_goes_on_where_it_was(tiny_path: Callable[[str], Path]) -> None:
    config = LoadConfig(context_length=256, parallel=3, threads=1, speculation="off")
    with LLM(tiny_path("llama"), config) as small:
        specs = [spec(f"{i}", "regex", f"{i}[a-f]{{99}}") for i in range(3)]
        with together(small, len(specs)):
            results = small.run(specs)
        assert small.stats().preemptions_total > 0
    for i, result in enumerate(results):
        assert re.fullmatch(f"{i}[a-f]{{99}}", result.text)


class Overtaxed(Matcher):
    """A matcher that gives up after some masks, as llguidance does where a grammar is too complex."""

    num_masks = 3

    def write_masks(self, address: int, mask_bytes: int, draft_token_ids: Sequence[int]) -> None:
        self.num_masks -= 1
        super().write_masks(address, mask_bytes, draft_token_ids)
        if self.num_masks < 0:
            message = "too complex"
            raise GrammarError(message)

    def accept(self, token_ids: Iterable[int]) -> None:
        super().accept(token_ids)
        if self.num_masks < 0:
            message = "too complex"
            raise GrammarError(message)


def test_a_grammar_that_becomes_too_complex_ends_its_own_request_only(
    tiny_path: Callable[[str], Path],
) -> None:
    engine = HandDrivenEngine(tiny_path("llama"), CONFIG)
    matchers = [
        engine.runner.matcher(OutputFormat(kind="regex", value="[a-f]{20}")) for _ in range(2)
    ]
    matchers[1] = Overtaxed(*(getattr(matchers[1], name) for name in ("_native", "_eog_ids")))
    requests = [
        Request(str(i), [40, 41, 42], SamplingParams(seed=i, max_tokens=40), matcher=matcher)
        for i, matcher in enumerate(matchers)
    ]
    for request in requests:
        check_request(request, engine.runner.info)
        engine.scheduler.add(request, 0.0)
    events: dict[str, list[Event]] = {"0": [], "1": []}
    while engine.scheduler.has_requests:
        output = engine.scheduler.schedule(0.0)
        engine.scheduler.update_from_output(output, engine.runner.step(output.scheduled), 0.0)
        engine.scheduler.check_integrity()
        for event in engine.scheduler.take_events()[0]:
            events[event.request_id].append(event)
    assert isinstance(events["0"][-1], OutputDelta)
    assert requests[0].num_output_tokens == 20
    failed = events["1"][-1]
    assert isinstance(failed, RequestFailed)
    assert (failed.error, failed.message) == ("GrammarError", "too complex")
