"""Runs the application: one address, one process, one event loop, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from flowtape.errors import FlowtapeError, StoreError, UsageError
from flowtape.server.app import Application
from flowtape.server.connections import most_connections
from flowtape.server.logs import event
from flowtape.server.streams import MOST as MOST_STREAMS

BACKLOG = 1024
HEADER_BYTES = 65_536
"""A request's line and headers together; more is 414 or 431."""
IDLE_MS = 30_000
"""Milliseconds that a connection may wait: for its first request, for the rest of a request's headers, for the next."""
STREAMS_SHARE = 0.75
"""The share of all connections that may be streams; the others are for requests that end."""
STOP_WITHIN = 10.0
"""Seconds that requests under way are given when the server is told to stop."""

_log = logging.getLogger(__name__)


async def run(
    app: Application,
    host: str,
    port: int,
    ready: Callable[[str, int], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set where one is given (then no signal is handled).

    Port 0 takes a free one. `ready` is called with the address and the port once connections are accepted.
    Requests under way are finished before this returns, and the counts of use are written. Raises
    `UsageError` when the address cannot be used, for instance because another program has the port.
    """
    address, port = free_address(host, port)
    most = most_connections()
    app.streams.most = min(MOST_STREAMS, int(most * STREAMS_SHARE))
    server = _server(app, address, port, most)
    stopping = stop or stop_on_signals()
    serving = asyncio.create_task(server.serve())
    watching = [
        asyncio.create_task(watch)
        for watch in (app.keys.watch(), app.usage.watch(), app.connections.watch(port, most))
    ]
    told = asyncio.create_task(stopping.wait())
    try:
        if await _accepting(address, port, serving):
            event(_log, logging.INFO, "serving", host=address, port=port)
            if ready:
                ready(address, port)
            await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
        app.streams.close()
        await _finish(server, serving)
    finally:
        for task in (told, *watching):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        try:
            app.usage.flush()
        except StoreError as error:
            # Tried again when the counts are closed; raised here it would hide what ended the server.
            event(_log, logging.ERROR, "counts cannot be written", reason=str(error))
    if not stopping.is_set():
        raise FlowtapeError("the HTTP server ended by itself; the log may say why")
    event(_log, logging.INFO, "stopped")


def free_address(host: str, port: int) -> tuple[str, int]:
    """The numeric address and port to listen on; raises `UsageError` if they cannot be had."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As the server will bind: connections that linger from an earlier run do not hold the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            name = probe.getsockname()
    except OSError as error:
        raise UsageError(f"cannot listen on host {host} port {port}: {error.strerror}") from None
    return str(name[0]), int(name[1])


def _server(app: Application, address: str, port: int, most: int) -> Server:
    return Server(
        app,
        address=address,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        # Granian stops accepting at this number of connections, idle ones included.
        backpressure=most,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_MS, max_buffer_size=HEADER_BYTES),
        # Its messages go where all others go, not to standard output.
        log_level=LogLevels.error,
        log_dictconfig={"handlers": {}, "formatters": {}, "loggers": {"_granian": {"propagate": True}}},
    )


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set from now on."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told


async def _accepting(address: str, port: int, serving: asyncio.Task[None]) -> bool:
    """Wait until the server accepts connections; False if it has ended instead."""
    while not serving.done():
        try:
            _, writer = await asyncio.open_connection(address, port)
        except OSError:
            await asyncio.sleep(0.005)
        else:
            writer.close()
            return True
    return False


async def _finish(server: Server, serving: asyncio.Task[None]) -> None:
    server.stop()  # type: ignore[no-untyped-call]
    _, late = await asyncio.wait({serving}, timeout=STOP_WITHIN)
    if late:
        event(_log, logging.WARNING, "stopped with requests under way", seconds=STOP_WITHIN)
        serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
