"""A whole pair benchmark on tiny models: the scan foretells the engine, ends are survived, faults are named."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from slipstream.base.errors import DraftModelError, InvalidRequestError, ModelLoadError
from slipstream.benchmark.pair import live, reading
from slipstream.benchmark.pair.compatibility import check_pair, rank_candidates
from slipstream.benchmark.pair.costs import Costs
from slipstream.benchmark.pair.page import make_page
from slipstream.benchmark.pair.plan import PairSettings, arm_of
from slipstream.benchmark.pair.prompts import PairPrompt
from slipstream.benchmark.pair.report import make_report
from slipstream.benchmark.pair.run import PairRun
from slipstream.cli.main import app
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import tiny_parts, write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NUM_TOKENS = 24
SETTINGS: dict[str, Any] = {"num_tokens": NUM_TOKENS, "gammas": (1, 2, 3), "threads": 1}


@pytest.fixture(autouse=True, scope="module")
def undisturbed() -> Iterator[None]:
    """Nobody disturbs these runs, however busy the machine is: nothing here depends on its clock."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (live, reading):
            patch.setattr(module, "waited_s", lambda: None)
        yield


def prompts(num: int = 5, category: str = "letters") -> list[PairPrompt]:
    return [
        PairPrompt(
            name=f"{category}-{i}",
            category=category,
            messages=({"role": "user", "content": f"{category} {chr(97 + i) * 3} {i}"},),
        )
        for i in range(num)
    ]


