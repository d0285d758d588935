"""Downloads against a hub on loopback: resumed, checked, published as a whole, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest

from slipstream.base.config import models_folder
from slipstream.base.errors import (
    DownloadError,
    InvalidRequestError,
    ModelNotFoundError,
    StoreError,
)
from slipstream.models import transfer
from slipstream.models.download_plan import plan_download
from slipstream.models.downloads import DownloadManager
from slipstream.models.hub import search
from slipstream.models.store import ModelStore
from slipstream.models.transfer import TransferPolicy
from tests.support.gguf_writer import gguf_bytes
from tests.support.hub_server import hub_server
from tests.support.processes import start_server, wait_until

pytestmark = pytest.mark.e2e

POLICY = TransferPolicy(max_retries=3, retry_delay_s=0.001, stall_timeout_s=20)
REPO = "Org/Nice-GGUF"
MODEL = gguf_bytes(
    [("general.architecture", "str", "llama")], [("w", np.zeros((512, 512), np.float32))]
)
TIMEOUT_S = 30


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        hub.add(REPO, **{"nice-Q4_K_M": MODEL, "nice-Q8_0": MODEL + bytes(64)})
        yield hub


def run(action, **options):
    """Run `await action(manager)` and end the manager after it."""

    async def main():
        manager = DownloadManager(policy=POLICY, **options)
        try:
            return await asyncio.wait_for(action(manager), TIMEOUT_S)
        finally:
            await manager.close()

    return asyncio.run(main())


async def until_done(manager, job):
    async for now in manager.watch(job.job_id):
        job = now
    return job


async def get(manager, name=REPO, quantization=None):
    return await until_done(manager, await manager.start(name, quantization))


async def reached(manager, job_id, num_bytes):
    async for now in manager.watch(job_id):
        if now.downloaded_bytes >= num_bytes:
            return


def leftovers():
    return list(models_folder().rglob("*.part"))


def test_a_model_is_fetched_checked_and_found_in_the_store(hub):
    job = run(get)
    assert (job.status, job.downloaded_bytes, job.error) == ("completed", len(MODEL), None)
    assert job.total_bytes == len(MODEL)
    assert job.completed_at >= job.started_at
    model = ModelStore().find("org/nice@q4_k_m")
    assert model.path == job.path
    assert model.state == "ready"
    assert leftovers() == []


def test_what_is_there_is_not_fetched_again(hub):
    run(get)
    before = len(hub.file_requests())
    job = run(lambda manager: manager.start(REPO))
    assert (job.status, job.job_id) == ("already_downloaded", "")
    assert len(hub.file_requests()) == before


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        (f"{REPO}@q8_0", None),
        (REPO, "Q8_0"),
        ("{hub}/" + REPO, "Q8_0"),
        ("{hub}/" + REPO + "/blob/main/nice-Q8_0.gguf", None),
        ("{hub}/" + REPO + "/resolve/main/nice-Q8_0.gguf?download=true", None),
    ],
)
def test_a_quantization_is_named_in_every_way(hub, name, quantization):
    plan = plan_download(name.format(hub=hub.url), quantization)
    assert [file.name for file in plan.files] == ["nice-Q8_0.gguf"]


def test_a_catalogue_key_leads_to_its_repository(hub):
    hub.add("ggml-org/gpt-oss-20b-GGUF", **{"gpt-oss-20b-mxfp4": MODEL})
    job = run(lambda manager: get(manager, "openai/gpt-oss-20b"))
    assert job.status == "completed"
    assert ModelStore().find("openai/gpt-oss-20b").path == job.path


def test_parts_and_the_projector_come_together(hub):
    hub.files.clear()
    hub.add(
        REPO,
        **{
            "s-Q4_0-00001-of-00002": b"a" * 10,
            "s-Q4_0-00002-of-00002": b"b" * 10,
            "mmproj-F16": b"c",
            "mmproj-F32": b"d",
        },
    )
    assert run(get).status == "completed"
    names = sorted(path.name for path in models_folder().glob("Org/*/*"))
    assert names == ["mmproj-F16.gguf", "s-Q4_0-00001-of-00002.gguf", "s-Q4_0-00002-of-00002.gguf"]


def test_the_largest_that_fits_memory_is_taken(hub, monkeypatch):
    from slipstream.models import download_plan

    class Memory:
        total = len(MODEL) * 2

    monkeypatch.setattr(download_plan.psutil, "virtual_memory", Memory)
    assert plan_download(REPO).files[0].name == "nice-Q4_K_M.gguf"
    hub.files[REPO] = {"nice-Q2_K.gguf": b"x", "nice-F16.gguf": bytes(3 * len(MODEL))}
    assert plan_download(REPO).files[0].name == "nice-Q2_K.gguf"


def test_an_address_elsewhere_is_for_the_command_line_only(hub, monkeypatch):
    url = f"{hub.url}/bytes/{REPO}/nice-Q8_0.gguf"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(InvalidRequestError, match="slipstream get"):
        plan_download(url)
    job = run(lambda manager: get(manager, url), any_host=True)
    assert job.status == "completed"
    assert job.path.endswith("local/nice/nice-Q8_0.gguf")
    assert all("authorization" not in headers for _, _, headers in hub.requests)


@pytest.mark.parametrize("fault", [("status", 503), ("status", 429), ("cut", 1000), ("cut", 0)])
def test_faults_on_the_way_are_tried_again(hub, fault):
    hub.faults = [fault, fault]
    job = run(get)
    assert (job.status, job.error) == ("completed", None)
    assert len(hub.file_requests()) == 3


def test_a_broken_connection_goes_on_where_it_ended(hub):
    hub.faults = [("cut", 500_000)]
    assert run(get).status == "completed"
    assert hub.file_requests()[1][2]["Range"].startswith("bytes=")


def test_a_content_that_changes_on_the_way_is_begun_anew(hub, monkeypatch):
    """Half of one version and half of another would have the right size, and no sha256 tells here."""
    other = MODEL[:-4] + b"\x00\x00\x80\x3f"
    assert len(other) == len(MODEL)
    hub.faults = [("stall", 700_000)]
    url = f"{hub.url}/bytes/{REPO}/nice-Q4_K_M.gguf"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    async def action(manager):
        job = await manager.start(url)
        await reached(manager, job.job_id, 1)
        await manager.pause(job.job_id)
        hub.release.set()
        hub.add(REPO, **{"nice-Q4_K_M": other})
        manager.resume(job.job_id)
        return await until_done(manager, job)

    job = run(action, any_host=True)
    assert job.status == "completed"
    assert Path(job.path).read_bytes() == other
    assert "If-Range" in hub.file_requests()[1][2]


def test_a_server_without_ranges_is_asked_anew(hub):
    hub.ranges = False
    hub.faults = [("cut", 1000)]
    assert run(get).status == "completed"


def test_a_server_that_never_recovers_fails_the_job_and_resume_mends_it(hub):
    hub.faults = [("cut", 1000), *[("status", 500)] * (POLICY.max_retries + 1)]

    async def action(manager):
        job = await get(manager)
        assert job.status == "failed"
        assert "500" in job.error
        manager.resume(job.job_id)
        return await until_done(manager, job)

    assert run(action).status == "completed"


def test_a_stalled_connection_is_left(hub, monkeypatch):
    hub.faults = [("stall", 1000)]
    monkeypatch.setitem(
        globals(), "POLICY", TransferPolicy(retry_delay_s=0.001, stall_timeout_s=0.2)
    )
    assert run(get).status == "completed"


def test_a_wrong_hash_is_never_published(hub):
    hub.announced["nice-Q4_K_M.gguf"] = bytes(len(MODEL))
    job = run(get)
    assert job.status == "failed"
    assert "sha256" in job.error
    assert leftovers() == []
    assert ModelStore().scan() == []


def test_another_size_than_promised_fails(hub):
    hub.announced["nice-Q4_K_M.gguf"] = MODEL + b"more"
    assert "were promised" in run(get).error


def test_pause_keeps_what_came_and_resume_goes_on(hub):
    hub.faults = [("stall", 700_000)]

    async def action(manager):
        job = await manager.start(REPO)
        await reached(manager, job.job_id, 1)
        paused = await manager.pause(job.job_id)
        assert paused.status == "paused"
        assert paused.bytes_per_second == 0
        hub.release.set()
        assert manager.resume(job.job_id).status == "downloading"
        return await until_done(manager, job)

    assert run(action).status == "completed"
    assert int(hub.file_requests()[1][2]["Range"][6:-1]) > 0


def test_cancel_leaves_nothing(hub):
    hub.faults = [("stall", 1000)]

    async def action(manager):
        job = await manager.start(REPO)
        await reached(manager, job.job_id, 1)
        await manager.cancel(job.job_id)
        assert manager.jobs() == []
        with pytest.raises(ModelNotFoundError):
            manager.status(job.job_id)

    run(action)
    assert list(models_folder().rglob("job_*")) == []


def test_one_name_twice_is_one_job_and_the_bound_on_jobs_holds(hub):
    hub.add("a/b", **{"b-Q4_0": MODEL})
    hub.faults = [("stall", 1000)]

    async def action(manager):
        first = await manager.start(REPO)
        assert (await manager.start(REPO)).job_id == first.job_id
        await reached(manager, first.job_id, 1)
        second = await manager.start("a/b")
        await asyncio.sleep(0)
        assert len(hub.file_requests()) == 1
        hub.release.set()
        assert (await until_done(manager, second)).status == "completed"
        assert manager.status(first.job_id).status == "completed"

    run(action, max_parallel=1)


def test_too_little_room_is_said_before(hub, monkeypatch):
    class Disk:
        free = 1000

    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _path: Disk)
    with pytest.raises(StoreError, match="make room"):
        run(get)
    assert list(models_folder().rglob("job_*")) == []


def test_a_disk_that_fills_up_keeps_what_came(hub):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        job = run(get)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert job.status == "failed"
    assert "full" in job.error
    assert run(get).status == "completed"
    assert "Range" in hub.file_requests()[-1][2]


KILLED = """
import asyncio
from slipstream.models.downloads import DownloadManager
async def main():
    manager = DownloadManager()
    job = await manager.start("Org/Nice-GGUF")
    async for now in manager.watch(job.job_id):
        if now.downloaded_bytes:
            print(job.job_id, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["restore", "start"])
