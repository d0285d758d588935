"""Names find the right file below the models folder and nothing outside of it."""

from __future__ import annotations

import pytest

from slipstream.base.config import demo_model_path, models_folder
from slipstream.base.errors import ModelNotFoundError
from slipstream.models.catalog import resolve_key, resolve_model


def put(key, size=10):
    path = models_folder() / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "some.gguf"
    path.write_bytes(b"x")
    assert resolve_model(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert resolve_model("some.gguf") == path
    assert resolve_model("./some.gguf") == path


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"no model file '.*gone.gguf'"):
        resolve_model(str(tmp_path / "gone.gguf"))


def test_an_absolute_directory_is_left_to_the_file_check(tmp_path):
    assert resolve_model(str(tmp_path)) == tmp_path


def test_the_demo_says_how_to_get_it():
    with pytest.raises(ModelNotFoundError, match="make run") as caught:
        resolve_model("demo")
    assert caught.value.param == "model"
    demo_model_path().parent.mkdir(parents=True)
    demo_model_path().write_bytes(b"x")
    assert resolve_model("demo") == demo_model_path()


def test_a_folder_with_one_model_needs_no_file_name():
    path = put("pub/model/m.Q4.gguf")
    put("pub/model/mmproj-m.gguf")
    put("pub/model/readme.md")
    assert resolve_model("pub/model") == path
    assert resolve_model("pub/model/m.Q4.gguf") == path


def test_a_folder_with_several_models_asks_which():
    put("pub/model/a.gguf")
    put("pub/model/b.gguf")
    with pytest.raises(ModelNotFoundError, match="pub/model/a, pub/model/b"):
        resolve_model("pub/model")


def test_an_unknown_name_gets_close_ones():
    put("pub/model/a.gguf")
    with pytest.raises(ModelNotFoundError, match="did you mean pub/model"):
        resolve_model("pub/modle")
    with pytest.raises(ModelNotFoundError, match="there are: pub/model"):
        resolve_model("xyz")


def test_without_models_the_message_says_what_to_do():
    with pytest.raises(ModelNotFoundError, match="make run"):
        resolve_model("xyz")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a//b", "../x/y.gguf", "a\0b", "a/../b", "x" * 5000]
)
def test_strange_names_are_not_found(name):
    with pytest.raises(ModelNotFoundError):
        resolve_key(name)


def test_a_key_never_leads_out_of_the_models_folder(slipstream_home, tmp_path):
    models_folder().mkdir(parents=True)
    (tmp_path / "secret.gguf").write_bytes(b"x")
    (slipstream_home / "x.gguf").write_bytes(b"x")
    for name in (str(tmp_path / "secret.gguf"), "../x.gguf", "a/../../x.gguf", "../../secret.gguf"):
        with pytest.raises(ModelNotFoundError):
            resolve_key(name)
