"""JSON Schema keyword by keyword: what the masks allow is what the jsonschema package calls valid, and nothing else."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from slipstream import LLM, FinishReason, LoadConfig, SamplingParams
from slipstream.base.types import GenerationSpec, OutputFormat
from slipstream.engine.grammar import GrammarCompiler
from tests.support.json_schema_cases import SCHEMAS, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipstream.native import Model
    from tests.support.json_schema_cases import Schema

# By the RFCs as far as the values need it; jsonschema itself checks only some formats without further packages.
_FORMATS = {
    "date": r"\d{4}-\d\d-\d\d",
    "time": r"\d\d:\d\d:\d\d(\.\d+)?([zZ]|[+-]\d\d:\d\d)",
    "date-time": r"\d{4}-\d\d-\d\d[tT]\d\d:\d\d:\d\d(\.\d+)?([zZ]|[+-]\d\d:\d\d)",
    "duration": r"P[\dYMWDTHS]+",
    "email": r"[^@ ]+@[^@ ]+",
    "ipv4": r"\d+(\.\d+){3}",
    "ipv6": r"[0-9a-fA-F:.]*:[0-9a-fA-F:.]*",
    "hostname": r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:\S*",
}


def format_checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, pattern in _FORMATS.items():

        def is_valid(value: object, pattern: str = pattern) -> bool:
            return not isinstance(value, str) or bool(re.fullmatch(pattern, value))

        checker.checks(name)(is_valid)
    return checker


def validator(schema: Schema) -> Draft202012Validator:
    return Draft202012Validator(schema, format_checker=format_checker())


def schema_format(schema: Schema) -> OutputFormat:
    return OutputFormat(kind="json_schema", value=json.dumps(schema))


def test_there_are_a_few_hundred() -> None:
    assert sum(map(len, SCHEMAS.values())) >= 250


@pytest.mark.parametrize("family", SCHEMAS)
def test_a_value_is_allowed_where_it_is_valid_and_nowhere_else(model: Model, family: str) -> None:
    compiler = GrammarCompiler(model)
    texts = [json.dumps(value, ensure_ascii=False) for value in VALUES]
    token_ids = [model.tokenize(text, add_special=False, parse_special=False) for text in texts]
    for schema in SCHEMAS[family]:
        valid = validator(schema)
        for value, ids in zip(VALUES, token_ids, strict=True):
            matcher = compiler.matcher(schema_format(schema))
            is_allowed = matcher.num_allowed(ids) == len(ids)
            if is_allowed:
                matcher.accept(ids)
                is_allowed = matcher.can_end
            assert is_allowed == valid.is_valid(value), (schema, value)


@pytest.mark.parametrize("family", SCHEMAS)
def test_what_a_random_model_says_is_valid(tiny_path: Callable[[str], Path], family: str) -> None:
    """A bias for what closes texts, lists and objects keeps it short; only endless numbers are cut."""
    config = LoadConfig(context_length=2048, parallel=8, threads=1, max_waiting=1000)
    with LLM(tiny_path("llama"), config) as llm:
        (comma,) = llm.tokenize(",")
        closing = [llm.tokenize(text)[0] for text in ('"', "}", "]")]
        blanks = [llm.tokenize(text)[0] for text in (" ", "\n", "\r", "\t")]
        bias = dict.fromkeys(closing, 8.0) | dict.fromkeys(blanks, -30.0) | {comma: -6.0, 2: 8.0}
        sampling = SamplingParams(temperature=1.0, seed=7, max_tokens=150, logit_bias=bias)
        schemas = SCHEMAS[family]
        results = llm.run(
            [
                GenerationSpec(
                    request_id=str(index),
                    prompt=f"{index}: ",
                    sampling=sampling,
                    output_format=schema_format(schema),
                )
                for index, schema in enumerate(schemas)
            ]
        )
    num_whole = 0
    for result, schema in zip(results, schemas, strict=True):
        if result.finish_reason is FinishReason.STOP:
            num_whole += 1
            assert not list(validator(schema).iter_errors(json.loads(result.text))), (
                schema,
                result.text,
            )
    assert num_whole >= 0.8 * len(schemas)
