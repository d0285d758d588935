"""A download on disk: its state file beside its .part files, and the lock of the process that works on it.

models/.downloads/job_0123456789/job.json    what is fetched and how far it is; replaced as a whole
                                 lock        held by the process that fetches
                                 0.part …    the files, in the order of the plan
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from slipstream.base.config import models_folder
from slipstream.base.errors import InvalidRequestError, StoreError
from slipstream.models.download_plan import DownloadPlan
from slipstream.models.transfer import FileState

logger = logging.getLogger(__name__)

_KEPT = timedelta(days=7)  # so long a completed job can be asked about

Status = Literal["downloading", "paused", "completed", "failed"]


class JobRecord(msgspec.Struct, kw_only=True):
    """What the state file holds; see DownloadJob for the names."""

    job_id: str
    plan: DownloadPlan
    files: list[FileState]
    status: Status
    started_at: datetime
    completed_at: datetime | None = None
    error: str | None = None

    @property
    def folder(self) -> Path:
        """Where the job lies."""
        return downloads_folder() / self.job_id

    def part(self, i: int) -> Path:
        """Return the .part file of the i-th file."""
        return self.folder / f"{i}.part"

    def on_disk(self, i: int) -> int:
        """Return how many bytes of the i-th file are there."""
        state = self.files[i]
        if state.verified:
            return state.size_bytes or 0
        with suppress(OSError):
            return self.part(i).stat().st_size
        return 0

    def save(self) -> None:
        """Replace the state file.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / "job.json.new"
            partial.write_bytes(msgspec.json.encode(self))
            partial.replace(self.folder / "job.json")
        except OSError as error:
            message = (
                f"the state of the download cannot be written to {self.folder}: {error.strerror}"
            )
            raise StoreError(message) from error

    def publish(self) -> Path:
        """Move the files to where models lie, the first one, which makes it a model, last.

        Returns:
            The model's file.

        Raises:
            StoreError: they cannot be moved there.
        """
        try:
            Path(self.plan.folder).mkdir(parents=True, exist_ok=True)
            for i in reversed(range(len(self.files))):
                if self.part(i).exists():  # a crash may have come between
                    self.part(i).replace(self.plan.target(self.files[i].file))
        except OSError as error:
            message = f"the files cannot be moved to {self.plan.folder}: {error.strerror}"
            raise StoreError(message) from error
        return self.plan.target(self.files[0].file)

    def remove(self) -> None:
        """Delete the job and what has come."""
        shutil.rmtree(self.folder, ignore_errors=True)


def downloads_folder() -> Path:
    """Return where jobs lie: hidden in the model folder, so that publishing is a rename on one disk."""
    return models_folder() / ".downloads"


def new_record(plan: DownloadPlan) -> JobRecord:
    """Make the record of a new download; nothing is written yet."""
    files = [FileState(file=f, size_bytes=f.size_bytes, sha256=f.sha256) for f in plan.files]
    return JobRecord(
        job_id=f"job_{secrets.token_hex(5)}",
        plan=plan,
        files=files,
        status="downloading",
        started_at=datetime.now(UTC),
    )


def load_records() -> list[JobRecord]:
    """Return the jobs on disk, oldest first; what cannot be read is left alone and logged."""
    found = []
    for path in downloads_folder().glob("job_*/job.json"):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=JobRecord)
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("leaving out the download %s: %s", path, error)
            continue
        inside = Path(record.plan.folder).is_relative_to(models_folder().absolute())
        if record.job_id != path.parent.name or not inside:
            continue
        if record.completed_at and datetime.now(UTC) - record.completed_at > _KEPT:
            record.remove()
        else:
            found.append(record)
    return sorted(found, key=lambda record: record.started_at)


def lock(record: JobRecord) -> BinaryIO:
    """Take the job for this process; closing the file gives it back, as the end of the process does.

    Raises:
        InvalidRequestError: another process works on it.
        StoreError: its folder cannot be written.
    """
    try:
        record.folder.mkdir(parents=True, exist_ok=True)
        file = (record.folder / "lock").open("wb")
    except OSError as error:
        message = f"{record.folder} cannot be written: {error.strerror}"
        raise StoreError(message) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        message = f"{record.plan.name!r} is being downloaded by another process ({record.job_id})"
        raise InvalidRequestError(message, param="model") from error
    os.set_inheritable(file.fileno(), False)
    return file
