"""Instructor, which makes classes of answers, against a real server with the demo model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("instructor", reason="make test-clients has an environment with it")

import instructor
import openai
from pydantic import BaseModel

if TYPE_CHECKING:
    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK = [{"role": "user", "content": "Describe Paris: its name, and whether it is a capital."}]
GREEDY = {"temperature": 0, "max_tokens": 64, "max_retries": 1}


class City(BaseModel):
    """Where something is."""

    name: str
    is_capital: bool


@pytest.fixture
def client(server: ServerProcess) -> instructor.Instructor:
    plain = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    return instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)


def test_an_answer_comes_back_as_the_class(client: instructor.Instructor) -> None:
    city = client.create(model="", response_model=City, messages=ASK, **GREEDY)
    assert isinstance(city, City)


def test_a_stream_fills_the_class_bit_by_bit(client: instructor.Instructor) -> None:
    states = list(client.create_partial(model="", response_model=City, messages=ASK, **GREEDY))
    assert len(states) > 2
    assert states[0].name is None
    assert isinstance(states[-1].is_capital, bool)
