"""A stand-in for Massive: the websocket of a market (`/options`, `/stocks`) and the REST pages."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from standins.base import PAGE, WebsocketServer, main, page


class MassiveServer(WebsocketServer):
    """Times of `trade` and `quote` are ns; the websocket sends them in ms, REST in ns.

    Further faults: `refuse`, a status instead of authentication; `key_in_pages`: the address of the next page contains
    the key.
    """

    def __init__(self, key: str = "right-key", port: int = 0) -> None:
        super().__init__(port)
        self.key, self.numbered, self.key_in_pages = key, False, False

    @property
    def url(self) -> str:
        """Return the host and port of the websocket."""
        return f"127.0.0.1:{self.port}"

    def trade(
        self, ticker: str, ts: int, price: float, size: float = 1, *, conditions: tuple[int, ...] = (209,),
        exchange: int = 312, correction: int | None = None, seq: int | None = None, id: str | None = None,
        live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a trade. Without `live` it is only in REST."""
        seq = self.number(seq)
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
        self._both(self.trades, ticker, row, event, live=live)

    def quote(
        self, ticker: str, ts: int, bid: float, ask: float, *, bid_size: int = 10, ask_size: int = 20,
        seq: int | None = None, live: bool = True,
    ) -> None:  # fmt: skip
        """Publish a quote. Without `live` it is only in REST."""
        seq = self.number(seq)
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
        self._both(self.quotes, ticker, row, event, live=live)

    def status(self, status: str, message: str) -> None:
        """Send a status message to all connections."""
        self.say(json.dumps([{"ev": "status", "status": status, "message": message}]))

    def _both(
        self, table: dict[str, list[dict[str, Any]]], ticker: str, row: dict[str, Any], event: dict[str, Any],
        *, live: bool,
    ) -> None:  # fmt: skip
        self.keep(table, ticker, row, "sip_timestamp")
        if live:
            self.publish(event)

    def packed(self, events: list[dict[str, Any]]) -> str:
        """Return a frame of events."""
        return json.dumps(events)

    def wanted(self, event: dict[str, Any]) -> set[str]:
        """Return the topics that an event belongs to."""
        return {f"{event['ev']}.{event['sym']}", f"{event['ev']}.*"}

    async def converse(self, connection: ServerConnection) -> None:
        """Authenticate a connection and accept its subscriptions."""
        await self._answer(connection, "connected", "Connected Successfully")
        asked = json.loads(await connection.recv())
        if self.refuse is not None:
            await self._answer(connection, self.refuse, "refused as told")
            return
        if asked != {"action": "auth", "params": self.key}:
            await self._answer(connection, "auth_failed", "authentication failed")
            return
        await self._answer(connection, "auth_success", "authenticated")
        async for message in connection:
            topics = json.loads(message)["params"].split(",")
            self.subscribe(connection, topics)
            for topic in topics:
                await self._answer(connection, "success", f"subscribed to: {topic}")
            self.started.release()

    async def _answer(self, connection: ServerConnection, status: str, message: str) -> None:
        await connection.send(json.dumps([{"ev": "status", "status": status, "message": message}]))

    def answer(self, path: str, asked: dict[str, str], request: Request) -> Response:
        """Return a page of REST."""
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return page(401, {"status": "ERROR", "error": "Unknown API Key"})
        if fault := self.fault():
            return fault
        rows = self._rows(path, asked)
        if rows is None:
            return page(404, {"status": "NOT_FOUND", "error": path})
        first = int(asked.get("cursor", "0"))
        most = min(PAGE, int(asked.get("limit", "10")))
        body: dict[str, Any] = {"status": "OK", "request_id": "1", "results": rows[first : first + most]}
        if first + most < len(rows):
            following = {"cursor": 0 if self.rest_stuck else first + most}
            more = {"apiKey": self.key} if self.key_in_pages else {}
            body["next_url"] = f"{self.rest_url}{path}?{urlencode(asked | following | more)}"
        return page(200, body)

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


if __name__ == "__main__":
    main(MassiveServer(*sys.argv[1:2]))