def test_a_killed_process_loses_nothing(hub, how):
    hub.faults = [("stall", 700_000)]
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE) as process:
        job_id = process.stdout.readline().decode().strip()

        async def while_it_runs(manager):
            assert manager.restore() == []
            with pytest.raises(InvalidRequestError, match="another process"):
                await manager.start(REPO)

        run(while_it_runs)
        process.kill()

    async def after(manager):
        jobs = manager.restore() if how == "restore" else [await manager.start(REPO)]
        assert [job.job_id for job in jobs] == [job_id]
        return await until_done(manager, jobs[0])

    assert run(after).status == "completed"
    assert int(hub.file_requests()[1][2]["Range"][6:-1]) > 0
    assert ModelStore().find("org/nice").state == "ready"


def test_a_server_that_was_killed_goes_on_when_it_starts_again(hub):
    hub.faults = [("stall", 700_000)]
    server = start_server("--no-load")
    try:
        answer = httpx2.post(f"{server.url}/api/v1/models/download", json={"model": REPO})
        job_id = answer.json()["job_id"]
        status = f"/api/v1/models/download/status/{job_id}"
        wait_until(lambda: server.get_json(status)["downloaded_bytes"], "the first bytes")
        server.signal(signal.SIGKILL)
        server.wait_exit(10)
    finally:
        server.close()
        hub.release.set()
    server = start_server("--no-load")
    try:
        wait_until(lambda: server.get_json(status)["status"] == "completed", "the rest", 60)
        assert "completed_at" in server.get_json(status)
        again = httpx2.post(f"{server.url}/api/v1/models/download", json={"model": REPO}).json()
        assert again["status"] == "already_downloaded"
        assert "job_id" not in again
        assert [model["key"] for model in server.get_json("/api/v1/models")["models"]] == [
            "org/nice"
        ]
    finally:
        server.close()
    assert int(hub.file_requests()[1][2]["Range"][6:-1]) > 0


