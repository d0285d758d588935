"""Schemas by keyword, and values to try them on. What is valid is for the jsonschema package to say, not for this file.

Values keep the properties of objects in the order of the schemas, which is the order they are generated in.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

Schema = dict[str, Any]
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_STRING: Schema = {"type": "string"}
_INTEGER: Schema = {"type": "integer"}

# Integral floats such as 1.0 are left out: they are integers to JSON Schema, and never written that way.
VALUES: list[Any] = [
    *(None, True, False),
    *(0, 1, 2, 3, 5, 7, 10, 12, 99, 100, 1000, -1, -5, -20),
    *(0.5, 1.5, 2.25, -0.75, 99.5),
    *(
        "",
        "a",
        "b",
        "ab",
        "abc",
        "abcd",
        "abcdefghij",
        "A1",
        "é",
        "日本",
        "x y",
        '"',
        "\\",
        "a\tb",
        "7",
    ),
    *("red", "2024-02-29", "23:59:59Z", "2024-02-29T10:00:00Z", "P3D", "a@b.example"),
    *(
        "127.0.0.1",
        "::1",
        "www.example",
        "123e4567-e89b-12d3-a456-426614174000",
        "http://a.example/b",
    ),
    *(
        [],
        [1],
        [1, 2],
        [1, 2, 3],
        ["a"],
        ["a", "b"],
        ["a", 1],
        [1, "a"],
        [[1], []],
        [None],
        [True, 1],
    ),
    *([[]], [{}], [{"a": 1}], [1, 2, 3, 4, 5]),
    *({}, {"a": 1}, {"a": "x"}, {"a": 1, "b": 2}, {"a": 1, "b": "x"}, {"b": 2}, {"c": 3}),
    *(
        {"a": 1, "b": 2, "c": 3},
        {"a": {"a": 1}},
        {"a": [1, 2]},
        {"a": None},
        {"x1": 1},
        {"x1": "s"},
    ),
    *({"a": {"b": {"c": 1}}}, {"kind": "cat", "lives": 9}, {"kind": "dog", "good": True}),
    *(
        {"kind": "cat", "good": True},
        {"value": 1, "next": None},
        {"value": 1, "next": {"value": 2}},
    ),
    *({"a": "", "b": True}, {"a b": 1}, {"é": 1}, {"name": "ab", "tags": ["a"]}, {"name": "ab"}),
]


def _numbers() -> list[Schema]:
    bounds: list[Schema] = []
    for kind in ("integer", "number"):
        for low, high in product((None, -5, 0, 3), (None, 0, 7, 100)):
            for low_key, high_key in (
                ("minimum", "maximum"),
                ("exclusiveMinimum", "exclusiveMaximum"),
            ):
                bound = {low_key: low, high_key: high}
                schema = {"type": kind, **{k: v for k, v in bound.items() if v is not None}}
                is_empty = low is not None and high is not None and low >= high
                if schema not in bounds and not is_empty:
                    bounds.append(schema)
    bounds += [{"type": kind, "multipleOf": n} for kind in ("integer", "number") for n in (1, 2, 5)]
    bounds += [{"type": "number", "multipleOf": 0.5}, {"type": "number", "minimum": 0.5}]
    bounds += [{"type": "integer", "multipleOf": 5, "minimum": 3, "maximum": 99}]
    bounds += [{"minimum": 3}, {"maximum": 3}, {"exclusiveMaximum": 0}]
    return bounds


def _strings() -> list[Schema]:
    lengths = [
        {"type": "string", **dict(zip(("minLength", "maxLength"), pair, strict=True))}
        for pair in ((0, 0), (0, 1), (1, 1), (1, 3), (2, 2), (3, 10), (4, 100))
    ]
    lengths += [{"type": "string", "minLength": n} for n in (1, 2, 4)]
    lengths += [{"type": "string", "maxLength": n} for n in (0, 2, 9)]
    lengths += [{"maxLength": 2}, {"minLength": 2}]
    patterns = [
        "^a",
        "b$",
        "^a+$",
        "^[a-c]*$",
        "^[A-Z][0-9]$",
        "a",
        "^(ab|abc)$",
        "^.$",
        "^$",
        "x y",
    ]
    patterns += [r"^\d+$", "^[^a]", "^a{1,2}$", "(a|b)c", "^é$", "^[0-9-]+$", "^\\S+$"]
    found = lengths + [{"type": "string", "pattern": pattern} for pattern in patterns]
    found += [{"type": "string", "pattern": "^[a-j]*$", "minLength": 2, "maxLength": 4}]
    formats = ("date", "time", "date-time", "duration", "email", "ipv4", "ipv6", "hostname", "uuid")
    return found + [{"type": "string", "format": name} for name in (*formats, "uri")]


def _arrays() -> list[Schema]:
    items = [{"type": kind} for kind in _TYPES] + [
        True,
        {"enum": [1, "a"]},
        {"type": "integer", "minimum": 2},
    ]
    found: list[Schema] = [{"type": "array", "items": item} for item in items]
    for low, high in ((0, 0), (0, 1), (1, 1), (1, 2), (2, 3), (3, 9)):
        found.append({"type": "array", "minItems": low, "maxItems": high})
        found.append({"type": "array", "items": _INTEGER, "minItems": low, "maxItems": high})
    found += [{"type": "array", "minItems": n} for n in (1, 2)]
    found += [{"type": "array", "maxItems": n} for n in (0, 1, 2)]
    found += [
        {"type": "array", "prefixItems": [_INTEGER, _STRING]},
        {"type": "array", "prefixItems": [_INTEGER, _STRING], "items": False},
        {"type": "array", "prefixItems": [_STRING], "items": _INTEGER},
        {"type": "array", "prefixItems": [_INTEGER], "items": _INTEGER, "minItems": 2},
        {"type": "array", "prefixItems": [_INTEGER, _INTEGER], "items": False, "minItems": 2},
        {"type": "array", "items": {"type": "array", "items": _INTEGER}},
        {"type": "array", "items": {"type": "object", "properties": {"a": _INTEGER}}},
    ]
    return found


def _objects() -> list[Schema]:
    found: list[Schema] = []
    pairs: Schema = {"a": _INTEGER, "b": {}}
    for required, more in product(
        ([], ["a"], ["a", "b"], ["b"]), (None, True, False, _INTEGER, _STRING)
    ):
        schema: Schema = {"type": "object", "properties": pairs}
        schema |= {"required": required} if required else {}
        found.append(schema if more is None else {**schema, "additionalProperties": more})
    found += [{"type": "object", "properties": {"a": {"type": kind}}} for kind in _TYPES]
    found += [
        {"type": "object", "additionalProperties": _INTEGER},
        {"type": "object", "additionalProperties": False},
        {"type": "object", "patternProperties": {"^x": _INTEGER}},
        {"type": "object", "patternProperties": {"^x": _INTEGER}, "additionalProperties": False},
        {"type": "object", "required": ["a"]},
        {"type": "object", "minProperties": 1},
        {"type": "object", "maxProperties": 1},
        {"type": "object", "minProperties": 1, "maxProperties": 2},
        {"properties": {"a": _INTEGER}},
        {"type": "object", "properties": {"a b": _INTEGER, "é": _INTEGER}},
        {
            "type": "object",
            "properties": {"a": {"type": "object", "properties": {"b": {"type": "object"}}}},
        },
        {
            "type": "object",
            "properties": {"name": _STRING, "tags": {"type": "array", "items": _STRING}},
            "required": ["name"],
            "additionalProperties": False,
        },
    ]
    return found


def _choices() -> list[Schema]:
    found: list[Schema] = [{"type": kind} for kind in _TYPES]
    found += [{"type": [one, other]} for one, other in pairwise(_TYPES) if one != "integer"]
    found += [
        {"const": value}
        for value in (None, True, 0, 7, 1.5, "", "a", "é", [], [1, 2], {}, {"a": 1})
    ]
    found += [
        {"enum": ["red", "a", 7]},
        {"enum": [None]},
        {"enum": [[1], {"a": 1}]},
        {"type": "string", "enum": ["a", "abc"]},
        {"type": "integer", "enum": [1, 2, 3]},
        {"enum": ["a", "ab", "abc", "abcd"]},
        {"type": ["string", "null"], "maxLength": 2},
        {"type": ["integer", "string"], "minimum": 3, "minLength": 2},
    ]
    cat: Schema = {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": _INTEGER}}
    dog: Schema = {
        "type": "object",
        "properties": {"kind": {"const": "dog"}, "good": {"type": "boolean"}},
    }
    for animal in (cat, dog):
        animal |= {"required": list(animal["properties"]), "additionalProperties": False}
    for keyword in ("anyOf", "oneOf"):
        found += [
            {keyword: [_STRING, _INTEGER]},
            {keyword: [{"type": "null"}, {"type": "boolean"}, {"type": "array"}]},
            {keyword: [{"const": "a"}, {"const": 7}]},
            {keyword: [cat, dog]},
            {"type": "object", "properties": {"a": {keyword: [_INTEGER, {"type": "null"}]}}},
        ]
    found += [
        {"anyOf": [_INTEGER, {"type": "number"}]},
        {"anyOf": [{"minimum": 5}, _STRING]},
        {"allOf": [_STRING, {"maxLength": 3}]},
        {"allOf": [_INTEGER, {"minimum": 2}, {"maximum": 7}]},
        {"allOf": [{"properties": {"a": _INTEGER}}, {"required": ["a"]}], "type": "object"},
        {"allOf": [{"anyOf": [_STRING, _INTEGER]}, {"maximum": 5}]},
        {"type": "string", "allOf": [{"minLength": 2}], "maxLength": 4},
    ]
    return found


def _references() -> list[Schema]:
    node: Schema = {
        "type": "object",
        "properties": {
            "value": _INTEGER,
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    }
    tree: Schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#"}},
        "additionalProperties": False,
    }
    return [
        {"$ref": "#/$defs/n", "$defs": {"n": _INTEGER}},
        {"$ref": "#/definitions/n", "definitions": {"n": _STRING}},
        {"$ref": "#/$defs/node", "$defs": {"node": node}},
        {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"enum": [1, 2]}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "boolean"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": _INTEGER}},
        {"$ref": "#/$defs/x~1y", "$defs": {"x/y": _INTEGER}},
        {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}, "b": _INTEGER}},
        {
            "anyOf": [{"$ref": "#/$defs/list"}, _INTEGER],
            "$defs": {"list": {"type": "array", "items": _INTEGER}},
        },
        tree,
        {"type": "array", "items": {"$ref": "#"}},
    ]


def _remarks() -> list[Schema]:
    notes: Schema = {
        "title": "T",
        "description": "D",
        "default": 1,
        "examples": [2],
        "deprecated": True,
    }
    notes |= {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "c",
        "x-own": 1,
    }
    return [{**notes, "type": kind} for kind in _TYPES] + [notes, {}]


SCHEMAS: dict[str, list[Schema]] = {
    "numbers": _numbers(),
    "strings": _strings(),
    "arrays": _arrays(),
    "objects": _objects(),
    "choices": _choices(),
    "references": _references(),
    "remarks": _remarks(),
}
