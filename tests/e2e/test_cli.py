"""The installed command with the demo model: in pipes, on a terminal, and as a server."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import free_port
from tests.support.terminal import Terminal

pytestmark = pytest.mark.e2e

SLIPSTREAM = Path(sys.executable).with_name("slipstream")
TIMEOUT_S = 120


def run(*args, stdin=""):
    return subprocess.run(
        [SLIPSTREAM, *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_version_tells_the_build():
    facts = json.loads(run("version", "--json").stdout)
    assert re.fullmatch(r"[0-9a-f]{40}", facts["llama_cpp_commit"])
    assert facts["cpu_features"]


def test_python_m_slipstream_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "slipstream", "version"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stdout == run("version").stdout


def test_one_shot_chat_prints_the_same_answer_for_the_same_seed(demo_model):
    args = (
        "chat",
        demo_model,
        "-p",
        "Tell me a story.",
        "--seed",
        5,
        "--max-tokens",
        12,
        "--stats",
    )
    first, second = run(*args), run(*args)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.strip()
    assert "answer 12 tokens" in first.stderr


def test_chat_reads_a_pipe(demo_model):
    done = run("chat", demo_model, "--temperature", 0, "--max-tokens", 4, stdin="Say hello.\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_ctrl_c_interrupts_the_answer_and_not_the_program(demo_model, slipstream_home):
    with Terminal([SLIPSTREAM, "chat", demo_model]) as terminal:
        terminal.wait_for("/help lists the commands")
        terminal.wait_for(">")
        terminal.type("Write a very long story about the sea.\r")
        terminal.wait_for("\x1b[?2004l")  # the line is taken
        terminal.wait_for(" ")  # the answer has begun
        terminal.type("\x03")
        terminal.wait_for("[interrupted]", timeout_s=10)
        terminal.wait_for(">")
        terminal.type("/system Be brief.\r")
        terminal.wait_for("The system prompt is set.")
        terminal.wait_for(">")
        terminal.type("/exit\r")
        assert terminal.wait_exit() == 0
    history = (slipstream_home / "chat_history").read_text(encoding="utf-8")
    assert "+Write a very long story about the sea." in history


def test_ctrl_d_leaves(demo_model):
    with Terminal([SLIPSTREAM, "chat", demo_model]) as terminal:
        terminal.wait_for(">")
        terminal.type("\x04")
        assert terminal.wait_exit() == 0


@pytest.mark.parametrize("command", ["chat", "serve", "bench decode"])
def test_a_file_that_is_no_model_is_one_clear_line(command, tmp_path):
    path = tmp_path / "note.gguf"
    path.write_text("not a model", encoding="utf-8")
    done = run(
        *command.split(),
        path,
        *(["--port", str(free_port())] if command == "serve" else []),
        stdin="x",
    )
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("slipstream: ")
    assert "note.gguf" in last
    assert "Traceback" not in done.stderr


def test_a_missing_model_says_so():
    done = run("chat", "no/such.gguf", "-p", "x")
    assert done.returncode == 1
    assert "no/such.gguf" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bench_decode_reports_every_sample(demo_model):
    done = run("bench", "decode", demo_model, "-p", 16, "-n", 4, "-r", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [result["test"] for result in report["results"]] == ["pp16", "tg4"]
    assert all(len(result["samples"]) == 2 for result in report["results"])
    assert report["build"]["llama_cpp_commit"]
    assert report["machine"]["cpu"]


def test_serve_prints_a_curl_call_that_works_and_stops_on_ctrl_c(demo_model):
    command = [SLIPSTREAM, "serve", demo_model, "--port", str(free_port())]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            ready, call = process.stdout.readline(), process.stdout.readline()
            assert "http://127.0.0.1:" in ready
            words = shlex.split(call)
            body = {**json.loads(words[words.index("-d") + 1]), "max_tokens": 4}
            request = urllib.request.Request(
                words[1], json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                answer = json.load(response)
            assert answer["choices"][0]["message"]["content"]
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=10) == 0
            with pytest.raises(ProcessLookupError):  # nothing of its session is left
                os.killpg(process.pid, 0)
        finally:
            process.kill()
