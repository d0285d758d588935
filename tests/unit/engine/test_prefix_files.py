"""States in a folder: what was written is read back, and whatever the folder does costs no more than a state."""

import os
import stat
import subprocess
import sys

import pytest

from slipstream.engine.prefix_files import PrefixFiles

STATE = b"state" * 100


def written(folder, tokens, state=STATE, max_bytes=1 << 20):
    """The path of one state that is really there."""
    files = PrefixFiles(folder, max_bytes)
    path = files.write(tokens, state)
    files.close(5)
    assert path.exists()
    return path


def reopen(folder, max_bytes=1 << 20):
    files = PrefixFiles(folder, max_bytes)
    return files, files.scan()


def refusing(monkeypatch, *names):
    """Let these functions of os fail as in a folder that may only be read; root is stopped by no permission."""

    def refuse(*args, **kwargs):
        raise PermissionError("read only")

    for name in names:
        monkeypatch.setattr(os, name, refuse)


def test_a_state_is_read_back_by_the_next_process_with_its_tokens(tmp_path):
    path = written(tmp_path / "new", [1, 2, 3])
    files, found = reopen(tmp_path / "new")
    assert found == [(path, [1, 2, 3], path.stat().st_size)]
    assert files.num_bytes == path.stat().st_size
    assert files.read(path) == STATE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_state_can_be_read_before_it_is_written(tmp_path):
    files = PrefixFiles(tmp_path, 1 << 20)
    files._run = lambda: None  # a disk that never comes to it
    path = files.write([1], STATE)
    assert files.read(path) == STATE
    assert not path.exists()


def test_no_more_than_the_queue_holds_waits_to_be_written(tmp_path):
    files = PrefixFiles(tmp_path, 1 << 20)
    files._run = lambda: None
    paths = [files.write([token], STATE) for token in range(9)]
    assert None not in paths[:8]
    assert paths[8] is None


def test_what_is_larger_than_the_budget_is_refused(tmp_path):
    files = PrefixFiles(tmp_path, 100)
    assert not files.fits(1, 100)
    assert files.write([1], b"x" * 100) is None
    assert files.fits(1, 50)


def test_the_least_recently_used_files_go_first(tmp_path):
    old, new, newest = (written(tmp_path, [i]) for i in range(3))
    for when, path in enumerate((old, new, newest)):
        os.utime(path, (when, when))
    files, _ = reopen(tmp_path, 2 * newest.stat().st_size)
    assert files.read(old) == STATE
    assert files.trim() == [new]
    assert old.exists()
    assert files.num_bytes == 2 * newest.stat().st_size


@pytest.mark.parametrize(
    "content", [b"", b"SLPPFX1\n", b"SLPPFX1\n\x05\x00\x00\x00\x01", b"x" * 99]
)
def test_what_is_no_state_is_removed(tmp_path, content):
    path = tmp_path / "some.prefix"
    path.write_bytes(content)
    files, found = reopen(tmp_path)
    assert not found
    assert files.num_bytes == 0
    assert not path.exists()


def test_a_damaged_file_that_cannot_be_removed_is_forgotten(tmp_path, monkeypatch):
    path = written(tmp_path, [1, 2])
    files, _ = reopen(tmp_path)
    path.write_bytes(b"rubbish")
    refusing(monkeypatch, "unlink")
    assert files.read(path) is None
    assert files.num_bytes == 0


def test_a_folder_that_may_only_be_read_serves_what_it_has(tmp_path, monkeypatch):
    path = written(tmp_path, [1, 2])
    refusing(monkeypatch, "utime", "unlink")
    files, found = reopen(tmp_path)
    assert [entry[0] for entry in found] == [path]
    assert files.read(path) == STATE
    assert files.num_bytes == path.stat().st_size


def test_a_folder_that_takes_no_files_loses_states_and_says_so(tmp_path, monkeypatch, caplog):
    files = PrefixFiles(tmp_path, 1 << 20)
    refusing(monkeypatch, "open", "unlink")
    first = files.write([1], STATE)
    second = files.write([2], STATE)
    files.close(5)
    assert files.num_bytes == 0
    assert files.read(first) is None
    assert files.read(second) is None
    assert "cannot be kept" in caplog.text


def test_what_else_lies_in_the_folder_is_left_alone(tmp_path):
    path = written(tmp_path, [1])
    (tmp_path / "a.prefix").mkdir()
    os.mkfifo(tmp_path / "b.prefix")
    (tmp_path / "c.prefix").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("mine")
    _, found = reopen(tmp_path)
    assert [entry[0] for entry in found] == [path]
    assert len(list(tmp_path.iterdir())) == 5


def test_half_written_files_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = tmp_path / f"a.{child.pid}-1.tmp"
    alive = tmp_path / f"b.{os.getpid()}-1.tmp"
    for path in (dead, alive):
        path.write_bytes(b"half")
    reopen(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_two_processes_share_a_folder_and_its_budget(tmp_path):
    first = written(tmp_path, [1])
    size = first.stat().st_size
    ours, _ = reopen(tmp_path, 2 * size)
    second = written(tmp_path, [2])  # another process
    assert ours.trim() == []
    assert ours.num_bytes == 2 * size
    first.unlink()  # by the other one, too
    assert ours.read(first) is None
    third = ours.write([3], STATE)
    ours.close(5)
    assert ours.trim() == []
    assert ours.num_bytes == 2 * size
    written(tmp_path, [4])
    assert len(ours.trim()) == 1
    assert ours.num_bytes == 2 * size
    assert third.exists()
    assert second.exists() != (len(list(tmp_path.iterdir())) < 2)


def test_a_file_that_vanishes_while_the_folder_is_read_is_left_out(tmp_path, monkeypatch):
    kept, lost = written(tmp_path, [1]), written(tmp_path, [2])
    files = PrefixFiles(tmp_path, 1 << 20)
    listed = files._list()
    lost.unlink()
    monkeypatch.setattr(files, "_list", lambda: listed)
    assert [path for path, _, _ in files.scan()] == [kept]
