"""The official clients send images to a real server with a tiny vision model."""

from __future__ import annotations

import base64
import subprocess
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.support.processes import PYTHON, ROOT, ServerProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e
WRITE = (
    "import sys, pathlib; from tests.support.tiny_vision import png, write_tiny_vision; "
    "folder = pathlib.Path(sys.argv[1]); write_tiny_vision(folder, 'qwen2vl'); "
    "(folder / 'image.png').write_bytes(png(64, 48))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = tmp_path_factory.mktemp("vision")
    subprocess.run([PYTHON, "-c", WRITE, str(made)], cwd=ROOT, check=True)
    return made


@pytest.fixture(scope="module")
def server(folder: Any) -> Iterator[ServerProcess]:
    home = {"SLIPSTREAM_HOME": str(folder / "home")}
    arguments = ("--context-length", "512", "--threads", "1")
    process = start_server(str(folder / "tiny.gguf"), *arguments, env=home)
    yield process
    process.close()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as value:
        yield value


@pytest.fixture
def url(folder: Any) -> str:
    return "data:image/png;base64," + base64.b64encode((folder / "image.png").read_bytes()).decode()


def ask(url: str) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": "see"}, image]}]


def test_an_image_counts_as_input_and_is_cached(client: Any, url: str) -> None:
    plain = client.chat.completions.create(
        model="", messages=[{"role": "user", "content": "see"}], max_tokens=4
    )
    first = client.chat.completions.create(model="", messages=ask(url), max_tokens=4)
    again = client.chat.completions.create(model="", messages=ask(url), max_tokens=4)
    assert first.usage.prompt_tokens >= plain.usage.prompt_tokens + 12  # 64 x 48 pixels
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1


def test_a_stateful_chat_remembers_its_image(client: Any, url: str) -> None:
    content = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": url}]
    first = client.responses.create(
        model="", input=[{"role": "user", "content": content}], max_output_tokens=4
    )
    second = client.responses.create(
        model="", input="now", previous_response_id=first.id, max_output_tokens=4
    )
    assert second.usage.input_tokens > first.usage.input_tokens


def test_a_damaged_image_is_a_bad_request(client: Any, url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="damaged"):
        client.chat.completions.create(model="", messages=ask(url[:202]), max_tokens=4)
    assert client.chat.completions.create(model="", messages=ask(url), max_tokens=4).choices
