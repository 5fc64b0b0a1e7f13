"""Runs the application on one address, in one process with one event loop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from flowtape.errors import StoreError, UsageError
from flowtape.server.app import Application
from flowtape.server.connections import Connections, most_connections
from flowtape.server.logs import event
from flowtape.server.protocol import Connection
from flowtape.server.streams import MOST as MOST_STREAMS

BACKLOG = 1024
STREAMS_SHARE = 0.75
"""The share of all connections that may be streams; the rest is for other requests."""
STOP_WITHIN = 10.0
"""Seconds that requests in progress may take when the server is told to stop."""
WATCH_AGAIN = 1.0
"""Seconds after which a watch that failed is begun again."""

_log = logging.getLogger(__name__)


async def run(
    app: Application,
    host: str,
    port: int,
    ready: Callable[[str, int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set if it is given (then no signal is handled).

    Port 0 uses a free port. `ready` is called with address and port once connections are accepted. Requests in
    progress are finished before this returns, and the counts of requests are written. Raises `UsageError` if the
    address cannot be used, for instance because another program has the port.
    """
    address, port = free_address(host, port)
    most = most_connections()
    app.streams.most = min(MOST_STREAMS, int(most * STREAMS_SHARE))
    connections = app.connections
    connections.start(app.answer, most)
    stopping = stop or stop_on_signals()
    try:
        server = await connections.loop.create_server(
            partial(Connection, connections), address, port, backlog=BACKLOG, reuse_address=True
        )
    except OSError as error:
        raise UsageError(f"cannot listen on host {host} port {port}: {error.strerror}") from None
    watches = app.keys.watch, app.usage.watch, connections.watch, app.streams.watch
    watching = [asyncio.create_task(_go_on(watch)) for watch in watches]
    try:
        event(_log, logging.INFO, "serving", host=address, port=port)
        if ready:
            ready(address, port)
        await stopping.wait()
        server.close()
        app.streams.close()
        await _finish(connections)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await connections.end()
        await server.wait_closed()
        try:
            app.usage.flush()
        except StoreError as error:
            # The counts are written again when they are closed; an error here would hide the one that ended the
            # server.
            event(_log, logging.ERROR, "counts cannot be written", reason=str(error))
    event(_log, logging.INFO, "stopped")


def free_address(host: str, port: int) -> tuple[str, int]:
    """Return the numeric address and port to listen on; raises `UsageError` if it cannot be used."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # Bind like the server: lingering connections of an earlier run do not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            name = probe.getsockname()
    except OSError as error:
        raise UsageError(f"cannot listen on host {host} port {port}: {error.strerror}") from None
    return str(name[0]), int(name[1])


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told


async def _go_on(watch: Callable[[], Awaitable[None]]) -> None:
    """Watch until cancelled: a watch that fails is logged, and begun again."""
    while True:
        try:
            await watch()
        except Exception as error:
            event(_log, logging.ERROR, "watch failed", error=repr(error))
            await asyncio.sleep(WATCH_AGAIN)


async def _finish(connections: Connections) -> None:
    """Let the requests in progress end."""
    if not await connections.finish(STOP_WITHIN):
        event(_log, logging.WARNING, "stopped with requests under way", seconds=STOP_WITHIN)
    for task in connections.tasks:
        task.cancel()
