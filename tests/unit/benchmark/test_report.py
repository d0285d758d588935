import json
from types import SimpleNamespace

from slipstream.benchmark import report
from slipstream.benchmark.decode import DecodeResult, DecodeSettings

MODEL = SimpleNamespace(path="m.gguf", description="llama 1M F32", size_bytes=4, n_params=1)


def test_decode_report_is_json_with_samples_and_provenance(monkeypatch):
    monkeypatch.setattr(report, "provenance", lambda: {"machine": {"cpu": "x"}})
    results = [DecodeResult(test="pp4", num_tokens=4, samples=(1.0, 3.0))]
    made = report.decode_report(MODEL, DecodeSettings(num_prompt=4), results, threads=2)
    made = json.loads(json.dumps(made))
    assert made["machine"] == {"cpu": "x"}
    assert made["settings"]["threads"] == 2
    assert made["model"]["description"] == "llama 1M F32"
    assert made["results"][0]["tokens_per_s"]["mean"] == 2.0
    assert made["results"][0]["samples"] == [1.0, 3.0]


def test_machine_tells_cpu_and_memory():
    facts = report.machine()
    assert facts["cpu"]
    assert facts["memory_bytes"] > 0
    json.dumps(facts)


def test_no_commit_outside_a_checkout(monkeypatch, tmp_path):
    installed = tmp_path / "site-packages" / "slipstream" / "benchmark" / "report.py"
    monkeypatch.setattr(report, "__file__", str(installed))
    assert report.commit() is None
