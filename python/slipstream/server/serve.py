"""Runs the app on Granian's embedded server, from the check of the port to the last second. The one door to granian.

Granian binds with SO_REUSEPORT, so a second server would start without an error and take part of the traffic: the
port is tried first. Its stop waits for open streams without a limit, so they are ended before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from granian.constants import Interfaces
from granian.server.embed import Server

from slipstream.base.errors import ServerError
from slipstream.runtime.generation import Generation
from slipstream.server.app import create_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from starlette.applications import Starlette

    from slipstream.runtime.access import Access
    from slipstream.runtime.model_manager import ModelManager
    from slipstream.runtime.settings import ServerSettings
    from slipstream.server.context import ServerContext

_log = logging.getLogger(__name__)

STOP_S = 5.0  # from the first signal to a hard exit
_GRACE_S = 1.0  # for requests that are nearly done
_CANCEL_S = 0.5  # for the others to tell their clients
_GRANIAN_S = 0.5  # for its open connections
_BACKLOG = 1024
_FORCED_EXIT = 1
_PROBE_S = 10.0


def run(
    manager: ModelManager,
    settings: ServerSettings,
    *,
    current: Callable[[], ServerSettings] | None = None,
    access: Access | None = None,
    before: Callable[[], Awaitable[None]] | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, stop everything, and end the process with exit code 0.

    Must run on the main thread, which handles signals. After a signal, new requests are refused, running ones
    have a second to end and are told so otherwise, the engines stop, then the server. A second signal, or five
    seconds, end the process at once. It does not return after serving: threads of Granian outlive its stop, and
    an interpreter that shuts down under them can abort.

    Args:
        manager: Of the models; closed in the end, whatever happens.
        settings: Where to listen and what to let in.
        current: The settings of the moment, where they can change.
        access: Knows the tokens; those of SLIPSTREAM_HOME if not given.
        before: Awaited once the port is known to be free and before it is bound, for loading models.
        on_ready: Called with the server's URL once it answers.

    Raises:
        ServerError: the port is taken or the address is not one of this machine.
        SlipstreamError: what `before` raised.
    """
    address = check_port(settings.host, settings.port)
    _warn_if_open(address, settings)
    app = create_app(Generation(manager), manager, settings, current=current, access=access)
    _run_loop(_serve(app, settings, address, before, on_ready))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def check_port(host: str, port: int) -> str:
    """Try to bind an address, without SO_REUSEPORT.

    Returns:
        The IP address of `host`, the IPv4 one where it has both.

    Raises:
        ServerError: it is taken, not allowed, or not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError) as error:
        message = f"{host} port {port} is no address to listen on: {error}"
        raise ServerError(message) from error
    family, kind, proto, _name, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    with socket.socket(family, kind, proto) as probe:
        # The connections of a server that has just stopped do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise ServerError(_bind_message(host, port, error)) from error
    return str(address[0])


def _bind_message(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = _holder_of(port)
        by = f" (by {holder})" if holder else ""
        return (
            f"port {port} on {host} is taken{by}; stop what holds it or choose another with --port"
        )
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all of them"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


def _holder_of(port: int) -> str | None:
    """Return the name and id of the process that listens on a port, where the system tells."""
    import psutil  # 20 ms that only this message needs

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and getattr(connection.laddr, "port", None) == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    return None


def _warn_if_open(address: str, settings: ServerSettings) -> None:
    if not ipaddress.ip_address(address).is_loopback and not settings.require_auth:
        _log.warning(
            "listening on %s: every machine that reaches it can use the models; "
            "`slipstream settings set require_auth true` asks for tokens",
            address,
        )


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop where it is installed, which saves a fifth of the cost of a chunk."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop  # an optional package

        loop_factory = new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)


async def _serve(
    app: Starlette,
    settings: ServerSettings,
    address: str,
    before: Callable[[], Awaitable[None]] | None,
    on_ready: Callable[[str], None] | None,
) -> None:
    stop = _stop_event()
    try:
        if before is not None and not await _unless(stop, before()):
            return
        if not stop.is_set():
            app.state.context.downloads.restore()
            await _serve_app(app, settings, address, stop, on_ready)
    finally:
        await app.state.context.manager.close()


def _stop_event() -> asyncio.Event:
    """Return an event that the first signal sets. The second signal, or time, ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(_FORCED_EXIT)
        stop.set()
        deadline = threading.Timer(STOP_S, os._exit, (_FORCED_EXIT,))
        deadline.daemon = True  # an exit in time needs no wait for it
        deadline.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Await `work`, or cancel it when the event is set. Returns whether it ran to its end."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait((task,))
    return False


async def _serve_app(
    app: Starlette,
    settings: ServerSettings,
    address: str,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None,
) -> None:
    server = Server(
        app,
        address=address,
        port=settings.port,
        interface=Interfaces.ASGINL,  # no lifespan: this function is it
        backlog=_BACKLOG,
        log_enabled=False,  # our own request log has the line for each request
    )
    serving = asyncio.ensure_future(server.serve())
    try:
        await _wait_reachable(_local_host(address), settings.port, serving)
        if on_ready is not None:
            on_ready(url_of(settings))
        await asyncio.wait(
            (serving, asyncio.ensure_future(stop.wait())), return_when=asyncio.FIRST_COMPLETED
        )
        if serving.done():
            serving.result()
            message = "the HTTP server ended by itself"
            raise ServerError(message)
        await _close(app.state.context)
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait((serving,), timeout=_GRANIAN_S)


async def _close(context: ServerContext) -> None:
    _log.info("stopping: %d requests in flight", len(context.in_flight))
    await context.in_flight.close(_GRACE_S, _CANCEL_S)
    await context.downloads.close()
    await context.manager.close()


async def _wait_reachable(host: str, port: int, serving: asyncio.Task[None]) -> None:
    """Connect until it works: Granian does not say when it listens."""
    deadline_s = asyncio.get_running_loop().time() + _PROBE_S
    while not serving.done():
        try:
            _reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            if asyncio.get_running_loop().time() > deadline_s:
                message = f"the server does not answer on {host} port {port}: {error}"
                raise ServerError(message) from error
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    serving.result()


def url_of(settings: ServerSettings) -> str:
    """Return the URL a client on this machine uses."""
    host = _local_host(settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _local_host(host: str) -> str:
    """Return an address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