def broken_model(path: Path, **sizes: int) -> Path:
    """Write a model that gives NaN."""
    metadata, tensors = tiny_parts("llama", 1, **sizes)
    for name, values in tensors:
        if name == "output_norm.weight":
            values[:] = float("nan")
    path.write_bytes(gguf_bytes(metadata, tensors))
    return path


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("pair") / "target.gguf", n_ctx_train=1024)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights behind the same vocabulary."""
    return write_tiny_model(tmp_path_factory.mktemp("pair") / "other.gguf", "llama", 1)


@pytest.fixture(scope="module")
def finished(target: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> PairRun:
    """A run with the target as its own draft model, another one and n-grams, at two temperatures and batches."""
    twin = tmp_path_factory.mktemp("pair") / "twin.gguf"
    twin.write_bytes(target.read_bytes())
    settings = PairSettings(temperatures=(0.0, 1.0), batches=(1, 2), confirm="all", **SETTINGS)
    folder = tmp_path_factory.mktemp("run")
    run = PairRun(str(target), [str(twin), str(other)], prompts(), settings, folder)
    run.run()
    run.close()
    return run


@pytest.fixture(scope="module")
def report(finished: PairRun) -> dict[str, Any]:
    return json.loads(json.dumps(make_report(finished, is_complete=True), allow_nan=False))


def test_a_model_drafts_for_itself_without_a_fault(report: dict[str, Any]) -> None:
    (scan,) = [s for s in report["scans"] if (s["candidate"], s["temperature"]) == ("twin", 0.0)]
    assert scan["best"]["alpha"] > 0.97  # but for ties
    (warm,) = [s for s in report["scans"] if (s["candidate"], s["temperature"]) == ("twin", 1.0)]
    assert warm["mean_overlaps"] > 0.97
    assert warm["mean_point"] < warm["mean_overlaps"]  # an argmax draft would do worse


def test_the_scan_foretells_what_the_engine_accepts(
    report: dict[str, Any], finished: PairRun
) -> None:
    compared = 0
    for found in report["live"]:
        if found["temperature"] > 0 or found["batch"] > 1:
            continue
        same = all(
            arm["num_identical"] == arm["num_outputs"]
            for arm in found["losslessness"]["arms"].values()
        )
        for arm in found["arms"]:
            if arm["predicted_alpha"] is not None and same:
                compared += 1
                assert arm["alpha"] == pytest.approx(arm["predicted_alpha"], abs=1e-9)
    assert compared or any(
        found["losslessness"]["noise"]["largest"] > 0 for found in report["live"]
    )


def test_steps_are_timed_before_each_block_in_the_engine_that_runs_it(finished: PairRun) -> None:
    for block in finished.measured.blocks:
        target, drafter = (Costs.of_json(costs) for costs in block.costs)
        lengths = {arm_of(name).num_tokens for name in block.arms} - {None}
        assert set(target.samples) >= {1, *(block.batch * (length + 1) for length in lengths)}
        assert all(len(samples) == 3 for samples in target.samples.values())
        assert set(drafter.samples) >= {1, block.batch, 2 * block.batch}


def test_outputs_are_those_of_the_target(report: dict[str, Any]) -> None:
    assert report["live"]
    for found in report["live"]:
        for name, arm in found["losslessness"]["arms"].items():
            assert arm["is_lossless"], (name, arm)
        assert found["doubts"] == []


def test_every_session_tells_its_noise_its_arms_and_its_advice(report: dict[str, Any]) -> None:
    sessions = {(f["candidate"], f["temperature"], f["batch"]) for f in report["live"]}
    assert len(sessions) == 2 * 2 * 2
    for found in report["live"]:
        assert found["noise_floor"]["floor"] > 0
        names = [arm["name"] for arm in found["arms"]]
        assert "draft auto" in names
        assert ("chain auto" in names) == (found["candidate"] == report["live"][0]["candidate"])
        assert found["advice"]["why"]
        # five prompts alone make five clusters, two at a time three
        assert (found["noise_floor"]["ratio"]["low"] is None) == (found["batch"] == 2)
    assert report["peak_memory_bytes"].keys() == {"twin", "other"}


def test_one_setting_is_recommended_for_each_load(report: dict[str, Any]) -> None:
    loads = [(found["temperature"], found["batch"]) for found in report["recommendation"]]
    assert loads == [(0.0, 1), (0.0, 2), (1.0, 1), (1.0, 2)]
    for found in report["recommendation"]:
        assert (found["use"] is None) == (found["speedup"] == 1.0)
        # Five prompts are five groups one at a time, and three of two.
        assert bool(found["doubts"]) == (found["batch"] == 2)


def test_the_page_needs_nothing_else_and_escapes_what_models_say(report: dict[str, Any]) -> None:
    report = json.loads(json.dumps(report))
    report["samples"][0]["tokens"] = [["<script>alert(1)</script>", "accepted"]]
    page = make_page(report)
    assert "<script" not in page
    assert page.count("<svg") >= 6
    assert not re.search(r"""(src|href)=["'](?!#)""", page.replace('xlink:href="#', ""))
    assert "noise floor" in page


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tmp_path / "twin.gguf"
    twin.write_bytes(target.read_bytes())
    settings = PairSettings(**SETTINGS)

    def start(*, resume: bool) -> PairRun:
        return PairRun(str(target), [str(twin)], prompts(2), settings, tmp_path, resume=resume)

    ends = {"run": 1, "run_arm": 9}  # in the middle of the texts, then of the second block
    for resume, (name, number) in zip((False, True), ends.items(), strict=True):
        real, calls = getattr(live, name), 0

        def interrupt(*args: Any, _real: Any = real, _number: int = number, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > _number:
                raise KeyboardInterrupt
            return _real(*args, **options)

        run = start(resume=resume)
        with monkeypatch.context() as patch:
            patch.setattr(live, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                run.run()
        run.refresh()
        run.close()
        partial = make_report(run, is_complete=False)
        assert not partial["is_complete"]
        assert "interrupted" in make_page(json.loads(json.dumps(partial, allow_nan=False)))
    assert len(partial["live"]) == 1
    assert partial["live"][0]["num_blocks"] == 1
    assert partial["peak_memory_bytes"].keys() == {"twin"}
    run = start(resume=True)
    run.run()
    run.close()
    assert make_report(run, is_complete=True)["live"][0]["num_blocks"] == 2
    with pytest.raises(InvalidRequestError, match="settings"):
        PairRun(
            str(target), [str(twin)], prompts(2), PairSettings(num_tokens=9), tmp_path, resume=True
        )


def test_prompts_that_cannot_be_measured_are_named_and_left_out(
    target: Path, tmp_path: Path
) -> None:
    too_long = PairPrompt(
        name="long", category="x", messages=({"role": "user", "content": "z" * 3000},)
    )
    broken = PairPrompt(name="odd", category="x", messages=({"role": "user", "content": ""},))
    settings = PairSettings(confirm="none", **SETTINGS)
    run = PairRun(str(target), [], [too_long, *prompts(1), broken], settings, tmp_path)
    run.run()
    run.close()
    assert "do not fit" in run.measured.skipped["long"]
    found = make_report(run, is_complete=True)
    assert found["prompts"]["skipped"].keys() >= {"long"}
    assert "do not fit" in make_page(found)


def test_an_answer_that_ends_at_once_is_named_and_left_out(tmp_path: Path) -> None:
    """All logits are 0, so the first token is always the best one: the end."""
    metadata, tensors = tiny_parts("llama", n_ctx_train=1024)
    ended = [
        (key, kind, 0 if key == "tokenizer.ggml.eos_token_id" else value)
        for key, kind, value in metadata
    ]
    for name, values in tensors:
        if name == "output_norm.weight":
            values[:] = 0.0
    silent = tmp_path / "silent.gguf"
    silent.write_bytes(gguf_bytes(ended, tensors))
    run = PairRun(str(silent), [], prompts(1), PairSettings(**SETTINGS), tmp_path)
    with pytest.raises(InvalidRequestError, match=r"letters-0: the answer ended after 1 tokens"):
        run.run()
    run.close()


def test_a_live_answer_that_ends_at_once_fails_its_block_and_no_other(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = live.run_arm, 0

    def end_at_once(*args: Any, **options: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        record = real(*args, **options)
        return {**record, "num_tokens": 0, "seconds": 0.0} if calls == 2 else record

    monkeypatch.setattr(live, "run_arm", end_at_once)
    run = PairRun(str(target), [], prompts(2), PairSettings(**SETTINGS), tmp_path)
    run.run()
    run.close()
    (found,) = make_report(run, is_complete=True)["live"]
    assert found["num_blocks"] == 1
    (why,) = found["failed"].values()
    assert "ended at once" in why


def test_an_arm_that_is_disturbed_runs_again_and_a_disturbed_block_waits_for_resume(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(waits: list[float], *, resume: bool = False) -> tuple[int, dict[str, Any]]:
        """Run two blocks of four arms, of which each waits for others as told, then not at all."""
        real, calls = live.run_arm, 0

        def disturbed(*args: Any, **options: Any) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            wait = waits.pop(0) if waits else 0.0
            return {**real(*args, **options), "seconds": 1.0, "waited_s": wait}

        run = PairRun(
            str(target), [], prompts(2), PairSettings(**SETTINGS), tmp_path, resume=resume
        )
        with monkeypatch.context() as patch:
            patch.setattr(live, "run_arm", disturbed)
            run.run()
        run.close()
        (found,) = make_report(run, is_complete=True)["live"]
        return calls, found

    calls, found = start([0.5, 0.0, 0.9, 0.8, 0.7])  # the second arm is disturbed however often
    assert calls == 8 + 1 + 2
    assert (found["num_blocks"], found["num_disturbed"]) == (1, 1)
    assert {arm["num_outputs"] for arm in found["losslessness"]["arms"].values()} == {2}
    calls, found = start([], resume=True)
    assert calls == 4
    assert (found["num_blocks"], found["num_disturbed"]) == (2, 0)


def test_costs_that_were_disturbed_are_timed_again_by_resume(
    target: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(waits: Iterator[float], *, resume: bool = False) -> PairRun:
        with monkeypatch.context() as patch:
            patch.setattr(reading, "waited_since", lambda _before: next(waits))
            run = PairRun(
                str(target),
                [str(other)],
                prompts(2),
                PairSettings(**SETTINGS),
                tmp_path,
                resume=resume,
            )
            run.run()
            run.close()
        return run

    first = start(iter([1e6]))
    before = make_report(first, is_complete=True)
    assert before["costs"]["waited"] > 0.05
    assert "Doubt: other programs had" in make_page(before)
    again = start(iter([0.0]), resume=True)
    after = make_report(again, is_complete=True)
    assert after["costs"]["waited"] == 0.0
    assert again.measured.costs["other"] != first.measured.costs["other"]
    assert after["live"][0]["num_blocks"] == 2
    start(iter([]), resume=True)  # nothing is left to time


def test_blocks_that_are_measured_later_have_the_arms_of_those_before(
    target: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs may tell another best length by then, but arms are compared over all blocks."""
    settings = PairSettings(batches=(1,), **SETTINGS)
    real, calls = live.run_arm, 0

    def interrupt(*args: Any, **options: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise KeyboardInterrupt
        return real(*args, **options)

    run = PairRun(str(target), [str(other)], prompts(2), settings, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(live, "run_arm", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    run.close()
    monkeypatch.setattr("slipstream.benchmark.pair.run.arms_of", None)  # not asked again
    run = PairRun(str(target), [str(other)], prompts(2), settings, tmp_path, resume=True)
    run.run()
    run.close()
    one, two = run.measured.blocks
    assert one.arms.keys() == two.arms.keys()


def test_a_target_that_gives_nan_is_an_error_and_no_number(tmp_path: Path) -> None:
    bad = broken_model(tmp_path / "bad.gguf", n_ctx_train=1024)
    run = PairRun(str(bad), [], prompts(2), PairSettings(**SETTINGS), tmp_path)
    with pytest.raises(InvalidRequestError, match=r"letters-0: .*NaN"):
        run.run()
    run.close()
    found = make_report(run, is_complete=False)
    assert (found["costs"], found["scans"], found["live"]) == (None, [], [])
    assert "NaN" in make_page(found)


def test_drafts_that_are_drawn_are_foretold_by_the_rejection_rule(
    target: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin.gguf"
    twin.write_bytes(target.read_bytes())
    settings = PairSettings(temperatures=(1.0,), verify="distribution", **SETTINGS)
    run = PairRun(str(target), [str(twin)], prompts(), settings, tmp_path, ngram=False)
    run.run()
    run.close()
    (found,) = make_report(run, is_complete=True)["live"]
    assert found["losslessness"]["verify"] == "distribution"
    for arm in found["arms"]:
        if arm["predicted_alpha"] is not None:
            assert arm["predicted_alpha"] > 0.97  # the two distributions are the same
            assert arm["alpha"] > 0.97


def test_no_usable_prompt_is_an_error_with_the_reasons(target: Path, tmp_path: Path) -> None:
    too_long = PairPrompt(
        name="long", category="x", messages=({"role": "user", "content": "z" * 3000},)
    )
    run = PairRun(str(target), [], [too_long], PairSettings(**SETTINGS), tmp_path)
    with pytest.raises(InvalidRequestError, match=r"long: .*do not fit"):
        run.run()
    run.close()


def test_a_draft_model_that_gives_nan_is_left_out_by_name(target: Path, tmp_path: Path) -> None:
    bad = broken_model(tmp_path / "bad.gguf")
    run = PairRun(str(target), [str(bad)], prompts(2), PairSettings(**SETTINGS), tmp_path)
    run.run()
    run.close()
    assert "NaN" in run.measured.skipped["bad"]
    found = make_report(run, is_complete=True)
    assert {scan["candidate"] for scan in found["scans"]} == {"ngram"}
    assert {f["candidate"] for f in found["live"]} == {"ngram"}


def test_pairs_that_do_not_fit_are_refused_with_the_reason(target: Path, tmp_path: Path) -> None:
    state = write_tiny_model(tmp_path / "mamba.gguf", "mamba")
    with pytest.raises(DraftModelError, match="running state"):
        check_pair(str(target), str(state))
    with pytest.raises(ModelLoadError, match=r"missing\.gguf"):
        check_pair(str(target), str(tmp_path / "missing.gguf"))
    words = vocabulary_of(tmp_path / "words.gguf", lambda i, _token: f"word{i}")
    with pytest.raises(DraftModelError, match=r"only \d+ of its 300 .*id 0 is .*b'word0' here"):
        PairRun(str(target), [str(words)], prompts(1), PairSettings(), tmp_path)
    with pytest.raises(InvalidRequestError, match="nothing to compare"):
        PairRun(str(target), [], prompts(1), PairSettings(), tmp_path, ngram=False)
    with pytest.raises(InvalidRequestError, match="told apart"):
        PairRun(str(target), [str(target)] * 3, prompts(1), PairSettings(), tmp_path)


def test_a_target_whose_memory_cannot_go_back_is_refused(tmp_path: Path) -> None:
    state = write_tiny_model(tmp_path / "mamba.gguf", "mamba")
    run = PairRun(str(state), [], prompts(1), PairSettings(**SETTINGS), tmp_path)
    with pytest.raises(InvalidRequestError, match=r"nothing can draft for .*running state"):
        run.run()
    run.close()


def vocabulary_of(path: Path, spell: Callable[[int, str], str]) -> Path:
    """Write a model whose tokens are spelled differently."""
    metadata, tensors = tiny_parts("llama", 1)
    changed = [
        (
            key,
            kind,
            [spell(i, token) for i, token in enumerate(value)]
            if key == "tokenizer.ggml.tokens"
            else value,
        )
        for key, kind, value in metadata
    ]
    path.write_bytes(gguf_bytes(changed, tensors))
    return path


def test_tokens_that_differ_are_named_in_the_reports(target: Path, tmp_path: Path) -> None:
    other = vocabulary_of(
        tmp_path / "other.gguf", lambda i, token: "strange" if i == 200 else token
    )
    settings = PairSettings(confirm="none", **SETTINGS)
    run = PairRun(str(target), [str(other)], prompts(1), settings, tmp_path)
    run.run()
    run.close()
    found = make_report(run, is_complete=True)
    (difference,) = found["candidates"]["other"]["pair"]["differences"]
    assert (difference["id"], difference["draft"]) == (200, "strange")
    assert "id 200 is" in make_page(found)
    assert "strange" in make_page(found)


def test_candidates_are_ranked_and_refused_by_name(
    target: Path, other: Path, tmp_path: Path
) -> None:
    state = write_tiny_model(tmp_path / "mamba.gguf", "mamba")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(target.read_bytes()[:500])
    smaller = write_tiny_model(tmp_path / "smaller.gguf", "llama", 2, n_vocab=290)
    paths = [str(path) for path in (state, damaged, target, smaller, other)]
    found = rank_candidates(str(target), paths)
    assert str(target) not in [entry["path"] for entry in found]
    assert found[0]["path"] == str(smaller)
    assert found[0]["refused"] is None
    assert {e["path"] for e in found if e["refused"]} == {str(state), str(damaged), str(other)}


def test_the_command_writes_both_reports_and_goes_on(target: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(f'{{"prompt": "say {i}", "id": {i}}}\n' for i in range(3)))
    folder = tmp_path / "out"
    command = [
        "bench", "pair", str(target), "--prompts", str(mine), "--num-tokens", "12", "--gamma", "1,2",
        "--threads", "1", "--report", str(folder), "--per-category", "2",
    ]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "this will take about" in done.stderr
    assert "noise floor" in done.stdout
    found = json.loads((folder / "report.json").read_text())
    assert found["benchmark"] == "pair"
    assert found["schema"] == 2
    assert found["is_complete"]
    assert sum(found["prompts"]["by_category"].values()) == 2
    again = CliRunner().invoke(app, [*command, "--resume", "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["live"] == found["live"]


@pytest.mark.parametrize(
    "options",
    [["--resume"], ["--gamma", "x"], ["--batch", "1,,2"], ["--temperature", "warm"]],
)
def test_options_that_make_no_sense_are_refused(target: Path, options: list[str]) -> None:
    assert CliRunner().invoke(app, ["bench", "pair", str(target), *options]).exit_code == 2


def test_candidates_of_a_folder_are_listed(target: Path, other: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "some" / "model"
    folder.mkdir(parents=True)
    write_tiny_model(folder / "small.gguf", "llama", 3, n_vocab=290)
    done = CliRunner().invoke(
        app, ["bench", "draft-candidates", str(target), str(tmp_path / "models"), "--json"]
    )
    assert done.exit_code == 0, done.output
    (entry,) = json.loads(done.stdout)
    assert entry["path"].endswith("small.gguf")
