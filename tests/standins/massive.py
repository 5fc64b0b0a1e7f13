"""A server that speaks as Massive does: the websocket of a market (`/options`, `/stocks`) and the REST pages, both on
one local port, with faults on demand.

What is published (`trade`, `quote`) is kept for REST at once, and sent to who has subscribed. As a program of its own
it prints its port and reads commands, one JSON array a line: `["trade", {...}]`, `["cut"]`, ….
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlparse

import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

PAGE = 100
"""Rows of a page at most, so that there are several."""


class MassiveServer:
    """Runs on a thread of its own. Times of `trade` and `quote` are ns; REST has them whole, the websocket in ms.

    Faults: `cut()`, `cut_after(n)`, `say(text)` for garbage or a status, `silence()` (no pongs, nothing
    sent),
    `hold()` and `release()` (later events are sent, all at once, in reverse with `reverse=True`), `repeat` (each event
    so many times), `refuse` (a status in place of admission), `rest_broken`, `rest_stuck` (a page comes again and
    again), `rest_says` (in place of any page), `rest_hangs` (REST takes requests and does not answer), `busy` (so many
    requests are answered with 429 and `retry_after`), `key_in_pages` (the address of the next page has the key).
    """

    def __init__(self, key: str = "right-key", port: int = 0) -> None:
        self.key, self.port = key, port
        self.contracts: dict[str, list[str]] = {}
        self.trades: dict[str, list[dict[str, Any]]] = {}
        self.quotes: dict[str, list[dict[str, Any]]] = {}
        self.repeat, self.rest_broken, self.numbered = 1, False, False
        self.rest_stuck, self.rest_hangs, self.key_in_pages = False, False, False
        self.rest_says: dict[str, Any] | None = None
        self.busy, self.retry_after = 0, "0"
        self._silent = False
        self.refuse: str | None = None
        self.requests: list[str] = []
        self.subscribed = threading.Event()
        self._topics: dict[ServerConnection, set[str]] = {}
        self._held: list[dict[str, Any]] | None = None
        self._until_cut: int | None = None
        self._next = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="massive stand-in", daemon=True)

    @property
    def url(self) -> str:
        """Host and port of the websocket."""
        return f"127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        """The base of the REST pages."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> MassiveServer:
        """Listen; returns once it does."""
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the stand-in does not listen")
        return self

    def stop(self) -> None:
        """End all connections and the thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def __enter__(self) -> MassiveServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def trade(
        self, ticker: str, ts: int, price: float, size: float = 1, *, conditions: tuple[int, ...] = (209,),
        exchange: int = 312, correction: int | None = None, seq: int | None = None, id: str | None = None,
        live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a trade; with `live` off it is only kept for REST."""
        seq = self._number(seq)
        row = {
            "conditions": list(conditions), "exchange": exchange, "price": price, "size": size, "sip_timestamp": ts,
            "participant_timestamp": ts - 1_000, "id": id or f"{seq}",
        }  # fmt: skip
        if not ticker.startswith("O:") or self.numbered:
            row["sequence_number"] = seq
        if correction is not None:
            row["correction"] = correction
        event = {
            "ev": "T", "sym": ticker, "x": exchange, "p": price, "s": size, "c": list(conditions),
            "t": ts // 1_000_000, "q": seq,
        }  # fmt: skip
        if not ticker.startswith("O:"):
            event |= {"i": row["id"], "z": 3}
        self._publish(self.trades, ticker, row, event, live=live)

    def quote(
        self, ticker: str, ts: int, bid: float, ask: float, *, bid_size: int = 10, ask_size: int = 20,
        seq: int | None = None, live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a quote; with `live` off it is only kept for REST."""
        seq = self._number(seq)
        row = {
            "bid_price": bid, "ask_price": ask, "bid_size": bid_size, "ask_size": ask_size, "bid_exchange": 302,
            "ask_exchange": 301, "sequence_number": seq, "sip_timestamp": ts,
        }  # fmt: skip
        event = {
            "ev": "Q", "sym": ticker, "bx": 302, "ax": 301, "bp": bid, "ap": ask, "bs": bid_size, "as": ask_size,
            "t": ts // 1_000_000, "q": seq,
        }  # fmt: skip
        if not ticker.startswith("O:"):
            event |= {"c": 1, "i": [604], "z": 3}
        self._publish(self.quotes, ticker, row, event, live=live)

    def say(self, text: str | bytes) -> None:
        """Send a text to all, whatever it is."""
        self._do(lambda: self._say(text))

    def status(self, status: str, message: str) -> None:
        """Send a status message to all."""
        self.say(json.dumps([{"ev": "status", "status": status, "message": message}]))

    def cut(self) -> None:
        """Break every connection without a farewell."""
        self._do(self._cut)

    def cut_after(self, events: int) -> None:
        """Break every connection once so many further events were sent; what follows is sent to none."""
        self._until_cut = events

    def silence(self) -> None:
        """From now on send nothing and read nothing, so that pings go unanswered."""
        self._silent = True
        self._do(self._silence)

    def hold(self) -> None:
        """Keep back what is published from now on (not from REST)."""
        self._held = []

    def release(self, *, reverse: bool = False) -> None:
        """Send what was kept back."""
        events, self._held = self._held or [], None
        for event in reversed(events) if reverse else events:
            self._do(lambda event=event: self._send(event))

    def _number(self, seq: int | None) -> int:
        self._next = self._next + 1 if seq is None else max(self._next, seq)
        return self._next if seq is None else seq

    def _publish(
        self, table: dict[str, list[dict[str, Any]]], ticker: str, row: dict[str, Any], event: dict[str, Any],
        *, live: bool,
    ) -> None:  # fmt: skip
        rows = table.setdefault(ticker, [])
        rows.append(row)
        rows.sort(key=lambda one: one["sip_timestamp"])
        if not live:
            return
        if self._held is not None:
            self._held.append(event)
        else:
            self._do(lambda: self._send(event))

    def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)

    async def _send(self, event: dict[str, Any]) -> None:
        if self._silent:
            return
        topics = {f"{event['ev']}.{event['sym']}", f"{event['ev']}.*"}
        for connection, subscribed in list(self._topics.items()):
            if topics & subscribed:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await connection.send(json.dumps([event] * self.repeat))
        if self._until_cut is not None:
            self._until_cut -= 1
            if self._until_cut <= 0:
                self._until_cut = None
                await self._cut()

    async def _say(self, text: str | bytes) -> None:
        for connection in list(self._topics):
            await connection.send(text)

    async def _cut(self) -> None:
        for connection in list(self._topics):
            connection.transport.abort()
        self._topics.clear()
        self.subscribed.clear()

    async def _silence(self) -> None:
        for connection in self._topics:
            connection.transport.pause_reading()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        async with serve(
            self._converse,
            "127.0.0.1",
            self.port,
            process_request=self._rest,
            ping_interval=None,
            close_timeout=1,
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    async def _converse(self, connection: ServerConnection) -> None:
        await self._answer(connection, "connected", "Connected Successfully")
        with contextlib.suppress(websockets.ConnectionClosed):
            asked = json.loads(await connection.recv())
            if self.refuse is not None:
                await self._answer(connection, self.refuse, "refused as told")
                return
            if asked != {"action": "auth", "params": self.key}:
                await self._answer(connection, "auth_failed", "authentication failed")
                return
            await self._answer(connection, "auth_success", "authenticated")
            self._topics[connection] = set()
            async for message in connection:
                asked = json.loads(message)
                for topic in asked["params"].split(","):
                    self._topics[connection].add(topic)
                    await self._answer(connection, "success", f"subscribed to: {topic}")
                self.subscribed.set()
        self._topics.pop(connection, None)

    async def _answer(self, connection: ServerConnection, status: str, message: str) -> None:
        await connection.send(json.dumps([{"ev": "status", "status": status, "message": message}]))

    async def _rest(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        self.requests.append(request.path)
        if self.rest_hangs:
            await self._stop.wait()
        return self._page(request)

    def _page(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return _page(401, {"status": "ERROR", "error": "Unknown API Key"})
        if self.rest_broken:
            return _page(400, {"status": "ERROR", "error": "broken as told"})
        if self.busy > 0:
            self.busy -= 1
            return _page(
                429, {"status": "ERROR", "error": "too many requests"}, ("Retry-After", self.retry_after)
            )
        if self.rest_says is not None:
            return _page(200, self.rest_says)
        url = urlparse(request.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        rows = self._rows(url.path, asked)
        if rows is None:
            return _page(404, {"status": "NOT_FOUND", "error": url.path})
        first = int(asked.get("cursor", "0"))
        most = min(PAGE, int(asked.get("limit", "10")))
        body: dict[str, Any] = {"status": "OK", "request_id": "1", "results": rows[first : first + most]}
        if first + most < len(rows):
            following = {"cursor": 0 if self.rest_stuck else first + most}
            more = {"apiKey": self.key} if self.key_in_pages else {}
            body["next_url"] = f"{self.rest_url}{url.path}?{urlencode(asked | following | more)}"
        return _page(200, body)

    def _rows(self, path: str, asked: dict[str, str]) -> list[dict[str, Any]] | None:
        if path == "/v3/reference/options/contracts":
            return [
                {"ticker": ticker} for ticker in self.contracts.get(asked.get("underlying_ticker", ""), [])
            ]
        table, _, ticker = path.removeprefix("/v3/").partition("/")
        if table not in ("trades", "quotes"):
            return None
        low, high = int(asked.get("timestamp.gte", "0")), int(asked.get("timestamp.lt", 2**63))
        rows = (self.trades if table == "trades" else self.quotes).get(ticker, [])
        return [row for row in rows if low <= row["sip_timestamp"] < high]


def _page(status: int, body: dict[str, Any], *more: tuple[str, str]) -> Response:
    data = json.dumps(body).encode()
    headers = Headers(
        {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
        | dict(more)
    )
    return Response(status, {200: "OK"}.get(status, "Error"), headers, data)


def main() -> None:
    """Serve, and do what standard input says until it ends."""
    with MassiveServer(*sys.argv[1:2]) as server:
        print(server.port, flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            named = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            if callable(getattr(server, name)):
                getattr(server, name)(*arguments, **named)
            else:
                setattr(server, name, arguments[0])
            print("done", flush=True)


if __name__ == "__main__":
    main()
