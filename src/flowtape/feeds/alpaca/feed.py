"""Alpaca live: `alpaca:options?symbols=SPY` and `alpaca:stocks?symbols=SPY,QQQ`, by the vendor's own client.

Trades and quotes come by stream (msgpack) and are joined here; the gap since the cursor comes by REST. `feed` says
which of the vendor's feeds: `opra` (default) or `indicative`, `sip` (default) or `iex`; each is a source of its own.

- Quotes of options cannot be subscribed by wildcard, so an underlying's contracts are listed from its chain; quotes
  are given for the first thousand (`indicative`: 200) to expire.
- REST has no past quotes of options: what traded in a gap is judged by the quotes that stood before it, and counted.
- Neither the stream nor REST numbers an option's trades: `copy` numbers a trade among those alike in price, size,
  condition, venue and nanosecond. Should the vendor repeat a message, it is taken for another trade.
- A stock's trades have ids, and a cancel names one: see `alpaca_rows.Trades`. A corrected trade stands at the time of
  its correction, as in REST. REST tells of a cancel by the trade it struck, so of cancels said while the line was
  down only those of trades since the cursor are known.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.alpaca.rows import (
    CONTRACT,
    Event,
    Trades,
    events_of,
    live_quotes,
    live_struck,
    live_trades,
    quotes_of,
)
from flowtape.feeds.alpaca.session import (
    FETCHERS,
    OPEN_LIMIT,
    REFUSED,
    Rest,
    Socket,
    Wanted,
    keys_of_environment,
    need_client,
    refusal,
)
from flowtape.feeds.base import Delivery, Outlet
from flowtape.feeds.massive.rows import NOT_UNDERSTOOD
from flowtape.feeds.quote_join import LiveJoin
from flowtape.feeds.specs import Spec
from flowtape.model.prints import SCHEMA, underlying_of, underlyings
from flowtape.readers import common
from flowtape.readers.tickers import symbol_of

FEEDS = {"options": ("opra", "indicative"), "stocks": ("sip", "iex")}
"""The vendor's feeds of each market, the default first."""
URL, REST = "wss://stream.data.alpaca.markets", "https://data.alpaca.markets"
QUOTED_CONTRACTS = {"opra": 1000, "indicative": 200}
"""Contracts whose quotes the vendor gives a connection."""
WINDOW = {"options": 3600 * 10**9, "stocks": 300 * 10**9}
"""Event time (ns) fetched together; empty ones are doubled."""
TOGETHER = {"options": 100, "stocks": 1}
"""Symbols of a request: for options the most there may be, stocks have far more rows each."""
REST_LAG = 1.0
"""Seconds after which REST is taken to have what had happened when the stream was subscribed."""
STEP = 5 * 10**9
"""Event time (ns) of the steps in which a window is joined: well within the horizon of the join."""


