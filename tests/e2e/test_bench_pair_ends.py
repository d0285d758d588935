"""`slipstream bench pair` ended by signals: what is on disk is valid, and --resume goes on to the end."""

import json
import signal
import subprocess
import sys

import pytest

from tests.support.tiny_gguf import write_tiny_model

pytestmark = pytest.mark.e2e
TIMEOUT_S = 300
# The signal comes at a call, not after a time: MODULE.NAME is called for the so many-th time.
CHILD = """
import importlib, os, signal, sys
module, name, number, sign = sys.argv[1:5]
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), 0

def call(*args, **options):
    global calls
    calls += 1
    if calls == int(number):
        if name == "_write":  # of the journal: half a line is on disk by then
            args[0]._file.write('{"key": ["live"')
            args[0]._file.flush()
        os.kill(os.getpid(), getattr(signal, sign))
    return real(*args, **options)

setattr(owner, name, call)
from slipstream.benchmark.pair import live, reading
live.waited_s = reading.waited_s = lambda: None  # a busy machine would have arms run more often
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
from slipstream.cli.main import app
app(sys.argv[5:])
"""
LIVE, JOURNAL = "slipstream.benchmark.pair.live", "slipstream.benchmark.pair.journal"
REPORT = "slipstream.benchmark.pair.report"
READING, COSTS = "slipstream.benchmark.pair.reading", "slipstream.benchmark.pair.costs"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        write_tiny_model(folder / "target.gguf", n_ctx_train=1024),
        write_tiny_model(folder / "draft.gguf", "llama", 1),
    ]


def run(models, folder, *options, end=("json", "dumps", "0", "SIGINT")):
    mine = folder / "mine.jsonl"
    mine.write_text("".join(f'{{"prompt": "say {i}", "id": {i}}}\n' for i in range(3)))
    command = [
        "bench", "pair", models[0], "-d", models[1], "-p", mine, "-n", "12", "--gamma", "1,2", "-t", "1",
        "--report", folder / "out", "--json", *options,
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", CHILD, *end, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (LIVE, "run", "2"),
        (READING, "read_target", "2"),
        (COSTS, "Timer.time_round", "3"),
        (REPORT, "make_report", "1"),
        (LIVE, "run_arm", "9"),
        (COSTS, "Timer.time_round", "8"),  # six for the scan, then one before each block
    ],
    ids=["texts", "scan", "costs", "checkpoint", "blocks", "loan"],
)
def test_a_signal_leaves_a_valid_report_and_resume_goes_on(
    models, tmp_path, module, name, number, sign
):
    if name == "make_report":
        module = "slipstream.benchmark.pair.measure"  # where it is called
    ended = run(models, tmp_path, end=(module, name, number, sign))
    assert ended.returncode == 130, ended.stderr
    assert "--resume goes on" in ended.stderr
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not found["is_complete"]
    assert json.loads(ended.stdout) == found
    assert "interrupted" in (tmp_path / "out" / "report.html").read_text()
    assert sum(live["num_blocks"] for live in found["live"]) == (number in ("8", "9"))
    again = run(models, tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["is_complete"]
    assert [live["num_blocks"] for live in found["live"]] == [3]


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [(JOURNAL, "Journal._write", "3"), (JOURNAL, "Journal._write", "17"), (LIVE, "run_arm", "9")],
)
def test_a_kill_costs_what_was_under_way_and_nothing_else(models, tmp_path, module, name, number):
    ended = run(models, tmp_path, end=(module, name, number, "SIGKILL"))
    assert ended.returncode == -signal.SIGKILL
    report = tmp_path / "out" / "report.json"
    if report.exists():  # of the last stage that was whole
        assert not json.loads(report.read_text())["is_complete"]
    kept = (tmp_path / "out" / "run.jsonl").read_text().rpartition("\n")[0].splitlines()
    again = run(models, tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["is_complete"]
    assert [live["num_blocks"] for live in found["live"]] == [3]
    assert (tmp_path / "out" / "run.jsonl").read_text().splitlines()[: len(kept)] == kept
