"""Names find the right file below the models folder and nothing outside of it."""

from __future__ import annotations

import pytest

from slipstream.base.config import demo_model_path, models_folder
from slipstream.base.errors import ModelNotFoundError
from slipstream.models.catalog import list_models, resolve_key, resolve_model


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
    with pytest.raises(ModelNotFoundError, match=r"pub/model/a.gguf, pub/model/b.gguf"):
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


def test_models_are_listed_with_keys_that_resolve():
    put("pub/one/m.gguf", 5)
    put("pub/two/b.gguf")
    put("pub/two/a.gguf")
    for i in (1, 2):
        put(f"pub/split/s[1]-0000{i}-of-00002.gguf", 100)
    put("loose.gguf")
    entries = list_models()
    keys = [entry.key for entry in entries]
    assert keys == ["pub/one", "pub/split", "pub/two/a.gguf", "pub/two/b.gguf"]
    assert [entry.size_bytes for entry in entries] == [5, 200, 10, 10]
    for entry in entries:
        assert resolve_key(entry.key) == entry.path


def test_no_models_folder_means_no_models():
    assert list_models() == []
