"""What every route needs: the runtime, the settings and the server's own state. Knows no route."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from slipstream.runtime.chat_store import ChatStore
from slipstream.runtime.server_downloads import ServerDownloads
from slipstream.server.in_flight import InFlight
from slipstream.server.log_hub import LogHub
from slipstream.server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from slipstream.runtime.access import Access
    from slipstream.runtime.generation import Generation
    from slipstream.runtime.model_manager import ModelManager
    from slipstream.runtime.settings import ServerSettings

VERSION = version("slipstream")
FINGERPRINT = f"slipstream-{VERSION}"


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One per app, at `app.state.context`.

    Attributes:
        generation: Answers requests.
        manager: Knows the models.
        current: The settings of the moment.
        access: Knows the tokens.
        metrics: Counters of this app.
        in_flight: The requests being answered.
        chats: Answers kept for later turns.
        downloads: Models on their way to this machine.
        log: Who watches the log, and what models are asked and answer.
    """

    generation: Generation
    manager: ModelManager
    current: Callable[[], ServerSettings]
    access: Access
    metrics: Metrics = field(default_factory=Metrics)
    in_flight: InFlight = field(default_factory=InFlight)
    chats: ChatStore = field(default_factory=ChatStore)
    downloads: ServerDownloads = field(default_factory=ServerDownloads)
    log: LogHub = field(default_factory=LogHub)

    @property
    def settings(self) -> ServerSettings:
        """The settings of the moment."""
        return self.current()


def context_of(request: Request) -> ServerContext:
    """Return the context of the app that handles `request`."""
    return cast("ServerContext", request.app.state.context)
