"""How a download is doing: what others see of it, and the speed meter and wake-up call behind. Moves no bytes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from slipstream.models.download_job import JobRecord

_SPEED_WINDOW_S = 5.0
_NOTIFY_S = 0.1  # between two events of progress


class DownloadJob(msgspec.Struct, frozen=True, kw_only=True):
    """How one download is doing; a value of the moment.

    Attributes:
        job_id: "job_" and ten hex digits, empty when everything was there already.
        name: What was asked for.
        status: See the names.
        total_bytes: Of all its files, as far as they are known.
        downloaded_bytes: Of them, those on disk.
        bytes_per_second: Of the last seconds, while downloading.
        started_at: When it was asked for.
        completed_at: When the model was put into the folder.
        error: Why it failed.
        path: The model's file, once it is there.
    """

    job_id: str
    name: str
    status: Literal["downloading", "paused", "completed", "failed", "already_downloaded"]
    total_bytes: int
    downloaded_bytes: int
    started_at: datetime
    bytes_per_second: float = 0.0
    completed_at: datetime | None = None
    error: str | None = None
    path: str | None = None


class RunningJob:
    """A job this process knows: its record, and its task while it runs."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.task: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()
        self.on_disk = [record.on_disk(i) for i in range(len(record.files))]
        self._samples: deque[tuple[float, int]] = deque()
        self._notified_s = 0.0
        self._etags = [state.etag for state in record.files]

    def progress(self, i: int, num_bytes: int) -> bool:
        """Note that so many bytes of the i-th file are on disk. Returns whether its record has changed."""
        self.on_disk[i] = num_bytes
        now = time.monotonic()
        if now - self._notified_s >= _NOTIFY_S:
            self._notified_s = now
            self._samples.append((now, sum(self.on_disk)))
            while now - self._samples[0][0] > _SPEED_WINDOW_S:
                self._samples.popleft()
            self.notify()
        known, self._etags[i] = self._etags[i], self.record.files[i].etag
        return known != self._etags[i]

    def notify(self) -> None:
        """Wake who watches."""
        event, self.changed = self.changed, asyncio.Event()
        event.set()

    def stopped(self) -> None:
        """Forget the speed."""
        self._samples.clear()
        self.notify()

    def snapshot(self) -> DownloadJob:
        """Return how it is doing."""
        record = self.record
        speed = 0.0
        if len(self._samples) > 1:
            (begin_s, begin), (end_s, end) = self._samples[0], self._samples[-1]
            speed = max(end - begin, 0) / max(end_s - begin_s, 1e-9)
        completed = record.status == "completed"
        return DownloadJob(
            job_id=record.job_id,
            name=record.plan.name,
            status=record.status,
            total_bytes=sum(state.size_bytes or 0 for state in record.files),
            downloaded_bytes=sum(self.on_disk),
            bytes_per_second=speed,
            started_at=record.started_at,
            completed_at=record.completed_at,
            error=record.error,
            path=str(record.plan.target(record.files[0].file)) if completed else None,
        )
