"""A server that speaks as Alpaca does: the streams (`/v1beta1/opra`, `/v2/sip`, …) in msgpack, the REST pages in JSON,
both on one local port, with faults on demand.

What is published (`trade`, `quote`, `cancel`, `correct`) is kept for REST at once, and sent to who has subscribed. As a
program of its own it prints its port and reads commands, one JSON array a line: `["trade", {...}]`, `["cut"]`, ….
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlparse

import msgpack
import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

PAGE = 100
"""Rows of a page at most, so that there are several."""
STREAMS = ("/v1beta1/opra", "/v1beta1/indicative", "/v2/sip", "/v2/iex")
ERRORS = {
    400: "invalid syntax", 401: "not authenticated", 402: "auth failed", 403: "already authenticated",
    404: "auth timeout", 405: "symbol limit exceeded", 406: "connection limit exceeded", 407: "slow client",
    409: "insufficient subscription", 413: "star subscription is not allowed for option quotes",
    500: "internal error",
}  # fmt: skip
CHANNELS = {"t": "trades", "q": "quotes", "x": "trades", "c": "trades"}
"""The subscription a message belongs to: who takes trades is told of cancels and corrections."""


class AlpacaServer:
    """Runs on a thread of its own. Times are ns.

    Faults: `cut()`, `cut_after(n)`, `say(bytes)` for garbage, `error(code)`, `silence()` (no pongs, nothing sent),
    `hold()` and `release()` (later events are sent, all at once, in reverse with `reverse=True`), `repeat` (each event
    so many times), `refuse` (an error's code in place of admission), `symbol_limit` (of quotes), `rest_broken`.
    """

    def __init__(self, key: str = "right-key", secret: str = "right-secret", port: int = 0) -> None:
        self.key, self.secret, self.port = key, secret, port
        self.contracts: dict[str, list[str]] = {}
        self.trades: dict[str, list[dict[str, Any]]] = {}
        self.quotes: dict[str, list[dict[str, Any]]] = {}
        self.repeat, self.symbol_limit, self.rest_broken = 1, 1000, False
        self.refuse: int | None = None
        self.requests: list[str] = []
        self.paths: list[str] = []
        self.subscribed = threading.Event()
        self._silent = False
        self._topics: dict[ServerConnection, dict[str, set[str]]] = {}
        self._held: list[dict[str, Any]] | None = None
        self._until_cut: int | None = None
        self._next = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alpaca stand-in", daemon=True)

    @property
    def url(self) -> str:
        """The base of the streams."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def rest_url(self) -> str:
        """The base of the REST pages."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> AlpacaServer:
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

    def __enter__(self) -> AlpacaServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def trade(
        self, symbol: str, ts: int, price: float, size: float = 1, *, conditions: str | list[str] | None = None,
        exchange: str = "C", id: int | None = None, live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a trade, a stock's with an id; with `live` off it is only kept for REST."""
        row: dict[str, Any] = {"x": exchange, "p": price, "s": size}
        if _option(symbol):
            row["c"] = conditions or "I"
        else:
            self._next = self._next + 1 if id is None else max(self._next, id)
            row |= {"i": self._next if id is None else id, "c": conditions or [" "], "z": "B"}
        self._keep(self.trades, symbol, ts, row)
        self._publish({"T": "t", "S": symbol, "t": ts, **row}, live=live)

    def quote(
        self, symbol: str, ts: int, bid: float, ask: float, *, bid_size: int = 10, ask_size: int = 20,
        live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a quote; REST keeps those of stocks. With `live` off it is only kept."""
        row: dict[str, Any] = {"bx": "C", "bp": bid, "bs": bid_size, "ax": "X", "ap": ask, "as": ask_size}
        row |= {"c": "A"} if _option(symbol) else {"c": ["R"], "z": "B"}
        if not _option(symbol):
            self._keep(self.quotes, symbol, ts, row)
        self._publish({"T": "q", "S": symbol, "t": ts, **row}, live=live)

    def cancel(self, symbol: str, id: int, ts: int, *, live: bool = True) -> None:
        """Take back a stock's trade at a later time."""
        row = self._struck(symbol, id, "canceled")
        event = {"i": id, "x": row["x"], "p": row["p"], "s": row["s"], "a": "C", "z": "B"}
        self._publish({"T": "x", "S": symbol, "t": ts, **event}, live=live)

    def correct(
        self, symbol: str, id: int, ts: int, price: float, size: float, *, new_id: int, live: bool = True
    ) -> None:
        """Put another trade in the place of a stock's trade at a later time."""
        row = self._struck(symbol, id, "incorrect")
        right = {"x": row["x"], "p": price, "s": size, "i": new_id, "c": row["c"], "z": "B", "u": "corrected"}
        self._keep(self.trades, symbol, ts, right)
        event = {"x": row["x"], "oi": id, "op": row["p"], "os": row["s"], "oc": row["c"]}
        event |= {"ci": new_id, "cp": price, "cs": size, "cc": row["c"], "z": "B"}
        self._publish({"T": "c", "S": symbol, "t": ts, **event}, live=live)

    def say(self, data: bytes | str) -> None:
        """Send a frame to all, whatever it is."""
        self._do(lambda: self._say(data))

    def error(self, code: int) -> None:
        """Send an error to all."""
        self.say(msgpack.packb([{"T": "error", "code": code, "msg": ERRORS[code]}]))

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

    def _struck(self, symbol: str, id: int, why: str) -> dict[str, Any]:
        row = next(row for row in self.trades[symbol] if row["i"] == id)
        row["u"] = why
        return row

    def _keep(
        self, table: dict[str, list[dict[str, Any]]], symbol: str, ts: int, row: dict[str, Any]
    ) -> None:
        rows = table.setdefault(symbol, [])
        rows.append({"#ts": ts, "t": _rfc3339(ts), **row})
        rows.sort(key=lambda one: one["#ts"])

    def _publish(self, event: dict[str, Any], *, live: bool) -> None:
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
        frame = msgpack.packb([event | {"t": msgpack.Timestamp.from_unix_nano(event["t"])}] * self.repeat)
        for connection, topics in list(self._topics.items()):
            if {event["S"], "*"} & topics[CHANNELS[event["T"]]]:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await connection.send(frame)
        if self._until_cut is not None:
            self._until_cut -= 1
            if self._until_cut <= 0:
                self._until_cut = None
                await self._cut()

    async def _say(self, data: bytes | str) -> None:
        for connection in list(self._topics):
            await connection.send(data)

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
        with contextlib.suppress(websockets.ConnectionClosed):
            await _tell(connection, T="success", msg="connected")
            asked = msgpack.unpackb(await connection.recv())
            right = {"action": "auth", "key": self.key, "secret": self.secret}
            refused = self.refuse or (402 if asked != right else None)
            if refused is not None:
                await _tell(connection, T="error", code=refused, msg=ERRORS[refused])
                return
            await _tell(connection, T="success", msg="authenticated")
            async for message in connection:
                await self._subscribe(connection, msgpack.unpackb(message))
        self._topics.pop(connection, None)

    async def _subscribe(self, connection: ServerConnection, asked: dict[str, Any]) -> None:
        topics = self._topics.setdefault(connection, {"trades": set(), "quotes": set()})
        options = connection.request.path.startswith("/v1beta1/")
        wrong = None
        if asked.get("action") != "subscribe":
            wrong = 400
        elif options and "*" in asked.get("quotes", ()):
            wrong = 413
        elif len(asked.get("quotes", ())) > self.symbol_limit:
            wrong = 405
        if wrong is not None:
            await _tell(connection, T="error", code=wrong, msg=ERRORS[wrong])
            return
        for channel, symbols in topics.items():
            symbols.update(asked.get(channel, ()))
        told = {channel: sorted(symbols) for channel, symbols in topics.items()}
        if not options:
            told |= {"bars": [], "corrections": told["trades"], "cancelErrors": told["trades"]}
        await _tell(connection, T="subscription", **told)
        self.subscribed.set()

    def _rest(self, connection: ServerConnection, request: Request) -> Response | None:
        url = urlparse(request.path)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self.paths.append(url.path)
            return None if url.path in STREAMS else _page(404, {"message": "endpoint not found."})
        self.requests.append(request.path)
        keys = tuple(request.headers.get(f"APCA-API-{name}") for name in ("KEY-ID", "SECRET-KEY"))
        if keys != (self.key, self.secret):
            return _page(401, {"code": 40110000, "message": "request is not authorized"})
        if self.rest_broken:
            return _page(400, {"message": "broken as told"})
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = self._rows(url.path, asked)
        if found is None:
            return _page(404, {"message": "endpoint not found."})
        name, rows = found
        first, most = int(asked.get("page_token", "0")), min(PAGE, int(asked.get("limit", "1000")))
        table: dict[str, Any] = {}
        for symbol, row in rows[first : first + most]:
            if name == "snapshots":
                table[symbol] = row
            else:
                shown = {key: value for key, value in row.items() if key != "#ts"}
                table.setdefault(symbol, []).append(shown)
        more = str(first + most) if first + most < len(rows) else None
        return _page(200, {name: table, "next_page_token": more})

    def _rows(self, path: str, asked: dict[str, str]) -> tuple[str, list[tuple[str, dict[str, Any]]]] | None:
        chain = path.removeprefix("/v1beta1/options/snapshots/")
        if chain != path:
            return "snapshots", [(contract, {}) for contract in self.contracts.get(chain, [])]
        tables = {"/v2/stocks/trades": self.trades, "/v2/stocks/quotes": self.quotes}
        table = {**tables, "/v1beta1/options/trades": self.trades}.get(path)
        if table is None:
            return None
        low, high = _ns(asked["start"]), _ns(asked["end"]) if "end" in asked else 2**63
        # As at the vendor, the end is inclusive.
        rows = [
            (symbol, row)
            for symbol in sorted(asked["symbols"].split(","))
            for row in table.get(symbol, [])
            if low <= row["#ts"] <= high
        ]
        return path.rpartition("/")[2], rows


def _option(symbol: str) -> bool:
    return re.fullmatch(r".*\d{6}[CP]\d{8}", symbol) is not None


def _rfc3339(ns: int) -> str:
    """The vendor's times: nanoseconds, without zeros at the end."""
    text = datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + f".{ns % 10**9:09d}".rstrip("0").rstrip(".") + "Z"


def _ns(text: str) -> int:
    instant = datetime.fromisoformat(text)
    return int(instant.replace(microsecond=0).timestamp()) * 10**9 + instant.microsecond * 1000


async def _tell(connection: ServerConnection, **message: Any) -> None:
    await connection.send(msgpack.packb([message]))


def _page(status: int, body: dict[str, Any]) -> Response:
    data = json.dumps(body).encode()
    headers = Headers(
        {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    )
    return Response(status, HTTPStatus(status).phrase, headers, data)


def main() -> None:
    """Serve, and do what standard input says until it ends."""
    with AlpacaServer(*sys.argv[1:3]) as server:
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
