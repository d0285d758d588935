"""cmake/progress.py, through which `make` runs its long steps."""

import os
import subprocess
import sys
from pathlib import Path

PROGRESS = Path(__file__).resolve().parents[1] / "cmake" / "progress.py"


def run(code, tmp_path, **env):
    command = [
        sys.executable,
        PROGRESS,
        "building",
        tmp_path / "log",
        "--",
        sys.executable,
        "-c",
        code,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "V": "", **env},
    )


def test_a_quick_command_shows_nothing_and_is_logged(tmp_path):
    done = run("print('[1/2] a.cpp')", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "[1/2] a.cpp\n"


def test_a_failure_keeps_its_exit_code_and_shows_the_end_of_the_log(tmp_path):
    done = run("import sys; print('\\n'.join(map(str, range(100)))); sys.exit(3)", tmp_path)
    assert done.returncode == 3
    assert "building: failed" in done.stderr
    assert done.stderr.splitlines()[-1] == "99"
    assert "\n10\n" not in done.stderr


def test_v_1_shows_everything(tmp_path):
    assert run("print('all of it')", tmp_path, V="1").stdout == "all of it\n"
