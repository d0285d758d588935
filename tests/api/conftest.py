"""The app in process, with a scripted generation behind it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient

from slipstream.runtime.settings import ServerSettings
from slipstream.server.app import create_app
from tests.support.fake_generation import FakeGeneration, FakeManager

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def manager() -> FakeManager:
    return FakeManager()


@pytest.fixture
def generation(manager: FakeManager) -> FakeGeneration:
    return FakeGeneration(manager)


@pytest.fixture
def settings() -> ServerSettings:
    return ServerSettings()


@pytest.fixture
def client(
    generation: FakeGeneration, manager: FakeManager, settings: ServerSettings
) -> Iterator[TestClient]:
    app = create_app(generation, manager, settings)
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


@pytest.fixture
def check_golden():
    """Compare a transcript with tests/api/golden/NAME.sse; WRITE_GOLDEN=1 in the environment replaces the file."""

    def check(name: str, transcript: str) -> None:
        text = re.sub(r"(chatcmpl|cmpl)-[0-9a-f]{24}", r"\1-ID", transcript)
        text = re.sub(r"(resp|msg|rs|fc)_[0-9a-f]{24,48}", r"\1_ID", text)
        text = re.sub(r'"(created|created_at|completed_at)":\d+', r'"\1":0', text)
        text = re.sub(r"slipstream-\d[\w.+]*", "slipstream-VERSION", text)
        text = re.sub(r'"load_time_seconds":[\d.e-]+', '"load_time_seconds":0', text)
        path = GOLDEN / f"{name}.sse"
        if os.environ.get("WRITE_GOLDEN"):
            path.write_text(text, encoding="utf-8", newline="\n")
        assert text == path.read_text(encoding="utf-8")

    return check