def test_a_damaged_state_file_is_left_alone(hub):
    folder = models_folder() / ".downloads/job_0123456789"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{")
    assert run(get).status == "completed"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "demo",
        "a/b/c",
        "../x",
        "x/..",
        "a\0/b",
        "x" * 9999,
        "file:///etc/passwd",
        "./x",
        "a/.hidden",
    ],
)
def test_strange_names_are_refused_before_anything_is_asked(hub, name):
    with pytest.raises((InvalidRequestError, ModelNotFoundError)):
        plan_download(name)
    assert hub.requests == []


def test_file_names_of_a_hub_lead_nowhere_else(hub):
    hub.files[REPO] = {"../../../evil-Q4_0.gguf": MODEL}
    plan = plan_download(REPO)
    assert plan.target(plan.files[0]) == models_folder() / REPO / "evil-Q4_0.gguf"
    hub.files[REPO] = {"sub/.gguf": MODEL}
    with pytest.raises(InvalidRequestError):
        plan_download(REPO)


def test_what_the_hub_has_not_is_said(hub):
    with pytest.raises(ModelNotFoundError, match="no repository"):
        plan_download("nobody/nothing")
    with pytest.raises(ModelNotFoundError, match="Q4_K_M, Q8_0"):
        plan_download(f"{REPO}@q1")
    hub.files["a/empty"] = {"readme.md": b""}
    with pytest.raises(ModelNotFoundError, match="no GGUF model"):
        plan_download("a/empty")


def test_a_gated_repository_says_what_to_do(hub):
    hub.refused["a/gated"] = (403, "GatedRepo")
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        plan_download("a/gated")


def test_the_token_goes_to_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run(get)
    assert "Bearer hf_secret" in [headers.get("authorization") for _, _, headers in hub.requests]


def test_a_hub_that_is_not_there_is_a_clean_error(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot be reached"):
        plan_download(REPO)
    with pytest.raises(DownloadError, match="cannot be reached"):
        search("x")


def test_search_lists_repositories(hub):
    (found,) = search("nice")
    assert (found.repo, found.downloads, found.updated) == (REPO, 7, "2026-01-02")
