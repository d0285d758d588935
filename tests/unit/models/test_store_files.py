"""Imports put whole models where the store finds them; removing deletes what is ours and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from slipstream.base.config import models_folder
from slipstream.base.errors import InvalidRequestError, ModelLoadError, StoreError
from slipstream.models.store import ModelStore
from slipstream.models.store_files import files_to_remove, plan_import, remove_files, run_import
from tests.support.gguf_writer import gguf_bytes

MODEL = gguf_bytes(
    [("general.architecture", "str", "llama")], [("w", np.zeros((4, 8), np.float32))]
)


def put(path, raw=MODEL):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("mode", "stays"),
    [("move", False), ("copy", True), ("hard-link", True), ("symbolic-link", True)],
)
def test_a_file_is_imported_in_each_mode(tmp_path, mode, stays):
    file = put(tmp_path / "in/nice-Q4_0.gguf")
    run_import(plan_import(file, mode))
    model = ModelStore().find("local/nice")
    assert Path(model.path).read_bytes() == MODEL
    assert file.exists() == stays
    assert Path(model.path).is_symlink() == (mode == "symbolic-link")
    if mode == "hard-link":
        assert Path(model.path).samefile(file)


def test_planning_changes_nothing(tmp_path):
    file = put(tmp_path / "nice.gguf")
    plan = plan_import(file, "move", "pub/Nice")
    assert plan.files == ((str(file), str(models_folder() / "pub/Nice/nice.gguf")),)
    assert file.exists()
    assert not models_folder().exists()


def test_all_parts_come_along(tmp_path):
    for i in (1, 2):
        put(tmp_path / f"s-0000{i}-of-00002.gguf")
    run_import(plan_import(tmp_path / "s-00002-of-00002.gguf", "copy"))
    assert len(list(models_folder().rglob("*.gguf"))) == 2
    (tmp_path / "s-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelLoadError, match="of which 1 are there"):
        plan_import(tmp_path / "s-00001-of-00002.gguf", "copy", "a/b")


def test_a_move_to_another_disk_copies(tmp_path, monkeypatch):
    file = put(tmp_path / "m.gguf")
    plan = plan_import(file, "move")

    def refuse(_self, _target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", refuse)
    run_import(plan)
    assert not file.exists()
    assert ModelStore().find("local/m").state == "ready"


@pytest.mark.parametrize("user_repo", ["x", "a/b/c", "../x", "a/..", "a/", "a/b\0"])
def test_hostile_places_are_refused(tmp_path, user_repo):
    file = put(tmp_path / "m.gguf")
    with pytest.raises(InvalidRequestError):
        plan_import(file, "move", user_repo)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="not b'GGUF'"):
        plan_import(put(tmp_path / "x.gguf", b"no model at all"), "move")
    with pytest.raises(ModelLoadError, match="no such file"):
        plan_import(tmp_path / "gone.gguf", "move")
    with pytest.raises(InvalidRequestError, match=r"no \.gguf file"):
        plan_import(put(tmp_path / "x.bin"), "move")
    (tmp_path / "link.gguf").symlink_to(put(tmp_path / "m.gguf"))
    with pytest.raises(InvalidRequestError, match="is a link"):
        plan_import(tmp_path / "link.gguf", "move")


def test_nothing_is_overwritten(tmp_path):
    put(models_folder() / "local/m/m.gguf")
    with pytest.raises(InvalidRequestError, match="there already"):
        plan_import(put(tmp_path / "m.gguf"), "move")


def test_a_target_that_cannot_be_written_is_said(tmp_path):
    file = put(tmp_path / "m.gguf")
    plan = plan_import(file, "move")
    put(models_folder() / "local", b"a file in the way")
    with pytest.raises(StoreError, match="cannot be put"):
        run_import(plan)
    assert file.exists()


def test_removing_a_variant_keeps_the_others_and_the_projector():
    for name in ("m-Q4_0", "m-Q8_0", "mmproj-F16"):
        put(models_folder() / f"p/m/{name}.gguf")
    model = ModelStore().find("p/m@q8_0")
    remove_files(files_to_remove(model, only_selected=True))
    left = ModelStore().find("p/m")
    assert [variant.quantization for variant in left.variants] == ["Q4_0"]
    assert left.capabilities.vision
    remove_files(files_to_remove(left, only_selected=False))
    assert list(models_folder().iterdir()) == []


def test_files_of_other_folders_are_left_alone(tmp_path):
    put(tmp_path / "p/m/m.gguf")
    model = ModelStore([tmp_path]).find("p/m")
    with pytest.raises(InvalidRequestError, match="delete it where it belongs"):
        files_to_remove(model, only_selected=False)
