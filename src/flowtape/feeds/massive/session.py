"""Massive's websocket and REST pages, by the vendor's own client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlparse

import msgspec
import polars as pl

from flowtape.feeds import websocket
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import Limits
from flowtape.feeds.massive.rows import Contract, Quote, Server, Trade, fetched_quotes, fetched_trades
from flowtape.feeds.rest import Page, Rest, Tickers
from flowtape.feeds.rows import Row, rows_of
from flowtape.feeds.websocket import Socket

DELAYED = "REST pages that the vendor delays for this plan"


class Body(msgspec.Struct):
    """A page of REST, with the address of the next."""

    results: msgspec.Raw = msgspec.Raw(b"[]")
    next_url: str | None = None
    status: str = ""


class MassiveStream:
    """The vendor's websocket client, a `websocket.VendorWebsocket`."""

    def __init__(self, server: Server, account: Account, topics: Sequence[str], limits: Limits) -> None:
        from massive import WebSocketClient  # type: ignore[import-untyped]

        self._account, self._limits = account, limits
        self._client = WebSocketClient(
            api_key=account.keys[0], feed=server.url, market=server.market, raw=True, secure=server.secure,
            subscriptions=list(topics), max_reconnects=0, custom_json=self,
        )  # fmt: skip

    @property
    def line(self) -> Any:
        """Return the open websocket."""
        return self._client.websocket

    async def run(self, socket: Socket) -> None:
        """Connect, authenticate, subscribe, and pass each frame to `socket.receive`."""
        from massive.exceptions import AuthError  # type: ignore[import-untyped]

        self._admitted = socket.admitted
        try:
            await self._client.connect(socket.receive, **websocket.settings(self._limits))
        except AuthError as error:
            raise self._account.refused(error) from None

    async def close(self) -> None:
        """Close the websocket, if there is one."""
        if self._client.websocket is not None:
            await self._client.close()

    def loads(self, data: str | bytes) -> Any:
        """Decode the answers before the stream, for the client. A refusal raises an error with its message."""
        answers = msgspec.json.decode(data)
        for answer in answers:
            if answer["status"] not in ("connected", "auth_success", "auth_failed"):
                raise self._account.failed(f"{answer['status']}: {answer.get('message', '')}")
            if answer["status"] == "auth_success":
                self._admitted()
        return answers

    def dumps(self, message: Any) -> str:
        """Encode a request, for the client."""
        return msgspec.json.encode(message).decode()


class MassiveRest(Rest):
    """The vendor's REST client, with one ticker a request."""

    def __init__(self, server: Server, account: Account, outlet: Outlet, limits: Limits) -> None:
        from massive import RESTClient

        super().__init__(account, outlet, limits)
        self._client = RESTClient(
            api_key=account.keys[0], base=server.rest, read_timeout=limits.read, num_pools=1,
            maxsize=limits.fetchers, connection_pool_kw={"retries": self.patience()},
        )  # fmt: skip

    def close(self) -> None:
        """Close the client."""
        self._client.client.clear()

    def contracts(self, underlying: str) -> list[str]:
        """Return the tickers of an underlying's contracts, the next to expire first."""
        asked = {"underlying_ticker": underlying, "limit": 1000, "sort": "expiration_date", "order": "asc"}
        pages = self.pages("contracts", partial(self._page, self._client.list_options_contracts, asked))
        return [row.ticker for page in pages for row in self._rows(Contract, page)]

    def trades(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Yield trades as source rows, one frame a page."""
        for page in self._window(self._client.list_trades, tickers[0], start, end):
            yield fetched_trades(tickers[0], self._rows(Trade, page))

    def quotes(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Yield quotes as source rows, one frame a page."""
        for page in self._window(self._client.list_quotes, tickers[0], start, end):
            yield fetched_quotes(tickers[0], self._rows(Quote, page))

    def first(self, tickers: Tickers, start: int) -> int | None:
        """Return the time (ns) of the first trade or quote from `start` on."""
        asked = {
            "ticker": tickers[0],
            "timestamp_gte": start,
            "limit": 1,
            "order": "asc",
            "sort": "timestamp",
        }
        trades = self._rows(Trade, self._page(self._client.list_trades, asked, None).rows)
        quotes = self._rows(Quote, self._page(self._client.list_quotes, asked, None).rows)
        times = [row.sip_timestamp for row in trades] + [row.sip_timestamp for row in quotes]
        return min((ts for ts in times if ts is not None), default=None)

    def _window(self, get: Callable[..., Any], ticker: str, start: int, end: int | None) -> Iterator[bytes]:
        asked = {"ticker": ticker, "timestamp_gte": start, "timestamp_lt": end, "limit": 50_000}
        asked |= {"order": "asc", "sort": "timestamp"}
        return self.pages(ticker, partial(self._page, get, asked))

    def _rows(self, kind: type[Row], page: bytes) -> list[Row]:
        return rows_of(kind, page or b"[]", msgspec.json.decode, self.outlet)

    def _page(self, get: Callable[..., Any], asked: dict[str, Any], following: str | None) -> Page:
        """Return the first page, or the page at an address."""
        from massive.exceptions import BadResponse
        from urllib3.exceptions import HTTPError

        self.check()
        if following is not None:
            query = parse_qsl(urlparse(following).query)
            # The key is sent in a header; in an address, logs would show it.
            params = {name: value for name, value in query if name.lower() != "apikey"}
            asked = {name: asked[name] for name in ("ticker",) if name in asked} | {"params": params}
        try:
            body = msgspec.json.decode(get(**asked, raw=True).data, type=Body)
        except (BadResponse, HTTPError, msgspec.DecodeError, UnicodeDecodeError) as error:
            text = self.account.clean(error)[:300]
            if "API Key" in text or "NOT_AUTHORIZED" in text:
                raise self.account.refused(text) from None
            raise self.failed(text) from None
        results = bytes(body.results)
        if body.status not in ("OK", "DELAYED", "") or results[:1] != b"[":
            raise self.failed(f"status {body.status[:60]!r}, not a page of rows")
        if body.status == "DELAYED":
            self.outlet.count(DELAYED)
        return Page(b"" if results == b"[]" else results, body.next_url)
