"""A stand-in for Alpaca: the streams (`/v1beta1/opra`, `/v2/sip`, …) in msgpack, and the REST pages."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgpack
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from standins.base import PAGE, WebsocketServer, main, page

STREAMS = ("/v1beta1/opra", "/v1beta1/indicative", "/v2/sip", "/v2/iex")
ERRORS = {
    400: "invalid syntax", 401: "not authenticated", 402: "auth failed", 403: "already authenticated",
    404: "auth timeout", 405: "symbol limit exceeded", 406: "connection limit exceeded", 407: "slow client",
    409: "insufficient subscription", 413: "star subscription is not allowed for option quotes",
    500: "internal error",
}  # fmt: skip
CHANNELS = {"t": "trades", "q": "quotes", "x": "trades", "c": "trades"}
"""The subscription a message belongs to: who takes trades is told of cancels and corrections."""


class AlpacaServer(WebsocketServer):
    """Times are ns.

    Further faults: `error(code)`; `refuse`, the code of an error instead of authentication; `symbol_limit` of quotes.
    """

    def __init__(self, key: str = "right-key", secret: str = "right-secret", port: int = 0) -> None:
        super().__init__(port)
        self.key, self.secret, self.symbol_limit = key, secret, 1000
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        """Return the base address of the streams."""
        return f"ws://127.0.0.1:{self.port}"

    def trade(
        self, symbol: str, ts: int, price: float, size: float = 1, *, conditions: str | list[str] | None = None,
        exchange: str = "C", id: int | None = None, live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a trade, with an id if it is a stock's. Without `live` it is only in REST."""
        row: dict[str, Any] = {"x": exchange, "p": price, "s": size}
        if _option(symbol):
            row["c"] = conditions or "I"
        else:
            row |= {"i": self.number(id), "c": conditions or [" "], "z": "B"}
        self._keep(self.trades, symbol, ts, row)
        self._tell({"T": "t", "S": symbol, "t": ts, **row}, live=live)

    def quote(
        self, symbol: str, ts: int, bid: float, ask: float, *, bid_size: int = 10, ask_size: int = 20,
        live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a quote. REST has those of stocks. Without `live` it is only in REST."""
        row: dict[str, Any] = {"bx": "C", "bp": bid, "bs": bid_size, "ax": "X", "ap": ask, "as": ask_size}
        row |= {"c": "A"} if _option(symbol) else {"c": ["R"], "z": "B"}
        if not _option(symbol):
            self._keep(self.quotes, symbol, ts, row)
        self._tell({"T": "q", "S": symbol, "t": ts, **row}, live=live)

    def cancel(self, symbol: str, id: int, ts: int, *, live: bool = True) -> None:
        """Cancel a stock's trade at a later time."""
        row = self._struck(symbol, id, "canceled")
        event = {"i": id, "x": row["x"], "p": row["p"], "s": row["s"], "a": "C", "z": "B"}
        self._tell({"T": "x", "S": symbol, "t": ts, **event}, live=live)

    def correct(
        self, symbol: str, id: int, ts: int, price: float, size: float, *, new_id: int, live: bool = True
    ) -> None:
        """Correct a stock's trade at a later time."""
        row = self._struck(symbol, id, "incorrect")
        right = {"x": row["x"], "p": price, "s": size, "i": new_id, "c": row["c"], "z": "B", "u": "corrected"}
        self._keep(self.trades, symbol, ts, right)
        event = {"x": row["x"], "oi": id, "op": row["p"], "os": row["s"], "oc": row["c"]}
        event |= {"ci": new_id, "cp": price, "cs": size, "cc": row["c"], "z": "B"}
        self._tell({"T": "c", "S": symbol, "t": ts, **event}, live=live)

    def error(self, code: int) -> None:
        """Send an error to all connections."""
        self.say(msgpack.packb([{"T": "error", "code": code, "msg": ERRORS[code]}]))

    def _struck(self, symbol: str, id: int, why: str) -> dict[str, Any]:
        row = next(row for row in self.trades[symbol] if row["i"] == id)
        row["u"] = why
        return row

    def _keep(
        self, table: dict[str, list[dict[str, Any]]], symbol: str, ts: int, row: dict[str, Any]
    ) -> None:
        self.keep(table, symbol, {"#ts": ts, "t": _rfc3339(ts), **row}, "#ts")

    def _tell(self, event: dict[str, Any], *, live: bool) -> None:
        if live:
            self.publish(event | {"t": msgpack.Timestamp.from_unix_nano(event["t"])})

    def packed(self, events: list[dict[str, Any]]) -> bytes:
        """Return a frame of events."""
        return msgpack.packb(events)

    def wanted(self, event: dict[str, Any]) -> set[str]:
        """Return the topics that an event belongs to."""
        return {f"{CHANNELS[event['T']]} {name}" for name in (event["S"], "*")}

    async def converse(self, connection: ServerConnection) -> None:
        """Authenticate a connection and accept its subscriptions."""
        await _say_to(connection, T="success", msg="connected")
        asked = msgpack.unpackb(await connection.recv())
        right = {"action": "auth", "key": self.key, "secret": self.secret}
        refused = self.refuse or (402 if asked != right else None)
        if refused is not None:
            await _say_to(connection, T="error", code=refused, msg=ERRORS[refused])
            return
        await _say_to(connection, T="success", msg="authenticated")
        async for message in connection:
            await self._subscribe(connection, msgpack.unpackb(message))

    async def _subscribe(self, connection: ServerConnection, asked: dict[str, Any]) -> None:
        options = connection.request.path.startswith("/v1beta1/")
        wrong = None
        if asked.get("action") != "subscribe":
            wrong = 400
        elif options and "*" in asked.get("quotes", ()):
            wrong = 413
        elif len(asked.get("quotes", ())) > self.symbol_limit:
            wrong = 405
        if wrong is not None:
            await _say_to(connection, T="error", code=wrong, msg=ERRORS[wrong])
            return
        told = {channel: sorted(asked.get(channel, ())) for channel in ("trades", "quotes")}
        self.subscribe(connection, (f"{channel} {name}" for channel, names in told.items() for name in names))
        if not options:
            told |= {"bars": [], "corrections": told["trades"], "cancelErrors": told["trades"]}
        await _say_to(connection, T="subscription", **told)
        self.started.release()

    def upgrade(self, path: str) -> Response | None:
        """Return an HTTP answer for an address without a stream; None to accept the connection."""
        self.paths.append(path)
        return None if path in STREAMS else page(404, {"message": "endpoint not found."})

    def answer(self, path: str, asked: dict[str, str], request: Request) -> Response:
        """Return a page of REST."""
        keys = tuple(request.headers.get(f"APCA-API-{name}") for name in ("KEY-ID", "SECRET-KEY"))
        if keys != (self.key, self.secret):
            return page(401, {"code": 40110000, "message": "request is not authorized"})
        if fault := self.fault():
            return fault
        found = self._rows(path, asked)
        if found is None:
            return page(404, {"message": "endpoint not found."})
        name, rows = found
        first, most = int(asked.get("page_token", "0")), min(PAGE, int(asked.get("limit", "1000")))
        table: dict[str, Any] = {}
        for symbol, row in rows[first : first + most]:
            if name == "snapshots":
                table[symbol] = row
            else:
                shown = {key: value for key, value in row.items() if key != "#ts"}
                table.setdefault(symbol, []).append(shown)
        more = str(0 if self.rest_stuck else first + most) if first + most < len(rows) else None
        return page(200, {name: table, "next_page_token": more})

    def _rows(self, path: str, asked: dict[str, str]) -> tuple[str, list[tuple[str, dict[str, Any]]]] | None:
        chain = path.removeprefix("/v1beta1/options/snapshots/")
        if chain != path:
            return "snapshots", [(contract, {}) for contract in self.contracts.get(chain, [])]
        tables = {"/v2/stocks/trades": self.trades, "/v2/stocks/quotes": self.quotes}
        table = {**tables, "/v1beta1/options/trades": self.trades}.get(path)
        if table is None:
            return None
        low, high = _ns(asked["start"]), _ns(asked["end"]) if "end" in asked else 2**63
        # The end is inclusive, as at the vendor.
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
    """Return a time in the vendor's format: nanoseconds without trailing zeros."""
    text = datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + f".{ns % 10**9:09d}".rstrip("0").rstrip(".") + "Z"


def _ns(text: str) -> int:
    instant = datetime.fromisoformat(text)
    return int(instant.replace(microsecond=0).timestamp()) * 10**9 + instant.microsecond * 1000


async def _say_to(connection: ServerConnection, **message: Any) -> None:
    await connection.send(msgpack.packb([message]))


if __name__ == "__main__":
    main(AlpacaServer(*sys.argv[1:3]))
