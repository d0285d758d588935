"""A real server with the demo model, one for all tests of a session that do not end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ServerProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARGUMENTS = ("--context-length", "2048", "--parallel", "4", "--threads", "2")


@pytest.fixture(scope="session")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`slipstream serve` with the demo model."""
    home = {"SLIPSTREAM_HOME": str(tmp_path_factory.mktemp("server-home"))}
    process = start_server(str(demo_model), *ARGUMENTS, env=home)
    yield process
    process.close()


@pytest.fixture
def own_server(demo_model: Path) -> Iterator[ServerProcess]:
    """A server of the test's own, which it may end."""
    process = start_server(str(demo_model), *ARGUMENTS)
    yield process
    process.close()
