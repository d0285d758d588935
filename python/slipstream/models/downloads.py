"""Runs downloads: jobs with progress that are paused, resumed, cancelled, and go on after a crash.

status     downloading ⇄ paused     a pause keeps what has come, so does the end of the process
           downloading → failed     resume tries again from what has come
           downloading → completed  all files checked and moved into the model folder
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import httpx2

from slipstream.base.errors import DownloadNotFoundError, InvalidRequestError, SlipstreamError
from slipstream.models.download_job import load_records, lock, new_record
from slipstream.models.download_plan import DownloadPlan, plan_download
from slipstream.models.download_progress import DownloadJob, RunningJob
from slipstream.models.transfer import TransferPolicy, check_disk, fetch_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import BinaryIO

__all__ = ["MAX_PARALLEL", "DownloadJob", "DownloadManager"]

logger = logging.getLogger(__name__)

MAX_PARALLEL = 2  # jobs that move bytes at the same time; others wait


class DownloadManager:
    """The downloads of this process, and those earlier ones left behind. Used from one event loop.

    Args:
        max_parallel: Jobs that move bytes at the same time; further ones wait in "downloading".
        policy: How patient transfers are.
        any_host: Addresses outside of the hub may be fetched; only for names the user typed on this machine.
    """

    def __init__(
        self,
        *,
        max_parallel: int = MAX_PARALLEL,
        policy: TransferPolicy | None = None,
        any_host: bool = False,
    ) -> None:
        self._policy = policy or TransferPolicy()
        self._any_host = any_host
        self._slots = asyncio.Semaphore(max_parallel)
        self._jobs = {record.job_id: RunningJob(record) for record in load_records()}

    async def start(self, name: str, quantization: str | None = None) -> DownloadJob:
        """Ask the hub what a name means and begin to fetch it, or go on where an earlier process ended.

        Args:
            name: See `plan_download`.
            quantization: Likewise.

        Returns:
            The job, or one of the status "already_downloaded" without an id.

        Raises:
            InvalidRequestError: the name cannot be one, or another process fetches it.
            ModelNotFoundError: there is no such model.
            DownloadError: the hub cannot be reached, or refuses.
            StoreError: there is no room for it.
        """
        plan = await asyncio.to_thread(plan_download, name, quantization, any_host=self._any_host)
        for job in self._jobs.values():
            same = job.record.plan.folder == plan.folder and job.record.plan.files == plan.files
            if same and job.record.status != "completed":
                return job.snapshot() if job.task else self.resume(job.record.job_id)
        if _is_there(plan):
            total = sum(file.size_bytes or 0 for file in plan.files)
            return DownloadJob(
                job_id="",
                name=name,
                status="already_downloaded",
                total_bytes=total,
                downloaded_bytes=total,
                started_at=datetime.now(UTC),
                path=str(plan.target(plan.files[0])),
            )
        job = RunningJob(new_record(plan))
        self._begin(job)
        self._jobs[job.record.job_id] = job
        return job.snapshot()

    def status(self, job_id: str) -> DownloadJob:
        """Return how a job is doing.

        Raises:
            DownloadNotFoundError: there is no such job.
        """
        return self._job(job_id).snapshot()

    def jobs(self) -> list[DownloadJob]:
        """Return every job, oldest first."""
        return [job.snapshot() for job in self._jobs.values()]

    async def watch(self, job_id: str) -> AsyncIterator[DownloadJob]:
        """Yield how a job is doing, at once and after each change, until it no longer downloads."""
        job = self._job(job_id)
        while True:
            changed, now = job.changed, job.snapshot()
            yield now
            if now.status != "downloading":
                return
            await changed.wait()

    def resume(self, job_id: str) -> DownloadJob:
        """Go on with a paused, failed or left behind job; does nothing for one that runs or is completed.

        Raises:
            DownloadNotFoundError: there is no such job.
            InvalidRequestError: another process works on it.
            StoreError: there is no room for the rest.
        """
        job = self._job(job_id)
        if job.task is None and job.record.status != "completed":
            self._begin(job)
        return job.snapshot()

    def restore(self) -> list[DownloadJob]:
        """Go on with the jobs that were downloading when their process ended; call it when a server starts."""
        resumed = []
        for job in list(self._jobs.values()):
            if job.record.status == "downloading" and job.task is None:
                with suppress(InvalidRequestError):  # another process has it
                    try:
                        resumed.append(self.resume(job.record.job_id))
                    except SlipstreamError as error:
                        if isinstance(error, InvalidRequestError):
                            raise
                        job.record.status, job.record.error = "failed", str(error)
        return resumed

    async def pause(self, job_id: str) -> DownloadJob:
        """Stop a job and keep what has come; does nothing for one that does not run."""
        job = self._job(job_id)
        if await _stop(job):
            job.record.status = "paused"
            job.record.save()
            job.stopped()
        return job.snapshot()

    async def cancel(self, job_id: str) -> None:
        """Stop a job, delete what has come, and forget it. A completed job's model stays.

        Raises:
            DownloadNotFoundError: there is no such job.
            InvalidRequestError: another process works on it.
        """
        job = self._job(job_id)
        await _stop(job)
        with lock(job.record):
            job.record.remove()
        del self._jobs[job_id]
        if job.record.status != "completed":
            job.record.status, job.record.error = "failed", "cancelled"
        job.stopped()

    async def close(self) -> None:
        """Stop all jobs; the state files let the next process go on."""
        for job in self._jobs.values():
            await _stop(job)

    def _job(self, job_id: str) -> RunningJob:
        job = self._jobs.get(job_id)
        if job is None:
            message = f"there is no download {job_id[:80]!r}"
            raise DownloadNotFoundError(message, param="job_id")
        return job

    def _begin(self, job: RunningJob) -> None:
        record = job.record
        held = lock(record)
        try:
            job.on_disk = [record.on_disk(i) for i in range(len(record.files))]
            total = sum(state.size_bytes or 0 for state in record.files)
            check_disk(record.folder, total - sum(job.on_disk))
            record.status, record.error = "downloading", None
            record.save()
        except SlipstreamError:
            held.close()
            if job.record.job_id not in self._jobs:
                record.remove()
            raise
        job.task = asyncio.create_task(self._run(job, held))

    async def _run(self, job: RunningJob, held: BinaryIO) -> None:
        record = job.record
        try:
            async with self._slots:
                await self._fetch_all(job)
            await asyncio.to_thread(record.publish)
            record.status, record.completed_at = "completed", datetime.now(UTC)
        except SlipstreamError as error:
            record.status, record.error = "failed", str(error)
        except Exception as error:  # the edge of the task: a job must end in something
            logger.exception("download %s failed", record.job_id)
            record.status, record.error = "failed", f"{type(error).__name__}: {error}"
        finally:
            held.close()
            job.task = None
        with suppress(SlipstreamError):  # on a full disk the last state is good enough
            record.save()
        job.stopped()

    async def _fetch_all(self, job: RunningJob) -> None:
        record = job.record
        timeout = httpx2.Timeout(self._policy.stall_timeout_s)
        async with httpx2.AsyncClient(follow_redirects=True, timeout=timeout) as client:
            for i, state in enumerate(record.files):
                if state.verified and not record.part(i).exists() and not _is_there(record.plan):
                    state.verified = False  # someone deleted it meanwhile
                progress = partial(_progress, job, i)
                await fetch_file(client, state, record.part(i), self._policy, progress)
                job.on_disk[i] = state.size_bytes or 0
                record.save()


def _progress(job: RunningJob, i: int, num_bytes: int) -> None:
    if job.progress(i, num_bytes):
        job.record.save()  # the tag of the content: without it a crash would begin anew


def _is_there(plan: DownloadPlan) -> bool:
    for file in plan.files:
        try:
            size = plan.target(file).stat().st_size
        except OSError:
            return False
        if file.size_bytes is not None and size != file.size_bytes:
            return False
    return True


async def _stop(job: RunningJob) -> bool:
    """Cancel a job's task and wait for its end. Returns whether it was still fetching."""
    task = job.task
    if task is None:
        return False
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return job.record.status == "downloading"
