"""What every route needs: the runtime, the settings and the server's own state. Knows no route."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from slipstream.base.config import DEFAULT_HOST, DEFAULT_PORT
from slipstream.runtime.chat_store import ChatStore
from slipstream.server.in_flight import InFlight
from slipstream.server.metrics import Metrics

if TYPE_CHECKING:
    from starlette.requests import Request

    from slipstream.runtime.generation import Generation
    from slipstream.runtime.model_manager import ModelManager

VERSION = version("slipstream")
FINGERPRINT = f"slipstream-{VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens and what it lets in.

    Attributes:
        host: Address to bind; anything but loopback lets other machines in.
        port: Port to bind.
        cors_origins: Origins whose pages may call the API ("*" for all); none switches CORS off.
        max_body_bytes: Larger request bodies are refused. 8 MiB hold a prompt of about two million tokens.
        keep_alive_s: Seconds between comments in a stream that has no output yet.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 8 << 20
    keep_alive_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One per app, at `app.state.context`.

    Attributes:
        generation: Answers requests.
        manager: Knows the models.
        settings: See ServerSettings.
        metrics: Counters of this app.
        in_flight: The requests being answered.
        chats: Answers kept for later turns.
    """

    generation: Generation
    manager: ModelManager
    settings: ServerSettings
    metrics: Metrics = field(default_factory=Metrics)
    in_flight: InFlight = field(default_factory=InFlight)
    chats: ChatStore = field(default_factory=ChatStore)


def context_of(request: Request) -> ServerContext:
    """Return the context of the app that handles `request`."""
    return cast("ServerContext", request.app.state.context)
