"""Alpaca live: `alpaca:options?symbols=SPY` and `alpaca:stocks?symbols=SPY,QQQ`, by the vendor's own client.

Trades and quotes come by stream (msgpack) and are joined here; the gap since the cursor comes by REST. `feed` says
which of the vendor's feeds: `opra` (default) or `indicative`, `sip` (default) or `iex`; each is a source of its own.

- Quotes of options cannot be subscribed by wildcard, so an underlying's contracts are listed from its chain; quotes
  are given for the first thousand (`indicative`: 200) to expire.
- REST has no past quotes of options: what traded in a gap is judged by the quotes that stood before it, and counted.
- Neither the stream nor REST numbers an option's trades: `copy` numbers a trade among those alike in price, size,
  condition, venue and nanosecond. Should the vendor repeat a message, it is taken for another trade.
- A stock's trades have ids, and a cancel names one: see `rows.Trades`. A corrected trade stands at the time of
  its correction, as in REST. REST tells of a cancel by the trade it struck, so of cancels said while the line was
  down only those of trades since the cursor are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
import polars as pl

from flowtape.errors import UsageError
from flowtape.feeds.alpaca.rows import (
    CONTRACT,
    Event,
    Trades,
    live_quotes,
    live_struck,
    live_trades,
    quotes_of,
)
from flowtape.feeds.alpaca.session import REFUSED, AlpacaRest, AlpacaWire, Wanted
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import DEFAULTS, Limits
from flowtape.feeds.live import LiveFeed, Vendor
from flowtape.feeds.rows import NOT_UNDERSTOOD, Rows, rows_of
from flowtape.feeds.specs import Spec
from flowtape.feeds.websocket import Frame
from flowtape.readers.tickers import symbol_of

FEEDS = {"options": ("opra", "indicative"), "stocks": ("sip", "iex")}
"""The vendor's feeds of each market, the default first."""
URL, REST = "wss://stream.data.alpaca.markets", "https://data.alpaca.markets"
KEYS = ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY")
QUOTED_CONTRACTS = {"opra": 1000, "indicative": 200}
"""Contracts whose quotes the vendor gives a connection."""
WINDOW = {"options": 3600 * 10**9, "stocks": 300 * 10**9}
"""Event time (ns) fetched together."""
TOGETHER = {"options": 100, "stocks": 1}
"""Symbols of a request: for options the most there may be, stocks have far more rows each."""
READ = 30.0
"""Seconds in which REST must begin to answer."""
WITHOUT_QUOTES = "option prints of a gap, of which the vendor keeps no quotes"


class AlpacaConnection:
    """Alpaca's messages and pages. See `live.Connection`."""

    def __init__(self, wanted: Wanted, account: Account, outlet: Outlet, limits: Limits) -> None:
        self.rest = AlpacaRest(wanted, account, outlet, limits)
        self._wanted, self._account, self._outlet, self._limits = wanted, account, outlet, limits
        self._stocks = wanted.market == "stocks"
        # One for stream and REST, so that a cancel finds the trade that REST told of.
        self._trades = Trades(outlet, stocks=self._stocks)

    def wire(self, traded: Sequence[str], quoted: Sequence[str]) -> AlpacaWire:
        """See `live.Connection.wire`."""
        return AlpacaWire(self._wanted, self._account, traded, quoted, self._limits)

    def topics(self, traded: Sequence[str], quoted: Sequence[str]) -> list[str]:
        """See `live.Connection.topics`."""
        return [*(f"trades of {name}" for name in traded), *(f"quotes of {name}" for name in quoted)]

    def confirmed(self, event: Event) -> Iterable[str]:
        """See `live.Connection.confirmed`."""
        return self.topics(event.trades, event.quotes)

    def events(self, frames: Sequence[Frame]) -> list[Event]:
        """See `live.Connection.events`."""
        read, outlet = msgspec.msgpack.decode, self._outlet
        data = (frame.encode() if isinstance(frame, str) else frame for frame in frames)
        events = [event for frame in data for event in rows_of(Event, frame, read, outlet)]
        for event in events:
            if event.kind == "error" and event.code in REFUSED:
                raise self._account.refused(f"{event.code}: {event.msg}")
            if event.kind == "error":
                raise self._account.failed(f"{event.code}: {event.msg}")
        known = ("t", "q", "x", "c", "success", "subscription")
        if strange := sum(event.kind not in known for event in events):
            outlet.count(NOT_UNDERSTOOD, strange)
        return events

    def rows(self, events: Sequence[Event]) -> Rows:
        """See `live.Connection.rows`."""
        quotes = quotes_of(live_quotes(events), self._outlet, stocks=self._stocks)
        trades, cancels = self._trades.of(live_trades(events), live_struck(events))
        return Rows(trades, quotes, cancels)

    def fetched(self, trades: pl.DataFrame, quotes: pl.DataFrame) -> Rows:
        """See `live.Connection.fetched`."""
        if not self._stocks and trades.height:
            self._outlet.count(WITHOUT_QUOTES, trades.height)
        # A window has whole nanoseconds, and what the stream says of options is numbered by itself.
        numbering = self._trades if self._stocks else Trades(self._outlet, stocks=False)
        found, cancels = numbering.of(trades)
        return Rows(found, quotes_of(quotes, self._outlet, stocks=self._stocks), cancels)


def alpaca(spec: Spec, limits: Limits = DEFAULTS) -> LiveFeed[Event]:
    """The feed of a spec: `symbols`, `feed`, and `url`, `rest` for another server. Raises `UsageError`."""
    spec.refuse_others("symbols", "feed", "url", "rest")
    market, options = spec.target, spec.options
    if market not in FEEDS:
        raise UsageError(f"--feed {spec.text}: {market!r} after alpaca: is none of {', '.join(FEEDS)}")
    feed = options.get("feed", FEEDS[market][0])
    if feed not in FEEDS[market]:
        raise UsageError(f"--feed {spec.text}: feed is {feed!r}, none of {', '.join(FEEDS[market])}")
    wanted = spec.names("symbols")
    if not wanted:
        raise UsageError(f"--feed {spec.text}: symbols names what to take, as in symbols=SPY,QQQ")
    for name in wanted:
        if market == "stocks" and symbol_of(name) is None:
            raise UsageError(f"--feed {spec.text}: {name} is not a stock's ticker")
        if not re.fullmatch(r"[A-Z0-9./]+", name):
            raise UsageError(f"--feed {spec.text}: {name} is no symbol; Alpaca takes no wildcard for quotes")
    url, rest = (options.get(name, known).rstrip("/") for name, known in (("url", URL), ("rest", REST)))
    if not url.startswith(("wss://", "ws://")) or not rest.startswith(("https://", "http://")):
        raise UsageError(f"--feed {spec.text}: url is wss://… or ws://…, rest is https://… or http://…")
    vendor = Vendor(
        "alpaca", "Alpaca", market, f"alpaca:{feed}", f"alpaca:{market}:{feed}", CONTRACT, KEYS, "alpaca.data.live",
        partial(AlpacaConnection, Wanted(market, feed, url, rest)), TOGETHER[market],
    )  # fmt: skip
    own = limits.filled(window=WINDOW[market], quoted=QUOTED_CONTRACTS.get(feed), read=READ)
    return LiveFeed(vendor, wanted, own)
