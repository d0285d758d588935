import asyncio
import json
import logging
import shlex
from os import getpid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slipstream.base.load_config import LoadConfig
from slipstream.cli.main import app
from slipstream.runtime import model_manager, server_record
from slipstream.runtime.model_manager import ServedModel
from slipstream.runtime.settings_store import SettingsStore
from slipstream.server import serve as server


class FakeManager:
    def __init__(self, models, *, current, config, kept):
        self.models, self.current, self.config = models, current, config
        self.loaded = self.restored = False
        self.by_hand = self

    def take_over(self, *, restore):
        self.restored = restore

    async def load_all(self, progress=None):
        progress("demo", 0.5)
        self.loaded = True


@pytest.fixture
def serve(monkeypatch):
    """Run `slipstream serve` with a server that is ready at once; return what it was called with and printed."""
    seen = {}

    def served_models(names, config, options):
        seen.update(names=list(names), config=config, options=options)
        return [ServedModel(key=name, path=Path(name)) for name in names]

    def run(manager, settings, *, current, access, before, on_ready):
        asyncio.run(before())
        assert current() == settings
        seen.update(manager=manager, settings=settings, access=access)
        on_ready(f"http://{settings.host}:{settings.port}")

    monkeypatch.setattr(model_manager, "served_models", served_models)
    monkeypatch.setattr(model_manager, "ModelManager", FakeManager)
    monkeypatch.setattr(server, "run", run)
    root = logging.getLogger("slipstream")
    before = (root.handlers[:], root.level, root.propagate)

    def invoke(*args):
        seen["result"] = CliRunner().invoke(app, ["serve", *args], catch_exceptions=False)
        return seen

    yield invoke
    root.handlers[:], root.level, root.propagate = before


def test_without_a_model_the_demo_is_served(serve):
    seen = serve()
    assert seen["names"] == ["demo"]
    assert seen["manager"].loaded
    assert seen["config"] == LoadConfig()
    assert (seen["settings"].host, seen["settings"].port) == ("127.0.0.1", 1234)
    assert seen["settings"].cors_origins == ()


def test_options_reach_the_models_and_the_server(serve):
    seen = serve(
        *("a.gguf", "b.gguf", "--host", "0.0.0.0", "--port", "8080", "--context-length", "4096"),
        *(
            "--parallel",
            "3",
            "--threads",
            "2",
            "--cors",
            "https://a.example",
            "--cors",
            "https://b.example",
        ),
    )
    assert seen["names"] == ["a.gguf", "b.gguf"]
    assert seen["config"] == LoadConfig(context_length=4096, parallel=3, threads=2)
    assert (seen["settings"].host, seen["settings"].port) == ("0.0.0.0", 8080)
    assert seen["settings"].cors_origins == ("https://a.example", "https://b.example")


def test_only_what_is_said_goes_over_the_users_file(serve):
    seen = serve("a.gguf", "--parallel", "8", "--prompt-cache-ram", "64")
    assert seen["options"] == {"parallel": 8, "prompt_cache_mib": 64}


def test_a_server_without_models_loads_those_of_the_last_one_unless_told_otherwise(serve):
    assert serve("--no-load")["manager"].restored
    assert not serve("a.gguf")["manager"].restored
    assert not serve("--no-load", "--no-restore")["manager"].restored
    SettingsStore().change({"restore_models": False})
    assert not serve("--no-load")["manager"].restored
    assert serve("--no-load", "--restore")["manager"].restored


def test_settings_of_the_file_are_taken_and_options_go_above_them(serve):
    SettingsStore().change({"port": 8081, "host": "0.0.0.0", "require_auth": True})
    seen = serve("--port", "9000")
    assert (seen["settings"].host, seen["settings"].port) == ("0.0.0.0", 9000)
    assert seen["settings"].require_auth
    assert SettingsStore().current().port == 8081


def test_while_it_runs_the_command_line_finds_it(serve, monkeypatch):
    found = []
    publish = server_record.Claim.publish

    def publish_and_look(hold, url, port):
        publish(hold, url, port)
        found.append(server_record.find())

    monkeypatch.setattr(server_record.Claim, "publish", publish_and_look)
    serve("--port", "4321")
    assert (found[0].url, found[0].port, found[0].pid) == ("http://127.0.0.1:4321", 4321, getpid())
    assert server_record.find() is None


def test_the_ready_line_has_the_url_and_a_curl_call_that_a_shell_can_run(serve):
    ready, call = serve("demo", "--port", "4321")["result"].stdout.splitlines()
    assert "http://127.0.0.1:4321" in ready
    words = shlex.split(call)
    assert words[:2] == ["curl", "http://127.0.0.1:4321/v1/chat/completions"]
    assert json.loads(words[words.index("-d") + 1])["model"] == "demo"


def test_an_unknown_log_level_is_wrong_usage(serve):
    assert serve("--log-level", "loud")["result"].exit_code == 2


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        ("--parallel", "0", 1),
        ("--parallel", "300", 256),
        ("--threads", "-1", 0),
        ("--threads", "600", 512),
        ("--context-length", "-5", 0),
        ("--context-length", "9999999999", 2**31 - 1),
    ],
)
def test_a_number_out_of_range_is_wrong_usage_and_the_bound_is_named(serve, option, value, bound):
    result = serve(option, value)["result"]
    assert result.exit_code == 2
    words = result.stderr.replace("│", " ").split()
    assert f"'{option}':" in words
    assert str(bound) in words
