"""The server's settings as one frozen value; who changes one makes a new value. Reads and writes no file."""

from __future__ import annotations

from typing import Literal

import msgspec

from slipstream.base.config import DEFAULT_HOST, DEFAULT_PORT
from slipstream.base.limits import MAX_PORT
from slipstream.base.ranges import check_ranges

DEFAULT_TTL_S = 3600.0
MAX_TTL_S = 10 * 365 * 86400.0
MAX_IMAGE_TIMEOUT_S = 300.0
ImageUrls = Literal["off", "public", "any"]
Guardrails = Literal["off", "relaxed", "balanced", "strict", "custom"]


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the server listens, what it lets in, and when it loads and unloads models.

    Attributes:
        host: Address to bind; anything but loopback lets other machines in.
        port: Port to bind.
        cors_origins: Origins whose pages may call the API ("*" for all); none switches CORS off.
        allowed_hosts: Names besides localhost under which programs on this machine may call the server ("*": any name),
            as a proxy does that passes its own name on.
        require_auth: Ask for an API token on every route that is not about the server itself.
        max_body_bytes: Larger request bodies are refused. 32 MiB hold an image or two of the largest size.
        keep_alive_s: Seconds between comments in a stream that has no output yet.
        context_overflow: What becomes of chats and answers that do not fit the context, where a request does not say.
        separate_reasoning: Give reasoning as `reasoning_content` in chats of OpenAI's form; else it is in the content.
        image_urls: Fetch images that requests name by http(s) URLs: `off`, from `public` addresses only, or from `any`,
            which lets who may use the server reach what it can reach.
        image_timeout_s: Seconds that fetching the images of a request may take.
        jit: Load a model that a request names and that is not loaded ("just in time").
        ttl_s: Seconds a model that was loaded so may be idle before it is unloaded; None for ever.
        auto_evict: Loading a model so unloads the others that were loaded so.
        restore_models: A server that is started without naming models loads those again that were loaded by hand when
            the last one ended.
        allow_mcp_per_request: Requests may name MCP servers of their own. Part of LM Studio's settings; nothing uses it
            yet, as `integrations` is not there yet.
        allow_mcp_config: Requests may use the MCP servers of mcp.json; likewise.
        guardrails: How much of the free memory a load may take: see `memory_guard`; `custom` takes `guardrail_bytes`.
        guardrail_bytes: Most memory all loaded models may take together, with `custom`.

    Raises:
        InvalidRequestError: a number is out of its range; `param` names it.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    require_auth: bool = False
    max_body_bytes: int = 32 << 20
    keep_alive_s: float = 5.0
    context_overflow: Literal["error", "truncate_middle", "rolling_window"] = "error"
    separate_reasoning: bool = True
    image_urls: ImageUrls = "off"
    image_timeout_s: float = 10.0
    jit: bool = True
    ttl_s: float | None = DEFAULT_TTL_S
    auto_evict: bool = True
    restore_models: bool = True
    allow_mcp_per_request: bool = False
    allow_mcp_config: bool = False
    guardrails: Guardrails = "balanced"
    guardrail_bytes: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, {"port": (1, MAX_PORT), "max_body_bytes": (1, 2**31 - 1)})
        check_ranges(self, {"keep_alive_s": (0.001, 3600.0)}, (int, float))
        check_ranges(self, {"image_timeout_s": (0.001, MAX_IMAGE_TIMEOUT_S)}, (int, float))
        check_ranges(self, {"ttl_s": (0.001, MAX_TTL_S)}, (int, float), optional=("ttl_s",))
        check_ranges(self, {"guardrail_bytes": (0, 2**60)})