class AlpacaFeed:
    """Options or stocks of Alpaca. The cursor is the event time (ns) from which to fetch again."""

    always_open = False
    ends = False

    def __init__(self, market: str, feed: str, wanted: tuple[str, ...], url: str, rest: str) -> None:
        """`wanted` are tickers or, for options, also underlyings; `url` and `rest` the bases of stream and REST."""
        self.market, self.feed, self.url, self.rest = market, feed, url, rest
        self.source = f"alpaca:{feed}"
        self.assets = frozenset({"stock" if market == "stocks" else "option"})
        self.symbols = tuple(sorted({self._symbol(name) for name in wanted}))
        self._wanted = wanted
        digest = hashlib.sha256(",".join(sorted(wanted)).encode()).hexdigest()[:8]
        more = f"+{len(wanted) - 1}-{digest}" if wanted[1:] else ""
        self.name = f"alpaca:{market}:{feed}:{wanted[0]}{more}"
        self._join = LiveJoin()
        self._told = (0, 0)

    def _symbol(self, name: str) -> str:
        if self.market == "stocks":
            return str(symbol_of(name))
        contract = re.match(CONTRACT, name)
        return underlying_of(contract[1] if contract else name)

    def restore(self, standing: pl.DataFrame) -> None:
        """See `live.Feed.restore`."""
        self._join.restore(standing)

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """See `live.Feed.run`."""
        try:
            self._connection(outlet, _place(cursor))
        except FeedError:
            # A request that the end broke off is no failure.
            if not outlet.stop.is_set():
                raise

    def _connection(self, outlet: Outlet, since: int | None) -> None:
        keys = keys_of_environment()
        wanted = Wanted(self.market, self.feed, self.url, self.rest)
        need_client()
        rest = Rest(wanted, keys, outlet)
        tickers = self._tickers(rest)
        quoted = self._quoted(tickers, outlet)
        with Socket(wanted, keys, tickers, quoted, outlet) as socket:
            # Subscribed first: what happens while the gap is fetched waits in the queue.
            waiting = self._subscribe(socket, tickers, quoted, outlet)
            # One for both, so that a cancel finds the trade that REST told of.
            trades = Trades(outlet, stocks=self.market == "stocks")
            if since is not None:
                self._fill(rest, tickers, since, trades, outlet)
            while not outlet.stop.is_set():
                self._take(waiting, trades, outlet)
                waiting = self._events(socket.take(0.1), outlet)

    def _tickers(self, rest: Rest) -> list[str]:
        if self.market == "stocks":
            return list(self._wanted)
        found: dict[str, None] = {}
        for name in self._wanted:
            contracts = [name] if re.match(CONTRACT, name) else rest.contracts(name)
            if not contracts:
                raise UsageError(f"--feed alpaca:options: {name} has no contracts at Alpaca")
            found.update(dict.fromkeys(contracts))
        return list(found)

    def _quoted(self, tickers: list[str], outlet: Outlet) -> list[str]:
        quoted = tickers[: QUOTED_CONTRACTS.get(self.feed)]
        if more := len(tickers) - len(quoted):
            outlet.count("contracts whose quotes the vendor does not give", more)
        return quoted

    def _events(self, frames: Sequence[bytes | str], outlet: Outlet) -> list[Event]:
        """What the frames hold; an error among it is raised."""
        if frames:
            outlet.heard()
        events = [event for frame in frames for event in events_of(frame, outlet)]
        for event in events:
            if event.kind == "error" and event.code in REFUSED:
                raise UsageError(refusal(f"{event.code}: {event.msg}"))
            if event.kind == "error":
                raise FeedError(f"Alpaca: {event.code}: {event.msg}")
        known = ("t", "q", "x", "c", "success", "subscription")
        if strange := sum(event.kind not in known for event in events):
            outlet.count(NOT_UNDERSTOOD, strange)
        return events

    def _subscribe(
        self, socket: Socket, traded: Sequence[str], quoted: Sequence[str], outlet: Outlet
    ) -> list[Event]:
        """Wait until all is subscribed; returns what came before that."""
        waiting: list[Event] = []
        missing = {*(("trades", name) for name in traded), *(("quotes", name) for name in quoted)}
        until = time.monotonic() + 2 * OPEN_LIMIT
        while missing and time.monotonic() < until and not outlet.stop.is_set():
            events = self._events(socket.take(0.1), outlet)
            for event in events:
                missing -= {("trades", name) for name in event.trades}
                missing -= {("quotes", name) for name in event.quotes}
            waiting += events
        if missing and not outlet.stop.is_set():
            raise FeedError(
                f"Alpaca: {len(missing)} subscriptions not confirmed, {min(missing)[1]} among them"
            )
        return waiting

    def _fill(self, rest: Rest, tickers: Sequence[str], since: int, trades: Trades, outlet: Outlet) -> None:
        """Fetch what happened from `since` (ns) on, a window after the other."""
        start, width, most = since, WINDOW[self.market], TOGETHER[self.market]
        parts = [tickers[first : first + most] for first in range(0, len(tickers), most)]
        end: int | None = start
        complete = time.monotonic() + REST_LAG
        with ThreadPoolExecutor(FETCHERS) as pool:
            while end is not None and not outlet.stop.is_set():
                end = start + width if start + width < time.time_ns() else None
                if end is None and outlet.stop.wait(max(0.0, complete - time.monotonic())):
                    return
                both = list(pool.map(lambda part, s=start, e=end: rest.window(part, s, e), parts))
                raw = pl.concat([one for one, _ in both])
                quotes = quotes_of(
                    pl.concat([one for _, one in both]), outlet, stocks=self.market == "stocks"
                )
                if self.market == "options" and raw.height:
                    outlet.count("option prints of a gap, of which the vendor keeps no quotes", raw.height)
                # A window has whole nanoseconds, and what the stream says is numbered by itself.
                numbering = trades if self.market == "stocks" else Trades(outlet, stocks=False)
                self._replay(*numbering.of(raw), quotes, outlet)
                width = 2 * width if raw.is_empty() and quotes.is_empty() else WINDOW[self.market]
                start = end or start

    def _replay(
        self, trades: pl.DataFrame, cancels: pl.DataFrame, quotes: pl.DataFrame, outlet: Outlet
    ) -> None:
        """Join a window in steps that the join holds whole, as they would have come."""
        step = (pl.col("ts").to_physical() // STEP).alias("#step")
        parts: list[Mapping[Any, pl.DataFrame]] = [
            frame.with_columns(step)
            .sort("ts", maintain_order=True)
            .partition_by("#step", as_dict=True, include_key=False)
            for frame in (trades, cancels, quotes)
        ]
        nothing = [frame.clear() for frame in (trades, cancels, quotes)]
        for key in sorted(set().union(*parts)):
            some = [part.get(key, none) for part, none in zip(parts, nothing, strict=True)]
            self._deliver(some[0], some[1], some[2], outlet)

    def _take(self, events: Sequence[Event], trades: Trades, outlet: Outlet) -> None:
        quotes = quotes_of(live_quotes(events), outlet, stocks=self.market == "stocks")
        self._deliver(*trades.of(live_trades(events), live_struck(events)), quotes, outlet)

    def _deliver(
        self, trades: pl.DataFrame, cancels: pl.DataFrame, quotes: pl.DataFrame, outlet: Outlet
    ) -> None:
        if quotes.height:
            self._join.add_quotes(quotes)
        if trades.height:
            self._join.add_trades(trades)
        due, standing = self._join.due(), self._join.settle()
        told = (self._join.late, self._join.late_trades)
        for what, now, before in zip(("late quotes", "late trades"), told, self._told, strict=True):
            if now > before:
                outlet.count(what, now - before)
        self._told = told
        if due.height or cancels.height or standing is not None:
            # Before the first trade the join does not know its columns.
            found = [self._prints(rows, outlet) for rows in (due, cancels) if rows.height]
            prints = pl.concat(found) if found else pl.DataFrame(schema=SCHEMA)
            # A cancel may be the first thing said, before the join has a place.
            place = cancels["ts"].to_physical().min() if self._join.floor is None else self._join.floor
            outlet.put(Delivery(prints, str(place), standing))

    def _prints(self, rows: pl.DataFrame, outlet: Outlet) -> pl.DataFrame:
        stocks = self.market == "stocks"
        symbol = rows["root"].alias("symbol") if stocks else underlyings(rows["root"])
        prints = rows.with_columns(symbol, asset=pl.lit("stock" if stocks else "option"))
        return common.completed(prints, outlet.count)


def _place(cursor: str | None) -> int | None:
    if cursor is not None and not cursor.isdecimal():
        raise FeedError(f"the kept cursor {cursor!r} is not one of Alpaca")
    return None if cursor is None else int(cursor)


def alpaca(spec: Spec) -> AlpacaFeed:
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
    return AlpacaFeed(market, feed, wanted, url, rest)
