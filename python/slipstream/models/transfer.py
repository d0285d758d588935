"""The resumable byte loop: one remote file into one .part file, checked. Knows HTTP and disks, no jobs and no hub API.

A transfer goes on from the bytes on disk with `Range` and `If-Range`; connections that break, stall, or are
answered by 429 or 5xx are tried again until several tries in a row brought nothing. A file counts only when size and
sha256 agree.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import httpx2
import msgspec

from slipstream.base.errors import DownloadError, ModelNotFoundError, StoreError
from slipstream.models.hub import RemoteFile, request_headers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAX_DELAY_S = 30.0
_RESERVE_BYTES = 64 << 20  # left free for everything else on the disk


class TransferPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a transfer is.

    Attributes:
        max_retries: Tries in a row that bring no byte before it fails.
        retry_delay_s: Before the first of them; doubles each time up to 30 s.
        stall_timeout_s: Silence after which a connection counts as broken.
    """

    max_retries: int = 6
    retry_delay_s: float = 0.5
    stall_timeout_s: float = 30.0


class FileState(msgspec.Struct, kw_only=True):
    """How far a file is; kept in the job's state file.

    Attributes:
        file: What is fetched.
        size_bytes: Known from the hub, or from the first answer.
        sha256: Likewise.
        etag: Of the bytes on disk, to go on with the same content only.
        verified: Complete and checked.
    """

    file: RemoteFile
    size_bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None
    verified: bool = False


class _TryAgainError(Exception):
    """This try ended without harm; the next may do better."""


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Check that there is room for so many bytes more.

    Raises:
        StoreError: there is not; nothing has been written.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed_bytes + _RESERVE_BYTES > free:
        message = (
            f"the download needs {needed_bytes / 1e9:.2f} GB, the disk of {there} has {free / 1e9:.2f} GB free; "
            "make room, or take a smaller quantization"
        )
        raise StoreError(message)


async def fetch_file(
    client: httpx2.AsyncClient,
    state: FileState,
    part: Path,
    policy: TransferPolicy,
    changed: Callable[[int], None],
) -> None:
    """Bring a file to `part`, going on from what is there. Cancelling keeps what has come.

    Args:
        client: Follows redirects.
        state: Updated with what the server tells.
        part: The file to write.
        policy: See TransferPolicy.
        changed: Called with the number of bytes on disk, often.

    Raises:
        ModelNotFoundError: the server has no such file.
        DownloadError: refused, unreachable, or its content is wrong (which is deleted then).
        StoreError: the disk is full; what has come is kept.
    """
    failures = 0
    while not state.verified:
        before = _size(part)
        if state.size_bytes is not None and before > state.size_bytes:
            part.unlink()
            before = 0
        try:
            if state.size_bytes is None or before < state.size_bytes:
                await _stream(client, state, part, before, changed)
            await asyncio.to_thread(_verify, state, part)
        except (httpx2.TransportError, _TryAgainError) as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures > policy.max_retries:
                cause = str(error) or type(error).__name__
                message = (
                    f"{state.file.name}: {failures} tries in a row brought nothing ({cause}); "
                    "what has come is kept, resume goes on from there"
                )
                raise DownloadError(message) from error
            await asyncio.sleep(min(policy.retry_delay_s * 2 ** (failures - 1), _MAX_DELAY_S))
        except OSError as error:
            _fail_disk(part, error)


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


async def _stream(
    client: httpx2.AsyncClient,
    state: FileState,
    part: Path,
    start: int,
    changed: Callable[[int], None],
) -> None:
    headers = {**request_headers(state.file.url), "Accept-Encoding": "identity"}
    strong_etag = state.etag if state.etag and not state.etag.startswith("W/") else None
    if not (strong_etag or state.sha256):
        start = 0  # nothing could tell whether the rest belongs to what is there
    if start:
        headers["Range"] = f"bytes={start}-"
        if strong_etag:
            headers["If-Range"] = strong_etag
    async with client.stream("GET", state.file.url, headers=headers) as response:
        start = _accepted(state, response, start, part)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            async for piece in response.aiter_raw():
                start += len(piece)
                if state.size_bytes is not None and start > state.size_bytes:
                    message = (
                        f"{state.file.name}: the server sends more than {state.size_bytes} bytes"
                    )
                    raise DownloadError(message)
                await asyncio.to_thread(_write, file, piece)
                changed(start)
    if state.size_bytes is None:
        state.size_bytes = start
    elif start < state.size_bytes:
        message = f"the connection ended at byte {start} of {state.size_bytes}"
        raise _TryAgainError(message)


def _write(file: BinaryIO, piece: bytes) -> None:
    file.write(piece)
    file.flush()  # a kill loses nothing, and a full disk shows at once


def _accepted(state: FileState, response: httpx2.Response, start: int, part: Path) -> int:
    """Check an answer's status and learn from its headers. Returns the offset its body begins at."""
    status = response.status_code
    name = state.file.name
    if status in (408, 429) or status >= 500:
        message = f"the server answered {status}"
        raise _TryAgainError(message)
    if status == 416:
        part.unlink(missing_ok=True)
        message = "the server has no such range; starting anew"
        raise _TryAgainError(message)
    if status in (401, 403):
        message = f"{name}: the server refuses ({status}); set HF_TOKEN to a token that may read it"
        raise DownloadError(message)
    if status in (404, 410):
        message = f"{name}: the server has no such file ({status})"
        raise ModelNotFoundError(message)
    if status not in (200, 206):
        message = f"{name}: the server answered {status}, neither the file nor a part of it"
        raise DownloadError(message)
    begin, total = 0, _number(response.headers.get("content-length"))
    if status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or int(found[1]) != start:
            part.unlink(missing_ok=True)
            message = "the server sent another range than asked for; starting anew"
            raise _TryAgainError(message)
        begin, total = start, _number(found[2])
    _learn(state, response)
    if state.size_bytes is None:
        state.size_bytes = total
    elif total is not None and total != state.size_bytes:
        message = (
            f"{name}: {state.size_bytes} bytes were promised, the server has {total}; start it anew"
        )
        raise DownloadError(message)
    return begin


def _learn(state: FileState, response: httpx2.Response) -> None:
    state.etag = response.headers.get("etag")
    for answer in (
        *response.history,
        response,
    ):  # the hub tells before it redirects to where the bytes are
        linked = answer.headers.get("x-linked-etag", "").strip('"')
        if state.sha256 is None and _SHA256.fullmatch(linked):
            state.sha256 = linked
        if state.size_bytes is None:
            state.size_bytes = _number(answer.headers.get("x-linked-size"))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _verify(state: FileState, part: Path) -> None:
    """Check the content and force it to the disk."""
    with part.open("rb") as file:
        if state.sha256 is not None:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != state.sha256:
                part.unlink()
                message = (
                    f"{state.file.name} came damaged: its sha256 is {found}, not {state.sha256}; it was deleted, "
                    "resume fetches it anew"
                )
                raise DownloadError(message)
        os.fsync(file.fileno())
    state.verified = True


def _fail_disk(part: Path, error: OSError) -> NoReturn:
    if error.errno in _FULL:
        message = (
            f"the disk of {part.parent} is full; what has come is kept: make room, then resume"
        )
    else:
        message = f"{part} cannot be written: {error.strerror or error}"
    raise StoreError(message) from error
