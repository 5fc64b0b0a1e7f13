"""Alpaca's stream and REST pages, by the vendor's own client, alpaca-py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from flowtape.feeds import websocket
from flowtape.feeds.alpaca.rows import CONTRACT, fetched_quotes, fetched_trades
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import Limits
from flowtape.feeds.rest import Page, Rest, Tickers
from flowtape.feeds.websocket import Socket

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

REFUSED = {
    401: "not authenticated", 402: "auth failed", 403: "already authenticated", 405: "symbol limit exceeded",
    408: "v2 not enabled", 409: "insufficient subscription", 411: "insufficient scope",
}  # fmt: skip
"""The vendor's errors after which a retry cannot succeed."""
_PAGE = 10_000


class Wanted(NamedTuple):
    """The wanted market, the vendor's feed of it, and the base addresses of stream and REST."""

    market: str
    feed: str
    url: str
    rest: str


class AlpacaStream:
    """The vendor's stream client, a `websocket.VendorWebsocket`.

    It connects, authenticates and subscribes by the client. The client's own loop is not used: it reconnects by itself,
    reports no errors, and silently drops the rest of a frame after a bad message.
    """

    def __init__(
        self, wanted: Wanted, account: Account, traded: Sequence[str], quoted: Sequence[str], limits: Limits
    ) -> None:
        from alpaca.data.live import OptionDataStream, StockDataStream

        options = wanted.market == "options"
        client: Any = OptionDataStream if options else StockDataStream
        url = f"{wanted.url}/{'v1beta1' if options else 'v2'}/{wanted.feed}"
        settings = websocket.settings(limits)
        self._account = account
        self._client = client(*account.keys, raw_data=True, websocket_params=settings, url_override=url)
        self._client.subscribe_trades(_untold, *traded)
        self._client.subscribe_quotes(_untold, *quoted)

    @property
    def line(self) -> Any:
        """Return the open websocket."""
        return self._client._ws

    async def run(self, socket: Socket) -> None:
        """Connect, authenticate, subscribe, and pass each frame to `socket.receive`."""
        try:
            await self._client._start_ws()
        except ValueError as error:
            # Here the client's error has the vendor's message without its code.
            if str(error) in REFUSED.values():
                raise self._account.refused(error) from None
            raise self._account.failed(error) from None
        socket.admitted()
        await self._client._send_subscribe_msg()
        while True:
            await socket.receive(await self._client._ws.recv())

    async def close(self) -> None:
        """Close the websocket, if there is one."""
        await self._client.close()


async def _untold(_: object) -> None:
    """Do nothing. The client subscribes only to topics with a handler; the frames are read without it."""


class AlpacaRest(Rest):
    """The vendor's REST client for a market."""

    def __init__(self, wanted: Wanted, account: Account, outlet: Outlet, limits: Limits) -> None:
        from alpaca.data.historical import OptionHistoricalDataClient, StockHistoricalDataClient

        super().__init__(account, outlet, limits)
        self._wanted, self._options = wanted, wanted.market == "options"
        client: Any = OptionHistoricalDataClient if self._options else StockHistoricalDataClient
        self._client = client(*account.keys, raw_data=True, url_override=wanted.rest)
        for scheme in ("https://", "http://"):
            self._client._session.mount(scheme, self._adapter())

    def close(self) -> None:
        """Close the client."""
        self._client._session.close()

    def contracts(self, underlying: str) -> list[str]:
        """Return the tickers of an underlying's contracts, the next to expire first."""
        asked = {"feed": self._wanted.feed, "limit": 1000}
        ask = partial(self._page, f"/options/snapshots/{underlying}", "snapshots", asked)
        found = [name for page in self.pages("contracts", ask) for name in page]
        return sorted(filter(re.compile(CONTRACT).match, found), key=lambda name: (name[-15:], name))

    def trades(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Yield trades as source rows, one frame a page."""
        return self._window("trades", fetched_trades, tickers, start, end)

    def quotes(self, tickers: Tickers, start: int, end: int | None) -> Iterator[pl.DataFrame]:
        """Yield quotes as source rows, one frame a page. The vendor has no past quotes of options."""
        if self._options:
            return iter([fetched_quotes({}, self.outlet)])
        return self._window("quotes", fetched_quotes, tickers, start, end)

    def first(self, tickers: Tickers, start: int) -> int | None:
        """Return the time (ns) of the first trade or quote. Pages of several symbols are not in order of time."""
        if self._options:
            raise NotImplementedError
        times = []
        for name, frame_of in (("trades", fetched_trades), ("quotes", fetched_quotes)):
            page = self._page(f"/stocks/{name}", name, self._asked(tickers, start, None, 1), None)
            times.append(frame_of(page.rows, self.outlet)["ts"].min())
        return min((ts for ts in times if ts is not None), default=None)  # type: ignore[return-value]

    def _window(
        self, name: str, frame_of: Callable[[Any, Outlet], pl.DataFrame], tickers: Tickers, start: int,
        end: int | None,
    ) -> Iterator[pl.DataFrame]:  # fmt: skip
        # The vendor's end is inclusive and its times are whole microseconds, so the rows are filtered again.
        within = pl.col("ts").ge(start) & pl.col("ts").lt(2**63 - 1 if end is None else end)
        within |= pl.col("ts").is_null()
        market = "options" if self._options else "stocks"
        ask = partial(self._page, f"/{market}/{name}", name, self._asked(tickers, start, end, _PAGE))
        for page in self.pages(f"{name} of {tickers[0]}", ask):
            yield frame_of(page, self.outlet).filter(within)

    def _asked(self, tickers: Tickers, start: int, end: int | None, limit: int) -> dict[str, Any]:
        asked = {"symbols": ",".join(tickers), "start": _instant(start), "limit": limit}
        if end is not None:
            asked["end"] = _instant(end)
        return asked if self._options else asked | {"feed": self._wanted.feed}

    def _page(self, path: str, name: str, asked: dict[str, Any], following: str | None) -> Page:
        from alpaca.common.exceptions import APIError
        from requests import RequestException

        try:
            answer = self._client.get(path, asked if following is None else asked | {"page_token": following})
            return Page(dict(answer[name] or {}), answer.get("next_page_token"))
        except APIError as error:
            text = self.account.clean(error)[:300]
            if error.status_code in (401, 403):
                raise self.account.refused(text) from None
            raise self.failed(f"{error.status_code}: {text}") from None
        except RequestException as error:
            raise self.failed(f"{type(error).__name__}: {error}") from None
        except (LookupError, ValueError, AttributeError, TypeError):
            raise self.failed(f"not a page of {name}") from None

    def _adapter(self) -> Any:
        """Return an HTTP adapter with a time limit. The client itself sets none and would wait forever."""
        from requests.adapters import HTTPAdapter

        rest = self

        class Adapter(HTTPAdapter):
            def send(self, request: PreparedRequest, *args: Any, **named: Any) -> Response:
                rest.check()
                return super().send(request, *args, **(named | {"timeout": rest.limits.read}))

        return Adapter(pool_maxsize=self.limits.fetchers, max_retries=self.patience())


def _instant(ns: int) -> str:
    return datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000).isoformat()
