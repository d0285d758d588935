"""Documentation is complete and true: commands, options, routes and settings are in it, its examples run."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from msgspec.structs import fields

from slipstream.base.config import DEFAULT_PORT, demo_model_path
from slipstream.cli.conversation import HELP
from slipstream.cli.main import app
from slipstream.engine.stats import EngineStats
from slipstream.server.openapi import ENDPOINTS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs").glob("*.md")}
EVERYTHING = "\n".join([README, *DOCS.values()])
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
BASE_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
TIMEOUT_S = 120


def commands(command=None, path=()):
    """Yield (words, options) of every command."""
    command = command or typer.main.get_command(app)
    options = [name for param in command.params for name in param.opts if name.startswith("--")]
    yield ("slipstream", *path), options
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize(("words", "options"), list(commands()), ids=lambda value: " ".join(value))
def test_every_command_and_option_is_in_the_command_line_docs(words, options):
    name = " ".join(words)
    sections = re.split(r"^## ", DOCS["cli.md"], flags=re.MULTILINE)
    if len(words) > 1:  # options of the program itself may be anywhere
        sections = [section for section in sections if section.startswith(name)]
    text = "\n".join(sections)
    assert text, f"docs/cli.md has no section on {name}"
    assert [option for option in options if not re.search(rf"{option}\b", text)] == []


def test_every_chat_command_is_documented():
    for name in re.findall(r"^/\w+", HELP, re.MULTILINE):
        assert f"`{name}" in DOCS["cli.md"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.public_path}")
def test_every_route_is_documented(endpoint):
    # In a sentence, `GET /health`, or in a table, | GET | `/health` |.
    route = rf"{endpoint.method}( \| `| ){re.escape(endpoint.public_path)}(?![\w/{{])"
    assert re.search(route, EVERYTHING)


def test_every_figure_of_the_engine_is_documented():
    names = [f.name.removeprefix("num_") for f in fields(EngineStats) if f.type in (int, float)]
    assert [name for name in names if f"`{name}`" not in DOCS["api.md"]] == []


def test_readme_opens_with_the_two_commands():
    head = README.split("\n## ", 1)[0] + "".join(README.split("\n## ")[1:2])
    assert "make run" in head
    assert "make test" in head


@pytest.mark.parametrize("name", ["README.md", *DOCS])
def test_links_between_documents_lead_somewhere(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    text = README if name == "README.md" else DOCS[name]
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text)
    assert [link for link in links if not (folder / link).exists()] == []


def run_example(code, cwd):
    """Run an example with its user's eyes: a fresh interpreter, an empty folder."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def demo_in_home(demo_model, slipstream_home):
    """The demo model where `demo` is looked for."""
    target = demo_model_path()
    target.parent.mkdir(parents=True)
    try:
        target.hardlink_to(demo_model)
    except OSError:  # another file system
        shutil.copyfile(demo_model, target)


@pytest.mark.e2e
@pytest.mark.parametrize("code", [code for code in EXAMPLES if BASE_URL not in code])
@pytest.mark.usefixtures("demo_in_home")
def test_python_examples_of_the_readme_run(code, tmp_path):
    run_example(code, tmp_path)


@pytest.mark.e2e
@pytest.mark.usefixtures("demo_in_home")
def test_api_examples_of_the_readme_run_against_a_server(tmp_path):
    examples = [code for code in EXAMPLES if BASE_URL in code]
    assert examples
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "slipstream",
        "serve",
        "demo",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert str(port) in server.stdout.readline()
            for code in examples:
                assert run_example(
                    code.replace(BASE_URL, f"http://127.0.0.1:{port}"), tmp_path
                ).strip()
        finally:
            server.terminate()
            server.wait(timeout=10)
