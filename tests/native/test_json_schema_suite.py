"""The official JSON Schema Test Suite: no mask allows an invalid value, and what is refused is refused by name."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from slipstream.base.errors import GrammarError
from slipstream.base.types import OutputFormat
from slipstream.engine.grammar import GrammarCompiler
from tests.support.json_schema_suite import SUITE, suite_cases

if TYPE_CHECKING:
    from slipstream.native import Model

# Valid values that a grammar never writes: its objects have the properties in the order of the schema.
OTHER_ORDER = {
    ("allOf", "allOf", "allOf"),
    ("allOf", "allOf with base schema", "valid"),
    ("const", "const with object", "same object with different property order is valid"),
}
# Why a schema can be refused.
REASONS = [
    r"keywords that are not supported: \"",
    r"Unsatisfiable schema",
    r"Unknown format: ",
    r"oneOf constraints are not supported",
    r"patternProperty regexes .* are not disjoint",
    r"Resource 'http://localhost:1234/",  # of elsewhere; nothing is fetched
    r"Expected positive integer for '\w+', got \d\.0",
    r"'multipleOf' has too many digits",
    r"Expecting object schema",
]
# Keywords that docs/api.md says are supported: their files have schemas that are served.
SERVED = (
    "additionalProperties allOf anchor anyOf const default enum exclusiveMaximum exclusiveMinimum format items "
    "maxItems maxLength maxProperties maximum minItems minLength minProperties minimum multipleOf oneOf pattern "
    "patternProperties prefixItems properties ref required type"
)


def has_integral_float(value: Any) -> bool:
    """Whether a value has such as 1.0, which is an integer to JSON Schema and never written that way."""
    if isinstance(value, dict):
        return any(map(has_integral_float, value.values()))
    if isinstance(value, list):
        return any(map(has_integral_float, value))
    return isinstance(value, float) and value.is_integer()


@pytest.fixture(scope="module")
def suite() -> list[Any]:
    if not SUITE.is_file():
        pytest.skip(f"{SUITE} is missing; `python -m tests.support.json_schema_suite` brings it")
    return suite_cases()


def test_the_suite(model: Model, suite: list[Any]) -> None:
    compiler = GrammarCompiler(model)
    served: dict[str, int] = {}
    num_values = 0
    for keyword, description, schema, values in suite:
        form = OutputFormat(kind="json_schema", value=json.dumps(schema))
        problem = ""
        try:
            compiler.matcher(form)
        except GrammarError as error:
            problem = str(error)
        if problem:
            assert any(re.search(reason, problem) for reason in REASONS), problem
            continue
        served[keyword] = served.get(keyword, 0) + 1
        for what, value, is_valid in values:
            text = json.dumps(value, ensure_ascii=False)
            ids = model.tokenize(text, add_special=False, parse_special=False)
            matcher = compiler.matcher(form)
            is_allowed = matcher.num_allowed(ids) == len(ids)
            if is_allowed:
                matcher.accept(ids)
                is_allowed = matcher.can_end
            num_values += 1
            is_written_otherwise = (
                has_integral_float(value)
                or (keyword, description, what) in OTHER_ORDER
                or "only an annotation by default" in what  # here, a format is a promise
            )
            if is_allowed or not is_written_otherwise:
                assert is_allowed == is_valid, (keyword, description, what, text)
    assert [name for name in SERVED.split() if not served.get(name)] == []
    assert sum(served.values()) >= 160
    assert num_values >= 550
