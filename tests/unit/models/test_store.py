"""The store finds the models of every layout, joins their files, names them, and lists broken ones as broken."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest

from slipstream.base.config import models_folder
from slipstream.base.errors import ModelNotFoundError
from slipstream.models import index
from slipstream.models.store import ModelStore
from tests.support.gguf_writer import gguf_bytes

TEMPLATE = "{% if tools %}{{ tools }}{% endif %}<think>"


def model_bytes(architecture="llama", *, extra=(), rows=4, template=None):
    metadata = [
        ("general.architecture", "str", architecture),
        ("general.name", "str", "Some Model"),
        ("general.file_type", "u32", 15),
        (f"{architecture}.context_length", "u32", 4096),
        *extra,
    ]
    if template:
        metadata.append(("tokenizer.chat_template", "str", template))
    return gguf_bytes(metadata, [("w", np.zeros((rows, 8), np.float32))])


def put(path, raw=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_bytes() if raw is None else raw)
    return path


def keys(store):
    return [model.key for model in store.scan()]


def test_a_model_is_described_by_its_header():
    path = put(models_folder() / "Pub/Nice-GGUF/nice-Q4_K_M.gguf", model_bytes(template=TEMPLATE))
    (model,) = ModelStore().scan()
    assert (model.key, model.publisher, model.display_name) == ("pub/nice", "Pub", "Some Model")
    assert (model.path, model.size_bytes) == (str(path), path.stat().st_size)
    assert (model.architecture, model.context_length) == ("llama", 4096)
    assert (model.num_params, model.params_string, model.quantization) == (32, "32", "Q4_K_M")
    assert model.capabilities.tool_use
    assert model.capabilities.reasoning
    assert not model.capabilities.vision
    assert (model.type, model.state, model.error) == ("llm", "ready", None)


def test_without_a_quantization_in_the_name_the_header_tells_it():
    put(models_folder() / "p/m/plain.gguf")
    assert ModelStore().scan()[0].selected_variant == "p/m@q4_k_m"


@pytest.mark.parametrize(
    ("architecture", "pooling", "type_", "rerank"),
    [
        ("bert", None, "embedding", False),
        ("qwen3", 3, "embedding", False),
        ("qwen3", 4, "llm", True),
        ("qwen3", 0, "llm", False),
    ],
)
def test_embedding_models_are_told_by_architecture_and_pooling(
    architecture, pooling, type_, rerank
):
    extra = [] if pooling is None else [(f"{architecture}.pooling_type", "u32", pooling)]
    put(models_folder() / "p/m/m.gguf", model_bytes(architecture, extra=extra))
    (model,) = ModelStore().scan()
    assert (model.type, model.capabilities.rerank) == (type_, rerank)


def test_quantizations_of_a_folder_are_variants_of_one_model():
    for quant in ("Q8_0", "Q4_K_M", "IQ2_XXS"):
        put(models_folder() / f"qwen/Qwen3-8B-GGUF/Qwen3-8B-{quant}.gguf")
    store = ModelStore()
    (model,) = store.scan()
    assert [variant.key for variant in model.variants] == [
        "qwen/qwen3-8b@iq2_xxs",
        "qwen/qwen3-8b@q4_k_m",
        "qwen/qwen3-8b@q8_0",
    ]
    assert model.selected_variant == "qwen/qwen3-8b@q4_k_m"
    for name in ("qwen/qwen3-8b@Q8_0", "Qwen/Qwen3-8B-GGUF@q8_0", "qwen3-8b@q8_0"):
        assert store.find(name).path.endswith("Q8_0.gguf")
    assert store.find("qwen/Qwen3-8B-GGUF/Qwen3-8B-Q8_0.gguf").quantization == "Q8_0"


def test_different_models_of_a_folder_have_keys_of_their_own():
    put(models_folder() / "p/both/one-Q4_0.gguf")
    put(models_folder() / "p/both/two-Q4_0.gguf")
    store = ModelStore()
    assert keys(store) == ["p/both/one", "p/both/two"]
    with pytest.raises(ModelNotFoundError, match="p/both/one, p/both/two"):
        store.find("p/both")


def test_split_files_are_one_model_and_a_missing_part_breaks_it():
    split = [("split.count", "u16", 2)]
    for number in (1, 2):
        put(models_folder() / f"p/s/s-Q8_0-0000{number}-of-00002.gguf", model_bytes(extra=split))
    store = ModelStore()
    (model,) = store.scan()
    size = len(model_bytes(extra=split))
    assert (model.size_bytes, model.num_params, model.state) == (2 * size, 64, "ready")
    assert model.path.endswith("00001-of-00002.gguf")
    (models_folder() / "p/s/s-Q8_0-00002-of-00002.gguf").unlink()
    (model,) = store.scan()
    assert model.state == "broken"
    assert "1 are missing" in model.error


def test_a_projector_belongs_to_the_models_of_its_folder():
    put(models_folder() / "p/v/v-Q4_0.gguf")
    path = put(models_folder() / "p/v/mmproj-F16.gguf", model_bytes("clip"))
    (model,) = ModelStore().scan()
    assert model.capabilities.vision
    assert model.mmproj == str(path)


def test_a_broken_file_is_listed_and_hides_nothing():
    put(models_folder() / "p/bad/bad.gguf", b"GGUF but no more")
    put(models_folder() / "p/cut/cut.gguf", model_bytes()[:-20])
    put(models_folder() / "p/empty/empty.gguf", b"")
    put(models_folder() / "p/good/good.gguf")
    states = {model.key: (model.state, model.error) for model in ModelStore().scan()}
    assert states["p/good"] == ("ready", None)
    assert states["p/empty"] == ("broken", "the file is empty")
    assert states["p/bad"][0] == states["p/cut"][0] == "broken"
    assert "cut" in states["p/cut"][1]


def test_a_broken_variant_is_not_the_one_taken():
    put(models_folder() / "p/m/m-Q4_K_M.gguf", b"broken")
    put(models_folder() / "p/m/m-Q8_0.gguf")
    (model,) = ModelStore().scan()
    assert (model.selected_variant, model.state) == ("p/m@q8_0", "ready")


def test_loose_files_and_further_folders_count(tmp_path, monkeypatch):
    put(tmp_path / "flat/lone-Q4_0.gguf")
    put(tmp_path / "lms/pub/model/model-Q4_0.gguf")
    folders = os.pathsep.join([str(tmp_path / "flat"), str(tmp_path / "lms"), "/nowhere"])
    monkeypatch.setenv("SLIPSTREAM_MODEL_FOLDERS", folders)
    assert keys(ModelStore()) == ["local/lone", "pub/model"]
    assert ModelStore().find("lone").key == "local/lone"


def test_the_same_key_in_two_folders_stays_unique(tmp_path):
    put(tmp_path / "a/pub/model/m-Q4_0.gguf")
    put(tmp_path / "b/pub/model/m-Q4_0.gguf")
    store = ModelStore([tmp_path / "a", tmp_path / "b"])
    assert keys(store) == ["pub/model", "pub/model~2"]
    assert store.find("pub/model").path.startswith(str(tmp_path / "a"))
    assert store.find("pub/model~2@q4_0").path.startswith(str(tmp_path / "b"))


def test_a_hugging_face_cache_shows_its_current_snapshot(tmp_path):
    repo = tmp_path / "models--Org--Name-GGUF"
    blob = put(repo / "blobs/0123")
    for revision in ("old", "new"):
        folder = repo / "snapshots" / revision
        folder.mkdir(parents=True)
        (folder / f"{revision}-Q4_0.gguf").symlink_to(blob)
    (repo / "snapshots/new/gone.gguf").symlink_to(tmp_path / "nothing")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("new")
    (model,) = ModelStore([tmp_path]).scan()
    assert (model.key, model.size_bytes) == ("org/name", blob.stat().st_size)
    assert model.path.endswith("new/new-Q4_0.gguf")
    (repo / "refs/main").write_text("../../../..")
    assert keys(ModelStore([tmp_path])) == ["org/name"]


def test_an_ollama_folder_shows_its_manifests(tmp_path):
    put(tmp_path / "blobs/sha256-aa")
    put(tmp_path / "blobs/sha256-bb", model_bytes("clip"))
    kind = "application/vnd.ollama.image."
    layers = [
        {"mediaType": kind + "model", "digest": "sha256:aa"},
        {"mediaType": kind + "projector", "digest": "sha256:bb"},
        {"mediaType": kind + "model", "digest": "../../secret"},
    ]
    manifests = tmp_path / "manifests/registry/library/qwen3"
    manifests.mkdir(parents=True)
    (manifests / "8b").write_text(json.dumps({"layers": layers}))
    (manifests / "bad").write_text("{")
    (model,) = ModelStore([tmp_path]).scan()
    assert (model.key, model.publisher) == ("ollama/qwen3", "ollama")
    assert model.path.endswith("sha256-aa")
    assert model.capabilities.vision


def test_a_loop_of_links_ends(tmp_path):
    put(tmp_path / "p/m/m.gguf")
    (tmp_path / "p/up").symlink_to(tmp_path)
    assert "p/m" in keys(ModelStore([tmp_path]))


def test_a_rescan_sees_what_came_changed_and_went():
    store = ModelStore()
    assert store.scan() == []
    path = put(models_folder() / "p/m/m.gguf")
    assert keys(store) == ["p/m"]
    put(path, b"broken now")
    assert store.scan()[0].state == "broken"
    path.unlink()
    assert store.scan() == []


def test_unchanged_files_are_not_read_again(monkeypatch):
    put(models_folder() / "p/m/m.gguf")
    before = ModelStore().scan()
    monkeypatch.setattr(index, "read_facts", lambda path: pytest.fail(f"read {path} again"))
    assert ModelStore().scan() == before


def test_a_damaged_index_is_made_anew(slipstream_home):
    put(models_folder() / "p/m/m.gguf")
    before = ModelStore().scan()
    (slipstream_home / "cache/models.index").write_bytes(b"\x93\x01garbage")
    assert ModelStore().scan() == before


@pytest.mark.parametrize(
    "key",
    [
        "",
        "..",
        "../p/m",
        "p/../m",
        "/etc/passwd",
        "p/m/../m",
        "p\0/m",
        "x" * 100_000,
        "p/m@../../x",
        "@",
    ],
)
def test_hostile_keys_find_nothing(key):
    put(models_folder() / "p/m/m.gguf")
    with pytest.raises(ModelNotFoundError):
        ModelStore().find(key)


def test_ten_thousand_files_are_listed_within_a_second_once_known(tmp_path):
    raw = model_bytes()
    first = put(tmp_path / "seed.gguf", raw)
    for i in range(1000):
        folder = tmp_path / f"root/pub{i % 20}/model{i}"
        folder.mkdir(parents=True)
        for quant in (
            "Q2_K",
            "Q3_K_M",
            "Q4_0",
            "Q4_1",
            "Q4_K_M",
            "Q5_0",
            "Q5_1",
            "Q5_K_M",
            "Q6_K",
            "Q8_0",
        ):
            os.link(first, folder / f"m-{quant}.gguf")
    store = ModelStore([tmp_path / "root"])
    assert len(store.scan()) == 1000
    best = min(_timed(store.scan) for _ in range(3))
    assert best < 1.0


def _timed(call):
    begin = time.process_time()
    call()
    return time.process_time() - begin
