import configparser
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from slipstream.cli.main import app
from slipstream.cli.systemd import make_unit

HOSTILE = 'my "models" 100%i $HOME\\x.gguf'


def test_the_unit_is_written_where_systemd_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["server", "install-unit", "demo"])
    path = tmp_path / "systemd" / "user" / "slipstream.service"
    assert result.stdout == f"{path}\n"
    assert path.read_text(encoding="utf-8") == make_unit(["demo"])
    assert CliRunner().invoke(
        app, ["server", "install-unit", "demo", "--print"]
    ).stdout == make_unit(["demo"])


def test_the_unit_runs_this_python_with_this_home(slipstream_home):
    parser = configparser.RawConfigParser()
    parser.optionxform = str
    parser.read_string(make_unit(["demo"]))
    service = parser["Service"]
    assert service["ExecStart"] == f'"{sys.executable}" "-m" "slipstream" "serve" "--" "demo"'
    assert service["Environment"] == f'"SLIPSTREAM_HOME={slipstream_home}"'
    assert parser["Install"]["WantedBy"] == "default.target"


def test_odd_names_are_quoted():
    assert r'"my \"models\" 100%%i $$HOME\\x.gguf"' in make_unit([HOSTILE])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("models", [[], ["demo", HOSTILE]])
def test_systemd_takes_the_unit(tmp_path, models):
    path = tmp_path / "slipstream.service"
    path.write_text(make_unit(models), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert "slipstream.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
