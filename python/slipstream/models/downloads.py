"""Brings models from the hub into the model folder: what a download is called and how it is doing."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class DownloadJob(msgspec.Struct, frozen=True, kw_only=True):
    """How one download is doing; a value of the moment.

    Attributes:
        job_id: "job_" and ten hex digits, empty when everything is there already.
        name: What was asked for.
        status: See the names.
        total_bytes: Of all its files.
        downloaded_bytes: Of them, those on disk.
        bytes_per_second: Of the last seconds, while downloading.
        started_at: When it was asked for.
        completed_at: When the model was put into the folder.
        error: Why it failed.
        path: The model's file, once completed.
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
