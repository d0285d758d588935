"""The downloads of a server: the manager of models.downloads, made when there is something for it to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipstream.models.download_job import downloads_folder

if TYPE_CHECKING:
    from slipstream.models.downloads import DownloadManager


class ServerDownloads:
    """Belongs to the event loop. Whoever has no downloads pays neither for the hub's client nor for its import."""

    def __init__(self) -> None:
        self._manager: DownloadManager | None = None

    def manager(self) -> DownloadManager:
        """Return the one manager of this process."""
        if self._manager is None:
            from slipstream.models.downloads import (
                DownloadManager,  # 0.2 s that only downloads need
            )

            self._manager = DownloadManager()
        return self._manager

    def restore(self) -> int:
        """Go on with what was downloading when its process ended. Returns the number of jobs."""
        if not any(downloads_folder().glob("job_*")):
            return 0
        return len(self.manager().restore())

    async def close(self) -> None:
        """Stop all jobs; what has come is kept, and the next server goes on."""
        if self._manager is not None:
            await self._manager.close()
