"""Schemathesis makes requests from our OpenAPI document; a real server with a tiny model answers each of them."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("schemathesis", reason="make test-clients has an environment with it")

import hypothesis
import schemathesis

from tests.support.processes import PYTHON, ROOT, ServerProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
MAX_EXAMPLES = int(os.environ.get("SLIPSTREAM_SCHEMATHESIS_EXAMPLES", "40"))
WRITE_MODEL = (
    "import sys; from tests.support.tiny_gguf import write_tiny_model; "
    "write_tiny_model(sys.argv[1], sys.argv[2])"
)


@pytest.fixture(scope="module", params=["llama", "bert"])
def tiny_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A model whose answers end after few tokens and milliseconds: of text, and of vectors."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    model = folder / "tiny.gguf"
    subprocess.run([PYTHON, "-c", WRITE_MODEL, str(model), request.param], cwd=ROOT, check=True)
    home = {"SLIPSTREAM_HOME": str(folder / "home")}
    process = start_server(str(model), "--context-length", "64", "--threads", "1", env=home)
    yield process
    process.close()


def check(response: Any) -> None:
    """What is no answer is an error with a message: never a fault of the server's."""
    if response.status_code < 400:
        return
    message = response.json()["error"]["message"]
    assert message, response.text
    if response.status_code >= 500:
        assert (response.status_code, "not supported yet" in message) == (501, True), response.text


def test_no_request_of_the_document_is_too_much(tiny_server: ServerProcess) -> None:
    schema = schemathesis.openapi.from_url(f"{tiny_server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @hypothesis.settings(
            max_examples=MAX_EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy())
        def try_all(case: Any) -> None:
            check(case.call(timeout=60))

        try_all()
    assert tiny_server.get_json("/health")["models"][0]["num_deaths"] == 0
