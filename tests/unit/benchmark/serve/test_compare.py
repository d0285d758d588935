import json

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve import Arm, Load, Plan, Result, Run, Target, compare, ratios
from slipstream.benchmark.serve import report as serve_report
from slipstream.benchmark.serve.plot import check_plot, write_plot

TARGET = Target(url="http://127.0.0.1:1")


def run(seconds, tokens=10):
    made = Result(
        label="short", sent_s=0.0, ended_s=seconds, chunk_s=[seconds / 2, seconds], finish_reason="length",
        num_output_tokens=tokens, from_usage=True,
    )  # fmt: skip
    return Run(results=[made], duration_s=seconds)


def arms():
    upper = Arm(name="server", target=TARGET, runs=[run(1.0), run(2.0)])
    lower = Arm(name="other", target=TARGET, runs=[run(2.0), run(4.0)])
    return [upper, lower]


def test_ratios_are_taken_round_by_round():
    made = ratios(*arms())
    assert made["output tok/s"].median == pytest.approx(2.0)
    assert made["TTFT p50"].median == pytest.approx(0.5)
    assert made["ITL p99"].num_rounds == 2


def test_a_figure_that_is_missing_in_a_round_has_no_ratio():
    upper, lower = arms()
    lower.runs[1].results[0].chunk_s.clear()
    assert "TTFT p50" not in ratios(upper, lower)
    assert "requests/s" in ratios(upper, lower)


def test_doubts_name_failures_other_token_numbers_and_few_rounds():
    upper, lower = arms()
    lower.runs[0].results[0].num_output_tokens = 3
    lower.runs[1].results[0].error = "timeout"
    told = " ".join(compare.sane([upper, lower], Plan(rounds=2)))
    assert "other: 1 requests failed" in told
    assert "output tokens differ" in told
    assert "2 rounds are few" in told
    upper, _ = arms()
    assert compare.sane([upper], Plan(rounds=2)) == []


def test_the_report_is_json_with_each_request(monkeypatch):
    monkeypatch.setattr(serve_report, "provenance", lambda: {"commit": "abc"})
    made = json.loads(json.dumps(serve_report.serve_report(Plan(rounds=2), arms())))
    assert made["commit"] == "abc"
    assert made["settings"]["load"]["concurrency"] == 8
    assert made["arms"]["other"]["requests"][1]["round"] == 1
    assert made["arms"]["server"]["all_rounds"]["num_requests"] == 2
    assert made["ratios"]["server / other"]["requests/s"]["median"] == pytest.approx(2.0)


def test_a_key_is_never_in_a_report(monkeypatch):
    monkeypatch.setattr(serve_report, "provenance", dict)
    secret = Target(url=TARGET.url, api_key="sk-secret")
    made = serve_report.serve_report(Plan(), [Arm(name="server", target=secret, runs=[run(1.0)])])
    assert "sk-secret" not in json.dumps(made) + repr(secret)


@pytest.mark.parametrize(("name", "head"), [("p.png", b"\x89PNG"), ("p.html", b"<!doctype html>")])
def test_a_plot_is_drawn(tmp_path, name, head):
    write_plot(tmp_path / name, Plan(rounds=2), arms())
    assert (tmp_path / name).read_bytes().startswith(head)


def test_a_plot_of_no_known_format_is_refused_before_the_run(tmp_path):
    with pytest.raises(InvalidRequestError, match="ends in"):
        check_plot(tmp_path / "p.gif")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InvalidRequestError, match=r"slipstream\[plot\]"):
        check_plot(tmp_path / "p.png")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Plan(rounds=0),
        lambda: Plan(workload="nope"),
        lambda: Load(),
        lambda: Load(concurrency=1, rate=1.0),
        lambda: Load(rate=0.0),
        lambda: Target(url="127.0.0.1:1234"),
        lambda: Target(url="http://x", timeout_s=0),
    ],
)
def test_what_cannot_be_run_is_refused(bad):
    with pytest.raises(InvalidRequestError):
        bad()
