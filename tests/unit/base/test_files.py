import os
import stat

import pytest

from slipstream.base.errors import StoreError
from slipstream.base.files import WatchedFile, locked, open_lock, replace_file, set_aside, try_lock


def test_a_replaced_file_is_for_this_user_only(tmp_path):
    path = tmp_path / "new" / "file.json"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    replace_file(path, b"old")

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        replace_file(tmp_path / "file" / "below.json", b"")


def test_a_watched_file_is_parsed_again_only_when_it_has_changed(tmp_path):
    path = tmp_path / "file"
    parsed = []
    watched = WatchedFile(path, lambda data: parsed.append(data) or data)
    assert watched.read() is None
    assert watched.read() is None
    replace_file(path, b"one")
    assert [watched.read(), watched.read()] == [b"one", b"one"]
    replace_file(path, b"two")
    assert watched.read() == b"two"
    path.unlink()
    assert watched.read() is None
    assert parsed == [None, b"one", b"two", None]


def test_what_parse_raises_is_raised_until_the_file_is_mended(tmp_path):
    path = tmp_path / "file"
    watched = WatchedFile(path, lambda data: int(data or 0))
    replace_file(path, b"x")
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            watched.read()
    replace_file(path, b"7")
    assert watched.read() == 7


def test_one_holder_of_a_lock_at_a_time(tmp_path):
    path = tmp_path / "lock"
    with open_lock(path) as other:
        assert try_lock(other)
        with pytest.raises(StoreError, match="held by another process"), locked(path, 0.0):
            pass
    with locked(path):
        pass


def test_a_file_set_aside_keeps_its_text(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("{", encoding="utf-8")
    target = set_aside(path)
    assert target.name.startswith("file.json.damaged-")
    assert target.read_text(encoding="utf-8") == "{"
    assert not path.exists()
