import json

import pytest
from typer.testing import CliRunner

import slipstream
from slipstream.base.errors import ModelLoadError
from slipstream.cli import main as main_module
from slipstream.cli.main import app
from slipstream.models import demo


def run_main(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["slipstream", *args])
    with pytest.raises(SystemExit) as stop:
        main_module.main()
    return stop.value.code


def fail_with(error):
    def command():
        raise error

    return command


@pytest.fixture
def failing_app(monkeypatch):
    import typer

    def make(error):
        failing = typer.Typer(pretty_exceptions_enable=False)
        failing.command()(fail_with(error))
        monkeypatch.setattr(main_module, "app", failing)

    return make


def test_a_known_error_is_one_line_on_stderr_and_exit_code_1(monkeypatch, capsys, failing_app):
    failing_app(ModelLoadError("x.gguf is cut\n  short", path="x.gguf"))
    assert run_main(monkeypatch) == 1
    assert capsys.readouterr() == ("", "slipstream: x.gguf is cut short\n")


def test_ctrl_c_is_exit_code_130(monkeypatch, failing_app):
    failing_app(KeyboardInterrupt())
    assert run_main(monkeypatch) == 130


def test_an_unknown_error_is_not_hidden(monkeypatch, failing_app):
    failing_app(ZeroDivisionError())
    monkeypatch.setattr("sys.argv", ["slipstream"])
    with pytest.raises(ZeroDivisionError):
        main_module.main()


@pytest.mark.parametrize(
    "args", [["no-such-command"], ["serve", "--port", "x"], ["bench", "decode", "-r", "0"]]
)
def test_wrong_usage_is_exit_code_2(monkeypatch, args, capsys):
    assert run_main(monkeypatch, *args) == 2
    assert capsys.readouterr().err


def test_help_lists_the_commands():
    shown = CliRunner().invoke(app, ["--help"]).stdout
    for command in ("serve", "chat", "bench", "get", "version"):
        assert command in shown


@pytest.mark.parametrize("args", [["version"], ["--version"]])
def test_version(args):
    result = CliRunner().invoke(app, args)
    assert (result.exit_code, result.stdout) == (0, f"slipstream {slipstream.__version__}\n")


def test_version_as_json_and_as_lines(monkeypatch):
    info = {"backend": "cpu", "cpu_features": ["AVX2", "FMA"]}
    monkeypatch.setattr(slipstream, "build_info", lambda: info, raising=False)
    shown = json.loads(CliRunner().invoke(app, ["version", "--json"]).stdout)
    assert shown == {"version": slipstream.__version__, **info}
    lines = CliRunner().invoke(app, ["version", "--verbose"]).stdout.splitlines()
    assert lines[-1].split(maxsplit=1) == ["cpu_features", "AVX2, FMA"]


def test_get_refuses_what_it_cannot_fetch(monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run_main(monkeypatch, "get", "no/such-model") == 1
    assert capsys.readouterr().err.startswith("slipstream: ")


def test_get_prints_where_the_demo_model_lies(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "bring_demo_model", lambda progress: tmp_path / "m.gguf")
    assert CliRunner().invoke(app, ["get", "demo"]).stdout == f"{tmp_path / 'm.gguf'}\n"
