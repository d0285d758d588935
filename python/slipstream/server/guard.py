"""Lets requests in: tokens for each route, and no pages of elsewhere in a browser on this machine."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request

from slipstream.base.errors import ForeignPageError
from slipstream.runtime.tokens import PREFIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from slipstream.runtime.access import Access
    from slipstream.runtime.settings import ServerSettings
    from slipstream.runtime.tokens import Permission

_SAFE = {"GET", "HEAD", "OPTIONS"}


class TokenGuard:
    """Asks for a token in front of one route.

    Args:
        app: The route.
        access: Decides.
        permission: What the route needs.
        is_required: Whether a token is needed at the moment.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        permission: Permission,
        is_required: Callable[[], bool],
    ) -> None:
        self._app = app
        self._access = access
        self._permission = permission
        self._is_required = is_required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the route, or raise what the request lacks."""
        if self._is_required():
            self._access.check(token_of(scope), client_of(scope), self._permission)
        await self._app(scope, receive, send)


class PageGuard:
    """Refuses what a web page of elsewhere makes a browser send.

    A name that its owner lets point at 127.0.0.1 ("DNS rebinding") makes this server part of the page's own site: so a
    connection from this machine must name it by an address, as localhost, or as the settings allow; an address cannot
    be rebound. And a page may send a POST anywhere, without seeing the answer: so an Origin that CORS does not let in
    may only read. Outside of CORS, whose headers its answers lack on purpose.

    Args:
        app: What is inside.
        settings: Those of the moment.
        reply: Makes the answer to a request it refuses; in app.py, which has the HTTP status.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Callable[[], ServerSettings],
        reply: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner app, or answer that the request is refused."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ForeignPageError as error:
                response = await self._reply(Request(scope), error)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        settings = self._settings()
        host = header_of(scope, b"host")
        names = (*settings.allowed_hosts, settings.host)
        if host is not None and _is_local(client_of(scope)) and not _is_ours(host, names):
            message = (
                f"this server is not called {host[:100]!r}; use localhost or an address, or add the name to the "
                "setting allowed_hosts"
            )
            raise ForeignPageError(message)
        origin = header_of(scope, b"origin")
        if origin is None or scope.get("method") in _SAFE:
            return
        if _may_write(origin, host, settings.cors_origins):
            return
        message = f"pages of {origin[:100]!r} may not use this server; --cors lets an origin in"
        raise ForeignPageError(message)


def token_of(scope: Scope) -> str | None:
    """Return the token of a request: the bearer one, or x-api-key where that looks more like one of ours."""
    found = []
    scheme, _, bearer = (header_of(scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        found.append(bearer.strip())
    key = header_of(scope, b"x-api-key")
    if key:
        found.append(key)
    return next((token for token in found if token.startswith(PREFIX)), found[0] if found else None)


def client_of(scope: Scope) -> str:
    """Return the address of the other side of the connection; no header can change it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def header_of(scope: Scope, name: bytes) -> str | None:
    """Return a header's value, of the first one where it is repeated."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1")).strip()
    return None


def _may_write(origin: str, host: str | None, allowed: Iterable[str]) -> bool:
    if "*" in allowed or origin in allowed:
        return True
    scheme, _, name = origin.partition("://")
    if scheme not in ("http", "https"):
        return (
            origin != "null"
        )  # an app or an extension, which asked its user; "null" any page can be
    return name == host or _is_ours(name, (), only_local=True)


def _is_ours(host: str, names: Iterable[str], *, only_local: bool = False) -> bool:
    """Whether a Host is an address (with `only_local`, of this machine), localhost, or one of `names`."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return address.is_loopback or not only_local
    is_localhost = name == "localhost" or name.endswith(
        ".localhost"
    )  # RFC 6761: never asked of a server
    return is_localhost or any(allowed in ("*", name) for allowed in map(str.lower, names))


def _is_local(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
