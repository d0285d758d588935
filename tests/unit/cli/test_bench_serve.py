import json

import pytest
from typer.testing import CliRunner

from slipstream.benchmark.serve import report
from slipstream.cli.main import app
from tests.support.scripted_chat_server import scripted_server


def well(answer, body):
    answer.begin()
    answer.words(body["max_tokens"])
    answer.done(body["max_tokens"])


def bench(*args):
    return CliRunner().invoke(app, ["bench", "serve", *map(str, args)])


def test_the_table_tells_tokens_latencies_and_limits():
    with scripted_server(well) as url:
        done = bench(url, "-n", 3, "--max-tokens", 4, "--slo-ttft-ms", 60000)
    assert done.exit_code == 0, done.output
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    table = {cell[0]: cell[1] for cell in cells if len(cell) == 2}
    assert (table["requests"], table["failed"], table["output tokens"]) == ("3", "0", "12")
    assert (table["prompt tokens"], table["cached tokens"]) == ("27", "12")
    assert table["goodput requests/s"] == table["requests/s"]
    assert len(table["TTFT ms p50 / p95 / p99"].split("/")) == 3


def test_a_comparison_prints_ratios_and_the_noise_floor():
    with scripted_server(well) as url, scripted_server(well) as other:
        done = bench(url, "--compare", other, "--aa", "-n", 2, "--max-tokens", 3, "-r", 2)
    assert done.exit_code == 0, done.output
    assert "server / other" in done.stdout
    assert "server / server again" in done.stdout
    assert "90 % interval" in done.stdout
    assert "2 rounds are few" in done.stdout


def test_json_goes_to_stdout_and_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "provenance", lambda: {"commit": "abc"})
    with scripted_server(well) as url:
        done = bench(url, "-n", 1, "--json", "-o", tmp_path / "made.json", "--rate", 100)
    made = json.loads(done.stdout)
    assert made == json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert made["settings"]["load"] == {"concurrency": None, "rate": 100.0}
    assert made["arms"]["server"]["model"] == "scripted"


def test_failures_are_told_and_nothing_complete_is_a_failure():
    calls = []

    def warm_only(answer, body):
        calls.append(body)
        if len(calls) == 1:
            well(answer, body)
        else:
            answer.status(503, "too busy")

    with scripted_server(warm_only) as url:
        done = bench(url, "-n", 2)
    assert done.exit_code == 1
    assert "2 http 503" in done.stdout
    assert "too busy" in done.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--workload", "nope"], "is no workload"),
        (["--rate", "0"], "rate is 0"),
        (["--rate", "1", "-c", "2"], "either a concurrency"),
        (["--output", "/no/such/folder/x.json"], "there is no folder"),
        (["--plot", "x.gif"], "ends in"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_told_before_anything_is_sent(args, told):
    with scripted_server(lambda _answer, _body: pytest.fail("something was sent")) as url:
        done = bench(url, *args)
    assert done.exit_code != 0
    assert told in done.output + str(done.exception)
