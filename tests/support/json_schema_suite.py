"""Brings the official JSON Schema Test Suite: python -m tests.support.json_schema_suite. Knows no test.

The suite is no package of its own, but the source distribution of `jsonschema` carries it. Unpacked once for all
checkouts of a user, into the user's cache.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.minilm import CACHE
from tests.support.packages import download

PACKAGE = "jsonschema==4.23.0"
HASH = "sha256:d71497fef26351a33265337fa77ffeb82423f3ea21283cd9467bb03999266bc4"
SUITE = CACHE / "json-schema-suite-2020-12.json"
_FOLDER = "json/tests/draft2020-12/"


class SuiteCase(NamedTuple):
    """A schema of the suite, and (what it is, a value, whether that is valid)."""

    keyword: str
    description: str
    schema: Any
    values: list[tuple[str, Any, bool]]


def bring_suite() -> Path:
    """Make sure the suite is there; returns at once when it is."""
    if SUITE.is_file():
        return SUITE
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        source = download(PACKAGE, HASH, Path(name), "--no-binary", ":all:")
        found: dict[str, Any] = {}
        with tarfile.open(source) as archive:
            for member in archive:
                _, is_ours, path = member.name.partition(_FOLDER)
                text = archive.extractfile(member) if is_ours and path.endswith(".json") else None
                if text is not None and "/" not in path:
                    found[path.removesuffix(".json")] = json.load(text)
        partial = Path(name) / "suite.json"
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(SUITE)
    return SUITE


def suite_cases() -> list[SuiteCase]:
    """Return every schema of the suite."""
    found = json.loads(SUITE.read_text(encoding="utf-8"))
    return [
        SuiteCase(
            keyword,
            group["description"],
            group["schema"],
            [(test["description"], test["data"], test["valid"]) for test in group["tests"]],
        )
        for keyword, groups in sorted(found.items())
        for group in groups
    ]


if __name__ == "__main__":
    bring_suite()
