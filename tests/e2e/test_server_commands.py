"""A server in the background, as its user's commands see it: real processes, the demo model."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import urllib.request

import psutil
import pytest

from slipstream.runtime import server_record
from tests.support.processes import (
    SLIPSTREAM,
    free_port,
    is_alive,
    start_server,
    wait_until,
)
from tests.support.processes import run_slipstream as run
from tests.support.terminal import Terminal

pytestmark = pytest.mark.e2e


def run_json(*args, **env):
    return json.loads(run(*args, "--json", **env).stdout)


@pytest.fixture
def port(slipstream_home):
    """A free port; whatever server runs in the end is stopped."""
    yield free_port()
    record = server_record.find()
    if record is not None:
        server_record.stop(record)


def test_a_server_is_started_found_and_stopped(demo_model, port, slipstream_home):
    assert run_json("server", "status") == {"running": False}
    assert run_json("ps") == []
    started = run_json("server", "start", demo_model, "--port", port)
    assert started["port"] == port
    status = run_json("server", "status")
    assert status.items() >= {**started, "ready": True}.items()
    (instance,) = run_json("ps")
    assert (instance["status"], instance["queued"]) == ("idle", 0)
    (engine,) = health(started["url"])
    assert "idle" in run("ps").stdout
    assert stat.S_IMODE((slipstream_home / "server.json").stat().st_mode) == 0o600
    assert "runs already" in run("server", "start").stdout
    assert "runs already" in run("server", "start", "--port", port + 1, status=1).stderr
    assert run_json("server", "stop") == {"stopped": True}
    assert not is_alive(started["pid"])
    wait_until(lambda: not is_alive(engine["pid"]), "the engine to end")
    assert run_json("server", "stop") == {"stopped": False}
    assert "GET" in (slipstream_home / "logs" / "server.log").read_text(encoding="utf-8")
    # The next start is on the port of the last one.
    assert run_json("server", "start", demo_model)["port"] == port


def health(url):
    with urllib.request.urlopen(f"{url}/health", timeout=10) as response:
        return json.load(response)["models"]


def test_what_was_loaded_by_hand_is_loaded_by_the_next_server_too(key, port):
    run("settings", "set", "port", port)
    run("load", key, "-c", 512, "--identifier", "mine")
    run("server", "stop")
    run("server", "start")
    wait_until(lambda: [one["status"] for one in run_json("ps")] == ["idle"], "the load", 60)
    (instance,) = run_json("ps")
    assert (instance["id"], instance["config"]["context_length"]) == ("mine", 512)
    os.kill(run_json("server", "status")["pid"], signal.SIGKILL)
    wait_until(lambda: not run_json("server", "status")["running"], "the lock to be given up")
    run("server", "start")
    wait_until(lambda: [one["status"] for one in run_json("ps")] == ["idle"], "the load", 60)
    run("server", "stop")
    run("load", key, "-c", 256, "--identifier", "mine")  # starts a server, and loads it once
    assert [one["config"]["context_length"] for one in run_json("ps")] == [256]
    run("unload", "mine")
    run("server", "stop")
    run("server", "start")
    assert run_json("ps") == []


def test_what_to_load_is_asked_for_on_a_terminal(key, port, slipstream_home):
    other = slipstream_home / "models" / "some" / "other" / "other-Q4_1.gguf"
    other.parent.mkdir()
    other.symlink_to((slipstream_home / "models/some/tiny/tiny-Q4_1.gguf").resolve())
    run("settings", "set", "port", port)
    assert "say what to load: some/other, some/tiny" in run("load", status=1).stderr
    with Terminal([SLIPSTREAM, "load", "-c", "512"]) as terminal:
        terminal.wait_for("2  some/tiny")
        terminal.wait_for("which one to load, 1 to 2")
        terminal.type("7\r")
        terminal.wait_for("which one to load, 1 to 2")
        terminal.type("2\r")
        terminal.wait_for("loading some/tiny")
        terminal.wait_for("loaded in")
        assert terminal.wait_exit() == 0
    assert [one["id"] for one in run_json("ps")] == [key]
    assert run_json("unload") == [key]  # the only one


def test_a_chat_goes_to_the_server_that_runs(key, port):
    run("settings", "set", "port", port)
    asked = ("-p", "Say hello.", "--max-tokens", 8, "--temperature", 0, "--stats")
    run("load", key, "-c", 512, "--identifier", "mine")
    done = run("chat", *asked)
    assert done.stdout.strip()
    assert "answer 8 tokens" in done.stderr
    (instance,) = run_json("ps")  # no other model was loaded for it
    assert instance["id"] == "mine"
    assert run("chat", key, *asked).stdout == done.stdout
    assert "no model 'nosuch'" in run("chat", "nosuch", *asked, status=1).stderr
    log = run_json("server", "status")
    assert run("chat", "mine", *asked, "--url", log["url"]).stdout == done.stdout


@pytest.fixture
def key(demo_model, slipstream_home):
    """The key of a model in the model folder."""
    folder = slipstream_home / "models" / "some" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny-Q4_1.gguf").symlink_to(demo_model)
    return run_json("ls")[0]["key"]


def test_a_model_is_loaded_in_a_server_that_is_started_for_it(key, port):
    run("settings", "set", "port", port)
    estimate = run_json("load", key, "--estimate-only", "--context-length", 512)
    assert estimate["total_bytes"] > estimate["weights_bytes"] > 50_000_000
    assert "can be loaded" in run("load", key, "--estimate-only", "-c", 512).stdout
    assert run_json("ps") == []
    asked = ("--context-length", 512, "--parallel", 2, "--ttl", 600, "--identifier", "mine")
    loaded = run_json("load", key, *asked)
    assert loaded["instance_id"] == "mine"
    assert loaded["load_config"]["context_length"] == 512
    (instance,) = run_json("ps")
    assert (instance["id"], instance["model"], instance["ttl"]) == ("mine", key, 600)
    assert (instance["config"]["parallel"], instance["memory_bytes"] > 0) == (2, True)
    assert "mine" in run("ps").stdout
    url = run_json("server", "status")["url"]
    events = chat_while_watched(url, "mine")
    assert {event["data"]["type"] for event in events} == {
        "llm.prediction.input",
        "llm.prediction.output",
    }
    assert "Say hello" not in json.dumps(events)
    assert "no instance 'other'" in run("unload", "other", status=1).stderr
    assert run_json("unload", "mine") == ["mine"]
    run("load", key, "-c", 512)
    assert len(run_json("unload", "--all")) == 1
    assert run_json("ps") == []
    assert "nosuch" in run("load", "nosuch", status=1).stderr


def chat_while_watched(url, model):
    """Ask a model something while `log stream` runs; return the two records it prints."""
    command = [SLIPSTREAM, "log", "stream", "-s", "model", "--stats", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watcher:
        try:
            assert "watching" in watcher.stderr.readline()
            body = {
                "model": model,
                "max_tokens": 4,
                "messages": [{"role": "user", "content": "Say hello"}],
            }
            request = urllib.request.Request(
                f"{url}/v1/chat/completions",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert response.status == 200
            events = [json.loads(watcher.stdout.readline()) for _ in range(2)]
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(10) == 130
        finally:
            watcher.kill()
    return events


def test_two_starts_at_once_give_one_server(demo_model, port):
    command = [SLIPSTREAM, "server", "start", demo_model, "--json"]
    run("settings", "set", "port", port)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert answers[0] == answers[1]


def test_a_server_that_cannot_start_says_why(port, tmp_path):
    broken = tmp_path / "note.gguf"
    broken.write_text("no model", encoding="utf-8")
    done = run("server", "start", broken, "--port", port, status=1)
    assert "note.gguf" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run_json("server", "status") == {"running": False}


def test_a_killed_server_leaves_no_doubt(demo_model, port):
    pid = run_json("server", "start", demo_model, "--port", port)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not run_json("server", "status")["running"], "the lock to be given up")
    assert run_json("server", "start", demo_model)["pid"] != pid


def test_commands_pass_where_tokens_are_required_and_others_do_not(demo_model, port):
    secret = run("token", "create", "mine").stdout.strip()
    weak = run("token", "create", "weak", "--allow", "metrics").stdout.strip()
    run("settings", "set", "require_auth", "true")
    url = run_json("server", "start", demo_model, "--port", port)["url"]
    assert run_json("ps")
    assert "wants an API token" in run("ps", "--url", url, status=1).stderr
    assert run_json("ps", "--url", url, SLIPSTREAM_API_TOKEN=secret)
    refused = run("ps", "--url", url, status=1, SLIPSTREAM_API_TOKEN=weak)
    assert "lacks the permission 'inference'" in refused.stderr
    run("token", "rm", "mine", "--yes")
    run("ps", "--url", url, status=1, SLIPSTREAM_API_TOKEN=secret)
    run("settings", "set", "require_auth", "false")
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as response:
        assert json.load(response)["data"]


def test_a_server_in_the_foreground_is_found_too(demo_model, slipstream_home):
    server = start_server(str(demo_model))
    try:
        assert run_json("server", "status")["url"] == server.url
        second = start_server(str(demo_model))  # further ones run, unknown to the commands
        second.wait_line("another server of this user runs")
        second.close()
        assert run_json("server", "status")["url"] == server.url
    finally:
        server.close()
    assert run_json("server", "status") == {"running": False}


@pytest.mark.parametrize(
    ("options", "address"), [((), "127.0.0.1"), (("--host", "0.0.0.0"), "0.0.0.0")]
)
@pytest.mark.usefixtures("slipstream_home")
def test_other_machines_are_let_in_only_where_that_is_said(options, address):
    server = start_server("--no-load", *options)
    try:
        listening = {
            one.laddr.ip
            for one in psutil.Process(server.pid).net_connections("tcp")
            if one.status == psutil.CONN_LISTEN
        }
        assert listening == {address}
    finally:
        server.close()


def test_nobody_answers_at_a_url(port):
    done = run("ps", "--url", f"http://127.0.0.1:{port}", status=1)
    assert "does not answer" in done.stderr
    assert "no URL" in run("ps", "--url", "127.0.0.1", status=1).stderr
