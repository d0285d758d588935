"""/api/v1/models/download and below, against a hub on loopback."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.gguf_writer import gguf_bytes
from tests.support.hub_server import hub_server
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from starlette.testclient import TestClient

pytestmark = pytest.mark.e2e
URL = "/api/v1/models/download"
REPO = "Org/Nice-GGUF"
MODEL = gguf_bytes(
    [("general.architecture", "str", "llama")], [("w", np.zeros((512, 512), np.float32))]
)


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.add(REPO, **{"nice-Q4_K_M": MODEL, "nice-Q8_0": MODEL + bytes(64)})
        yield hub
        hub.release.set()


def start(client: TestClient, **fields) -> dict:
    answer = client.post(URL, json={"model": REPO, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def status(client: TestClient, job_id: str) -> dict:
    return client.get(f"{URL}/status/{job_id}").json()


def test_a_download_is_told_from_start_to_end(client: TestClient, hub) -> None:
    begun = start(client)
    assert re.fullmatch(r"job_[0-9a-f]{10}", begun["job_id"])
    assert begun["status"] == "downloading"
    assert begun["total_size_bytes"] == len(MODEL)
    done = wait_until(
        lambda: (now := status(client, begun["job_id"]))["status"] == "completed" and now, "the end"
    )
    assert done["downloaded_bytes"] == len(MODEL)
    assert done["completed_at"] >= done["started_at"]
    again = start(client)
    assert again["status"] == "already_downloaded"
    assert "job_id" not in again


def test_an_address_and_a_quantization_name_a_file(client: TestClient, hub) -> None:
    begun = start(client, model=f"{hub.url}/{REPO}", quantization="Q8_0")
    assert begun["total_size_bytes"] == len(MODEL) + 64
    wait_until(lambda: status(client, begun["job_id"])["status"] == "completed", "the end")


def test_a_download_is_paused_resumed_and_cancelled(client: TestClient, hub) -> None:
    hub.faults += [("stall", 1000)]
    job_id = start(client)["job_id"]
    assert hub.stalled.wait(10)
    assert client.post(f"{URL}/pause/{job_id}").json()["status"] == "paused"
    hub.release.set()
    assert client.post(f"{URL}/resume/{job_id}").json()["status"] == "downloading"
    wait_until(lambda: status(client, job_id)["status"] == "completed", "the end")
    assert client.post(f"{URL}/cancel/{job_id}").json() == {"job_id": job_id, "status": "cancelled"}
    assert client.get(f"{URL}/status/{job_id}").status_code == 404


@pytest.mark.parametrize("path", ["status", "pause", "resume", "cancel"])
def test_an_unknown_job_is_told(client: TestClient, path: str) -> None:
    ask = client.get if path == "status" else client.post
    for job_id in ("job_0123456789", "..%2Fx", "x" * 500):
        answer = ask(f"{URL}/{path}/{job_id}")
        assert answer.status_code == 404
    answer = ask(f"{URL}/{path}/job_0123456789")
    assert answer.json()["error"]["type"] == "job_not_found"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({}, 400, "invalid_request"),
        ({"model": REPO, "to": "/etc"}, 400, "invalid_request"),
        ({"model": "../../x"}, 400, "invalid_request"),
        ({"model": "http://169.254.1.1/x.gguf"}, 400, "invalid_request"),
        ({"model": "nobody/nothing"}, 404, "model_not_found"),
    ],
)
def test_what_cannot_be_downloaded_is_told(
    client: TestClient, hub, body: dict, status: int, kind: str
) -> None:
    answer = client.post(URL, json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind), answer.text
