"""/api/v1/models and below over a real store of tiny files; engines are fakes, which load at once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from starlette.testclient import TestClient

from slipstream.base.config import models_folder
from slipstream.base.errors import ModelLoadError
from slipstream.models import index
from slipstream.runtime import loader
from slipstream.runtime.model_manager import ModelManager
from slipstream.runtime.settings import ServerSettings
from slipstream.server.app import create_app
from tests.support.fake_engine import MIB, FakeEngine, machine, small
from tests.support.fake_generation import FakeGeneration
from tests.support.gguf_writer import gguf_bytes
from tests.support.tiny_gguf import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

URL = "/api/v1/models"
FILES = {
    "acme/Chat-7B-GGUF/Chat-7B-Q4_K_M.gguf": "llama",
    "acme/Chat-7B-GGUF/Chat-7B-Q8_0.gguf": "llama",
    "acme/embed/embed-F16.gguf": "bert",
}
KEY = "acme/chat-7b"


@pytest.fixture
def manager(monkeypatch) -> ModelManager:
    monkeypatch.setattr(FakeEngine, "started", [])
    monkeypatch.setattr(FakeEngine, "at_once", True)
    monkeypatch.setattr(loader, "EngineProcess", FakeEngine)
    for name, kind in FILES.items():
        path = models_folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tiny_model(path, kind)
    return ModelManager(estimates=small, memory=machine())


@pytest.fixture
def client(manager: ModelManager) -> Iterator[TestClient]:
    app = create_app(FakeGeneration(), manager, manager.settings)
    with TestClient(app, raise_server_exceptions=False) as test_client:
        yield test_client


def models(client: TestClient) -> dict[str, dict]:
    answer = client.get(URL)
    assert answer.status_code == 200, answer.text
    return {model["key"]: model for model in answer.json()["models"]}


def load(client: TestClient, **fields) -> dict:
    answer = client.post(f"{URL}/load", json={"model": KEY, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer, status: int) -> dict:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_the_list_has_both_types_with_their_fields(client: TestClient) -> None:
    listed = models(client)
    chat, embed = listed[KEY], listed["acme/embed"]
    assert (chat["type"], embed["type"]) == ("llm", "embedding")
    assert chat["publisher"] == "acme"
    assert chat["architecture"] == "llama"
    assert chat["quantization"]["name"] == "Q4_K_M"
    assert chat["quantization"]["bits_per_weight"] > 0
    assert chat["size_bytes"] > 0
    assert chat["max_context_length"] > 0
    assert chat["format"] == "gguf"
    assert chat["capabilities"] == {"vision": False, "trained_for_tool_use": False}
    assert chat["variants"] == [f"{KEY}@q4_k_m", f"{KEY}@q8_0"]
    assert chat["selected_variant"] == f"{KEY}@q4_k_m"
    assert chat["loaded_instances"] == []
    assert {"capabilities", "architecture", "variants"} & embed.keys() == set()


@pytest.mark.parametrize(
    ("template", "reasoning"),
    [
        ("{{ messages }}", None),
        ("<think>", {"allowed_options": ["off", "on"], "default": "on"}),
        (
            "{{ reasoning_effort }}",
            {"allowed_options": ["off", "on", "low", "medium", "high"], "default": "medium"},
        ),
    ],
)
def test_the_list_tells_how_a_model_reasons(
    client: TestClient, template: str, reasoning: dict | None
) -> None:
    metadata = [
        ("general.architecture", "str", "llama"),
        ("tokenizer.chat_template", "str", template),
    ]
    path = models_folder() / "acme" / "thinker" / "thinker.gguf"
    path.parent.mkdir()
    path.write_bytes(gguf_bytes(metadata, [("w", np.zeros((4, 8), np.float32))]))
    able = models(client)["acme/thinker"]["capabilities"]
    assert able.get("reasoning") == reasoning


def test_a_load_is_told_and_listed(client: TestClient) -> None:
    answer = load(
        client, context_length=2048, eval_batch_size=64, parallel=2, echo_load_config=True
    )
    assert answer["instance_id"] == KEY
    assert (answer["type"], answer["status"]) == ("llm", "loaded")
    assert answer["load_time_seconds"] >= 0
    config = {
        "context_length": 2048,
        "eval_batch_size": 64,
        "parallel": 2,
        "offload_kv_cache_to_gpu": True,
    }
    assert answer["load_config"] == config
    (instance,) = models(client)[KEY]["loaded_instances"]
    assert instance == {
        "id": KEY, "config": config, "status": "idle", "progress": 1.0, "num_requests": 0, "memory_bytes": 100 * MIB,
    }  # fmt: skip
    assert FakeEngine.started[0].config.batch_size == 64


def test_every_setting_of_a_load_reaches_the_engine(client: TestClient) -> None:
    asked = {
        "flash_attention": True, "num_experts": 3, "offload_kv_cache_to_gpu": False, "gpu_ratio": 0.5,
        "kv_type": "q8_0", "threads": 2, "adapt_threads": False, "mmap": False, "huge_pages": False,
        "keep_in_memory": True, "rope_freq_base": 1e4, "rope_freq_scale": 0.5, "seed": 7,
    }  # fmt: skip
    config = load(client, **asked, echo_load_config=True)["load_config"]
    assert (config["flash_attention"], config["num_experts"]) == (True, 3)
    assert config["offload_kv_cache_to_gpu"] is False
    loaded = FakeEngine.started[0].config
    asked["offload_kv_cache"] = asked.pop("offload_kv_cache_to_gpu")
    assert {name: getattr(loaded, name) for name in asked} == asked
    load(client, seed=-1, gpu_layers=2)
    assert (FakeEngine.started[1].config.seed, FakeEngine.started[1].config.gpu_layers) == (None, 2)


def test_a_second_load_is_a_second_instance(client: TestClient) -> None:
    assert [load(client)["instance_id"] for _ in "ab"] == [KEY, f"{KEY}:2"]
    assert load(client, identifier="mine", ttl=60)["instance_id"] == "mine"
    told = error_of(client.post(f"{URL}/load", json={"model": KEY, "identifier": "mine"}), 400)
    assert told["param"] == "identifier"
    listed = models(client)[KEY]["loaded_instances"]
    assert [one["id"] for one in listed] == [KEY, f"{KEY}:2", "mine"]
    assert listed[2]["ttl"] == 60


def test_another_variant_is_named_with_its_quantization(client: TestClient) -> None:
    assert load(client, model=f"{KEY}@q8_0")["instance_id"] == f"{KEY}@q8_0"
    assert FakeEngine.started[0].path.endswith("Q8_0.gguf")
    assert load(client, model="Chat-7B")["instance_id"] == KEY


def test_unload_ends_the_instance(client: TestClient) -> None:
    load(client)
    answer = client.post(f"{URL}/unload", json={"instance_id": KEY})
    assert answer.json() == {"instance_id": KEY}
    assert FakeEngine.started[0].is_terminated
    assert models(client)[KEY]["loaded_instances"] == []
    told = error_of(client.post(f"{URL}/unload", json={"instance_id": KEY}), 404)
    assert told["type"] == "model_not_found"


def test_a_load_can_be_followed(client: TestClient) -> None:
    text = client.post(f"{URL}/load", json={"model": KEY, "stream": True}).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    names = [event["type"] for event in events]
    assert names[0] == "model_load.start"
    assert names[-2:] == ["model_load.end", "load.end"]
    progress = [event["progress"] for event in events if "progress" in event]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert events[-1]["result"]["instance_id"] == KEY


def test_a_load_that_fails_leaves_nothing(client: TestClient, monkeypatch) -> None:
    async def start(*_args, **_options):
        raise ModelLoadError("no such file")

    monkeypatch.setattr(FakeEngine, "start", start)
    told = error_of(client.post(f"{URL}/load", json={"model": KEY}), 500)
    assert told == {
        "type": "internal_error",
        "message": "no such file",
        "code": "model_load_failed",
    }
    assert models(client)[KEY]["loaded_instances"] == []


def test_guardrails_refuse_and_force_overrides_them(
    client: TestClient, manager: ModelManager
) -> None:
    manager._current = lambda: ServerSettings(guardrails="custom", guardrail_bytes=150 * MIB)
    load(client)
    told = error_of(client.post(f"{URL}/load", json={"model": "acme/embed"}), 507)
    assert told["code"] == "insufficient_memory"
    assert re.search("needs about 0.10 GiB .* leaves 0.05 GiB", told["message"])
    estimate = client.post(f"{URL}/estimate", json={"model": "acme/embed"}).json()
    assert estimate["total_bytes"] == 100 * MIB
    assert "0.05 GiB" in estimate["refusal"]
    assert load(client, model="acme/embed", force=True)["type"] == "embedding"


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("load", {}, 400, {"code": "missing_required_parameter", "param": "model"}),
        ("load", {"model": KEY, "n": 1}, 400, {"code": "unrecognized_keys", "param": "n"}),
        ("load", {"model": KEY, "context_length": -1}, 400, {"param": "context_length"}),
        ("load", {"model": KEY, "eval_batch_size": 0}, 400, {"param": "batch_size"}),
        ("load", {"model": KEY, "ttl": 0}, 400, {"param": "ttl"}),
        ("load", {"model": KEY, "num_experts": -2}, 400, {"param": "num_experts"}),
        ("load", {"model": KEY, "gpu_ratio": 2}, 400, {"param": "gpu_ratio"}),
        ("load", {"model": KEY, "seed": -2}, 400, {"param": "seed"}),
        ("load", {"model": KEY, "draft_model": "none"}, 404, {"param": "draft_model"}),
        ("load", {"model": "none"}, 404, {"type": "model_not_found", "param": "model"}),
        ("load", {"model": "../../etc/passwd"}, 404, {"type": "model_not_found"}),
        ("load", {"model": "/etc/passwd"}, 404, {"type": "model_not_found"}),
        ("load", {"model": "a\0b"}, 404, {"type": "model_not_found"}),
        ("load", {"model": "x" * 1000}, 404, {"type": "model_not_found"}),
        ("load", {"model": "x" * 2000}, 400, {"param": "model"}),
        ("load", {"model": KEY, "identifier": "a\nb"}, 400, {"param": "identifier"}),
        ("estimate", {"model": "none"}, 404, {"type": "model_not_found"}),
        ("unload", {}, 400, {"param": "instance_id"}),
        ("unload", {"instance_id": "../x"}, 404, {"type": "model_not_found"}),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_the_routes_own_words(
    client: TestClient, path: str, body: dict, status: int, error: dict
) -> None:
    told = error_of(client.post(f"{URL}/{path}", json=body), status)
    assert told | error == told
    assert told["message"]


def test_the_openai_list_follows_the_mode(client: TestClient, manager: ModelManager) -> None:
    def listed():
        return [entry["id"] for entry in client.get("/v1/models").json()["data"]]

    assert listed() == [KEY, "acme/embed"]
    assert client.get("/v1/models/Chat-7B").json()["id"] == KEY
    manager._current = lambda: ServerSettings(jit=False)
    assert listed() == []
    assert client.get(f"/v1/models/{KEY}").status_code == 404
    load(client)
    assert listed() == [KEY]


def test_five_hundred_models_are_listed_without_their_files_being_read_again(
    client: TestClient, manager: ModelManager, monkeypatch
) -> None:
    source = models_folder() / "acme/embed/embed-F16.gguf"
    for i in range(500):
        target = models_folder() / f"many/model-{i}/model-{i}-Q4_0.gguf"
        target.parent.mkdir(parents=True)
        target.hardlink_to(source)
    assert len(models(client)) == 502
    # What that costs is measured by bench/bench_manager.py.
    monkeypatch.setattr(index, "read_facts", lambda path: pytest.fail(f"read {path} again"))
    manager._instances._library._scanned_s = float("-inf")
    assert len(models(client)) == 502
