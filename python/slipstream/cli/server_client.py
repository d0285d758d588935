"""How commands speak to a server: the one that runs, or one that --url names. The one module of cli with HTTP in it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    import httpx2

TOKEN_VARIABLE = "SLIPSTREAM_API_TOKEN"
_CONNECT_S = 5.0
_ANSWER_S = 60.0


class ServerClient:
    """A connection to a server; a context manager.

    Args:
        url: Of the server.
        token: Sent as a bearer token.
        transport: Tests put another one there.
    """

    def __init__(
        self, url: str, token: str | None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        import httpx2

        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # trust_env: a proxy of the environment is for the internet, not for this machine
        self._http = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str) -> Any:
        """Return what a GET answers.

        Raises:
            ServerError: the server cannot be reached, or refuses; the message is its own.
        """
        return self._send("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return what a POST answers.

        Raises:
            ServerError: as `get`.
        """
        return self._send("POST", path, body)

    @contextmanager
    def events(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Iterator[Iterator[str]]:
        """Give the data of each server-sent event of an answer, as long as the server sends them.

        Raises:
            ServerError: as `get`.
        """
        import httpx2

        try:
            with self._http.stream(
                method, path, params=params, json=body, timeout=None
            ) as response:
                if not response.is_success:
                    response.read()
                    raise self._refusal(response)
                yield (
                    line.removeprefix("data: ")
                    for line in response.iter_lines()
                    if line.startswith("data: ")
                )
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        import httpx2

        try:
            response = self._http.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise self._refusal(response)
        return response.json()

    def _unreachable(self, error: Exception) -> ServerError:
        message = f"the server at {self.url} does not answer: {error or type(error).__name__}"
        return ServerError(message)

    def _refusal(self, response: httpx2.Response) -> ServerError:
        try:
            told = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            told = f"{response.status_code} {response.reason_phrase}"
        if response.status_code in (401, 403):
            told += f" (set {TOKEN_VARIABLE})"
        return ServerError(told)


def find_server(url: str | None) -> ServerClient | None:
    """Return a client of the server that is meant, or None if there is none.

    That is `url`, with the token of SLIPSTREAM_API_TOKEN, else the one of this user that runs.
    """
    from slipstream.runtime.server_record import find

    if url:
        if not url.startswith(("http://", "https://")):
            message = f"{url!r} is no URL of a server; give one like http://127.0.0.1:1234"
            raise ServerError(message)
        return ServerClient(url, os.environ.get(TOKEN_VARIABLE))
    record = find()
    if record is None:
        return None
    if record.url is None:
        message = f"the server (process {record.pid}) is still starting; try again in a moment"
        raise ServerError(message)
    return ServerClient(record.url, record.key)


def started_server(url: str | None) -> ServerClient:
    """Return a client of the server that is meant; where none is, and none runs, one is started.

    That one loads nothing by itself: what is to be loaded will be named, perhaps the same as last time.

    Raises:
        ServerError: it cannot be started.
    """
    from slipstream.cli import background
    from slipstream.cli.terminal import show_line

    client = find_server(url)
    if client is not None:
        return client
    show_line("starting a server")
    try:
        record, _ = background.start(restore=False)
    finally:
        show_line("")
    assert record.url is not None
    return ServerClient(record.url, record.key)


def need_server(url: str | None) -> ServerClient:
    """Return a client of the server that is meant.

    Raises:
        ServerError: there is none.
    """
    client = find_server(url)
    if client is None:
        message = "no server is running; `slipstream server start` starts one"
        raise ServerError(message)
    return client
