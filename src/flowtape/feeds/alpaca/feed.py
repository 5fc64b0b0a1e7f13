"""Alpaca live: `alpaca:options?symbols=SPY` and `alpaca:stocks?symbols=SPY,QQQ`, by the vendor's own client.

Trades and quotes arrive by stream (msgpack) and are joined here. The gap since the cursor is fetched by REST. `feed` is
the vendor's feed: `opra` (default) or `indicative`, `sip` (default) or `iex`; each is a separate source.

- Quotes of options cannot be subscribed by wildcard, so an underlying's contracts are listed from its chain. The vendor
  sends quotes for the first thousand (`indicative`: 200) to expire.
- REST has no past quotes of options. Trades in a gap are joined with the quotes before the gap, and counted.
- Neither the stream nor REST numbers an option's trades. `copy` numbers a trade among those equal in price, size,
  condition, venue and nanosecond. If the vendor repeats a message, it counts as another trade.
- A stock's trades have ids, and a cancel names one: see `rows.Trades`. A corrected trade has the time of its
  correction, as in REST. REST reports a cancel with the trade it removed, so of the cancels sent during an outage,
  only those of trades since the cursor are known.
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
from flowtape.feeds.alpaca.session import REFUSED, AlpacaRest, AlpacaStream, Wanted
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
"""The number of contracts whose quotes the vendor sends on a connection."""
WINDOW = {"options": 3600 * 10**9, "stocks": 300 * 10**9}
"""The event time (ns) of one REST window."""
TOGETHER = {"options": 100, "stocks": 1}
"""The number of symbols in a request. The vendor's limit applies to options; stocks have far more rows each."""
READ = 30.0
"""The time limit in seconds for the first byte of a REST answer."""
WITHOUT_QUOTES = "option prints of a gap, of which the vendor keeps no quotes"


class AlpacaConnection:
    """Alpaca's messages and pages, a `live.Connection`."""

    def __init__(self, wanted: Wanted, account: Account, outlet: Outlet, limits: Limits) -> None:
        self.rest = AlpacaRest(wanted, account, outlet, limits)
        self._wanted, self._account, self._outlet, self._limits = wanted, account, outlet, limits
        self._stocks = wanted.market == "stocks"
        # Stream and REST share one object, so that a cancel finds a trade from REST.
        self._trades = Trades(outlet, stocks=self._stocks)

    def websocket(self, traded: Sequence[str], quoted: Sequence[str]) -> AlpacaStream:
        """Return a stream client for the trades and quotes of tickers."""
        return AlpacaStream(self._wanted, self._account, traded, quoted, self._limits)

    def topics(self, traded: Sequence[str], quoted: Sequence[str]) -> list[str]:
        """Return the names of the subscribed topics."""
        return [*(f"trades of {name}" for name in traded), *(f"quotes of {name}" for name in quoted)]

    def confirmed(self, event: Event) -> Iterable[str]:
        """Return the topics that a message confirms."""
        return self.topics(event.trades, event.quotes)

    def events(self, frames: Sequence[Frame]) -> list[Event]:
        """Return the messages in frames. Raises `UsageError` for a refusal, `FeedError` for other errors."""
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
        """Return the trades, quotes and cancels among messages."""
        quotes = quotes_of(live_quotes(events), self._outlet, stocks=self._stocks)
        trades, cancels = self._trades.of(live_trades(events), live_struck(events))
        return Rows(trades, quotes, cancels)

    def fetched(self, trades: pl.DataFrame, quotes: pl.DataFrame) -> Rows:
        """Return the trades, quotes and cancels among source rows of REST."""
        if not self._stocks and trades.height:
            self._outlet.count(WITHOUT_QUOTES, trades.height)
        # A window has whole nanoseconds. Options from the stream are numbered separately.
        numbering = self._trades if self._stocks else Trades(self._outlet, stocks=False)
        found, cancels = numbering.of(trades)
        return Rows(found, quotes_of(quotes, self._outlet, stocks=self._stocks), cancels)


def alpaca(spec: Spec, limits: Limits = DEFAULTS) -> LiveFeed[Event]:
    """Return the feed of a spec: `symbols`, `feed`, and `url`, `rest` for another server. Raises `UsageError`."""
    spec.refuse_others("symbols", "feed", "url", "rest")
    market, options = spec.target, spec.options
    if market not in FEEDS:
        raise UsageError(f"--feed {spec.text}: {market!r} after alpaca: is not one of {', '.join(FEEDS)}")
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
            raise UsageError(
                f"--feed {spec.text}: {name} is not a symbol; Alpaca takes no wildcard for quotes"
            )
    url, rest = (options.get(name, known).rstrip("/") for name, known in (("url", URL), ("rest", REST)))
    if not url.startswith(("wss://", "ws://")) or not rest.startswith(("https://", "http://")):
        raise UsageError(f"--feed {spec.text}: url is wss://… or ws://…, rest is https://… or http://…")
    vendor = Vendor(
        "alpaca", "Alpaca", market, f"alpaca:{feed}", f"alpaca:{market}:{feed}", CONTRACT, KEYS, "alpaca.data.live",
        partial(AlpacaConnection, Wanted(market, feed, url, rest)), TOGETHER[market],
    )  # fmt: skip
    own = limits.filled(window=WINDOW[market], quoted=QUOTED_CONTRACTS.get(feed), read=READ)
    return LiveFeed(vendor, wanted, own)
