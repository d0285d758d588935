"""POST /api/v1/models/download and the routes about its jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from slipstream.server.body import parse_body
from slipstream.server.context import context_of
from slipstream.server.lmstudio_v1_models_schemas import Name, StrictSchema
from slipstream.server.openai_answers import Answer, without_nulls

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from slipstream.models.downloads import DownloadJob, DownloadManager


class DownloadRequest(StrictSchema):
    """Body of POST /api/v1/models/download.

    Attributes:
        model: Catalogue key, `user/repo`, or the address of a repository or file of the hub.
        quantization: Which one to take; by default the best that fits this machine.
    """

    model: Name
    quantization: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class DownloadAnswer(Answer):
    """How a download is doing. A field that is not known, or has no meaning now, is left out."""

    job_id: str | None = None
    status: Literal[
        "downloading", "paused", "completed", "failed", "already_downloaded", "cancelled"
    ]
    total_size_bytes: int | None = None
    downloaded_bytes: int | None = None
    started_at: str | None = None
    completed_at: str | None = None
    bytes_per_second: float | None = None
    estimated_completion: str | None = None
    error: str | None = None


async def download_model(request: Request) -> Response:
    """Start to download a model, or go on with the download of it."""
    body = parse_body(await request.body(), DownloadRequest)
    return _json(await _downloads(request).start(body.model, body.quantization))


async def download_status(request: Request) -> Response:
    """Tell how a download is doing."""
    return _json(_downloads(request).status(request.path_params["job_id"]))


async def pause_download(request: Request) -> Response:
    """Stop a download and keep what has come."""
    downloads, job_id = _downloads(request), request.path_params["job_id"]
    return _json(await downloads.pause(job_id))


async def resume_download(request: Request) -> Response:
    """Go on with a download that was paused or failed."""
    return _json(_downloads(request).resume(request.path_params["job_id"]))


async def cancel_download(request: Request) -> Response:
    """Stop a download and delete what has come; a model that is complete stays."""
    job_id = request.path_params["job_id"]
    await _downloads(request).cancel(job_id)
    return without_nulls(DownloadAnswer(job_id=job_id, status="cancelled"))


def _downloads(request: Request) -> DownloadManager:
    return context_of(request).downloads.manager()


def _json(job: DownloadJob) -> Response:
    is_moving = job.status == "downloading" and job.bytes_per_second > 0
    left_s = (job.total_bytes - job.downloaded_bytes) / job.bytes_per_second if is_moving else 0.0
    done_at = _time(datetime.now(UTC) + timedelta(seconds=min(left_s, 1e9)))
    return without_nulls(
        DownloadAnswer(
            job_id=job.job_id or None,
            status=job.status,
            total_size_bytes=job.total_bytes or None,
            downloaded_bytes=job.downloaded_bytes,
            started_at=_time(job.started_at),
            completed_at=_time(job.completed_at) if job.completed_at else None,
            bytes_per_second=job.bytes_per_second if is_moving else None,
            estimated_completion=done_at if is_moving and job.total_bytes else None,
            error=job.error,
        )
    )


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
