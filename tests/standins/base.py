"""Shared code of the vendors' stand-ins: a thread with an event loop, a websocket and REST pages on one local port, and
faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlparse

import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

PAGE = 100
"""Rows of a page at most, so that there are several."""


class StandIn(ABC):
    """A server on its own thread.

    `started` is released once for each connection that is authenticated and subscribed, and has received its replay if
    it requested one.
    """

    def __init__(self, port: int) -> None:
        self.port, self.started = port, threading.Semaphore(0)
        self.stopping = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    @abstractmethod
    async def serve(self) -> None:
        """Listen, call `listening`, and serve until `stopping` is set."""

    def listening(self, port: int) -> None:
        """Report the port to the thread that started the server."""
        self.port = port
        self._ready.set()

    def start(self) -> StandIn:
        """Start the server, and return once it listens."""
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the stand-in does not listen")
        return self

    def stop(self) -> None:
        """End all connections and the thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stopping.set)
        self._thread.join(10)

    def __enter__(self) -> Any:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def do(self, work: Callable[[], Any]) -> None:
        """Run `work` on the server's thread, which owns all state, and return once it is done."""

        async def done() -> None:
            found = work()
            if asyncio.iscoroutine(found):
                await found

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self.serve())
        finally:
            self._loop.close()


class WebsocketServer(StandIn):
    """A vendor's websocket and REST pages. Published events are at once in REST, and are sent to their subscribers.

    Faults of the websocket: `cut()`, `cut_after(n)`, `say(data)` for malformed data, `silence()` (no pongs, no data),
    `hold()` and `release()` (held events are sent together, in reverse order with `reverse=True`), `repeat` (the number
    of copies of each event), `refuse` (instead of authentication), `mute` (no answer to a connection), `hang_up`
    (disconnect before authentication).

    Faults of REST: `rest_broken`, `rest_stuck` (the same page repeats), `rest_says` (the body instead of any page),
    `rest_hangs` (requests are not answered), `busy` (the number of requests answered with 429 and `retry_after`).
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.contracts: dict[str, list[str]] = {}
        self.trades: dict[str, list[dict[str, Any]]] = {}
        self.quotes: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[str] = []
        self.events: list[dict[str, Any]] = []
        """All that was published live."""
        self.topics: dict[ServerConnection, set[str]] = {}
        """The connections that are admitted, and what each has subscribed."""
        self.repeat, self.refuse = 1, None
        self.mute = self.hang_up = self.rest_broken = self.rest_stuck = self.rest_hangs = False
        self.rest_says: Any = None
        self.busy, self.retry_after = 0, "0"
        self.held: list[dict[str, Any]] | None = None
        self.until_cut: int | None = None
        self._silent = False
        self._next = 0

    @property
    def rest_url(self) -> str:
        """Return the base address of the REST pages."""
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    async def converse(self, connection: ServerConnection) -> None:
        """Authenticate a connection and accept its subscriptions (`subscribed`)."""

    @abstractmethod
    def packed(self, events: list[dict[str, Any]]) -> str | bytes:
        """Return a frame of events."""

    @abstractmethod
    def wanted(self, event: dict[str, Any]) -> set[str]:
        """Return the topics that an event belongs to."""

    @abstractmethod
    def answer(self, path: str, asked: dict[str, str], request: Request) -> Response:
        """Return a page of REST."""

    def connected(self) -> bool:
        """Return whether a client has subscribed."""
        return any(self.topics.values())

    def number(self, given: int | None) -> int:
        """Return the given number, or the next one."""
        self._next = self._next + 1 if given is None else max(self._next, given)
        return self._next if given is None else given

    def keep(
        self, table: dict[str, list[dict[str, Any]]], symbol: str, row: dict[str, Any], time: str
    ) -> None:
        """Add a row to REST, in the order of the column `time`."""

        def work() -> None:
            rows = table.setdefault(symbol, [])
            rows.append(row)
            rows.sort(key=lambda one: one[time])

        self.do(work)

    def publish(self, event: dict[str, Any]) -> None:
        """Send an event to its subscribers."""
        self.events.append(event)
        if self.held is not None:
            self.held.append(event)
        else:
            self.do(lambda: self._send(event))

    def say(self, data: str | bytes) -> None:
        """Send any frame to all connections."""
        self.do(lambda: self._say(data))

    def cut(self) -> None:
        """Break every connection without a closing handshake."""
        self.do(self._cut)

    def cut_after(self, events: int) -> None:
        """Break every connection after a number of further events. Later events are not sent."""
        self.until_cut = events

    def silence(self) -> None:
        """Stop sending and reading, so that pings are not answered."""
        self._silent = True
        self.do(lambda: [one.transport.pause_reading() for one in self.topics])

    def hold(self) -> None:
        """Hold events published from now on. REST has them at once."""
        self.held = []

    def release(self, *, reverse: bool = False) -> None:
        """Send the held events."""
        events, self.held = self.held or [], None
        for event in reversed(events) if reverse else events:
            self.do(lambda event=event: self._send(event))

    async def _send(self, event: dict[str, Any]) -> None:
        if self._silent:
            return
        topics = self.wanted(event)
        for connection, subscribed in list(self.topics.items()):
            if topics & subscribed:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await connection.send(self.packed([event] * self.repeat))
        if self.until_cut is not None:
            self.until_cut -= 1
            if self.until_cut <= 0:
                self.until_cut = None
                self._cut()

    async def _say(self, data: str | bytes) -> None:
        for connection in list(self.topics):
            await connection.send(data)

    def _cut(self) -> None:
        for connection in self.topics:
            connection.transport.abort()
        self.topics.clear()

    async def serve(self) -> None:
        """Serve the websocket and REST until the server stops."""
        async with serve(
            self._converse, "127.0.0.1", self.port, process_request=self._request, ping_interval=None,
            close_timeout=1,
        ) as server:  # fmt: skip
            self.listening(server.sockets[0].getsockname()[1])
            await self.stopping.wait()
            # A client that does not read does not close its connection.
            if self._silent:
                self._cut()

    async def _converse(self, connection: ServerConnection) -> None:
        # A client may disconnect at any time, also during authentication.
        with contextlib.suppress(websockets.ConnectionClosed):
            if self.mute:
                await connection.wait_closed()
            elif not self.hang_up:
                await self.converse(connection)
        self.topics.pop(connection, None)

    def subscribe(self, connection: ServerConnection, topics: Iterable[str]) -> None:
        """Subscribe a connection to topics, unless it has been cut meanwhile."""
        if connection.state is websockets.State.OPEN:
            self.topics.setdefault(connection, set()).update(topics)

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        url = urlparse(request.path)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return self.upgrade(url.path)
        self.requests.append(request.path)
        if self.rest_hangs:
            await self.stopping.wait()
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.rest_broken:
            return page(400, {"message": "broken as told"})
        return self.answer(url.path, asked, request)

    def upgrade(self, path: str) -> Response | None:
        """Return an HTTP answer for an address without a websocket; None to accept the connection."""
        return None

    def fault(self) -> Response | None:
        """Return the answer of REST under a fault; None without one."""
        if self.busy > 0:
            self.busy -= 1
            return page(429, {"message": "too many requests"}, ("Retry-After", self.retry_after))
        return None if self.rest_says is None else page(200, self.rest_says)


def page(status: int, body: Any, *more: tuple[str, str]) -> Response:
    """Return an answer of REST."""
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    return Response(status, HTTPStatus(status).phrase, Headers(headers | dict(more)), data)


def main(server: StandIn) -> None:
    """Serve as a separate program: print the port, and run the commands of standard input until it ends.

    A command is one JSON array a line: `["trade", "SPY", 1700000000000000000, 1.05, {"size": 4}]`, `["cut"]`,
    `["repeat", 2]`.
    """
    with server:
        print(server.port, flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            named = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            if callable(getattr(server, name)):
                getattr(server, name)(*arguments, **named)
            else:
                setattr(server, name, arguments[0])
            print("done", flush=True)
