"""Massive live: `massive:options?symbols=SPY` and `massive:stocks?symbols=SPY,QQQ`, by the vendor's own client.

Trades (`T`) and quotes (`Q`) come by websocket and are joined here; the gap since the cursor comes by REST. Contracts,
venues and conditions are those of Massive's flat files, but times are not, so that a row cannot be told to be the same
as one of a file: the files take the place of what the feed brought, day by day, and the feed adds nothing to such days.

- The websocket's times are SIP times in whole milliseconds; files and REST have nanoseconds. Rows of REST are cut to
  the millisecond, so that a row fetched twice is one row. A quote is in force after its millisecond: a side can differ
  from the files' where quote and trade lie within one.
- Only the websocket numbers an option's trades (`q`); REST and the files do not. So an option's trade has no `seq`, and
  its `copy` numbers it among trades alike in price, size, condition, venue and millisecond: the same from both. A
  stock's trades are numbered everywhere (`q`, `sequence_number`), and that is their `seq`; trades alike in number,
  price, size and condition count once, and it is told how many.

Contracts are listed anew now and then; where one was added its trades since are fetched, and the connection is made
again with it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.base import Delivery, Outlet
from flowtape.feeds.credentials import key_of
from flowtape.feeds.massive.rows import (
    NOT_UNDERSTOOD,
    Event,
    Trades,
    live_quotes,
    live_trades,
    quotes_of,
    rows_of,
)
from flowtape.feeds.massive.session import OPEN_LIMIT, Rest, Server, Socket, Stopped
from flowtape.feeds.quote_join import LiveJoin
from flowtape.feeds.specs import Spec
from flowtape.model.prints import SCHEMA, underlying_of, underlyings
from flowtape.readers import common
from flowtape.readers import massive as files
from flowtape.readers.tickers import symbol_of

SOURCES = {"options": f"{files.OPTIONS} (live)", "stocks": f"{files.STOCKS} (live)"}
"""The vendor's files take the place of these, day by day (`claims.LIVE`)."""
URL, REST = "socket.massive.com", "https://api.massive.com"
QUOTED_CONTRACTS = 1000
"""Contracts whose quotes the vendor gives a connection; it gives the trades of any number."""
WINDOW = 300 * 10**9
"""Event time (ns) fetched by one request for each ticker; where nothing happened it goes on at what came next."""
REST_LAG = 1.0
"""Seconds after which REST is taken to have what had happened when the websocket was subscribed."""
LIST_EVERY = 900.0
"""Seconds between listings of an underlying's contracts."""
STEP = 5 * 10**9
"""Event time (ns) of the steps in which a window is joined: well within the horizon of the join."""
NOT_LISTED = "contracts that could not be listed anew"
_MS = 1_000_000


class MassiveFeed:
    """Options or stocks of Massive. The cursor is the event time (ns) from which to fetch again."""

    always_open = False
    ends = False

    def __init__(self, server: Server, wanted: tuple[str, ...]) -> None:
        """`wanted` are tickers or, for options, also underlyings."""
        self.market, self._server, self._wanted = server.market, server, wanted
        self.source = SOURCES[self.market]
        self.assets = frozenset({"stock" if self.market == "stocks" else "option"})
        self.symbols = tuple(sorted({self._symbol(name) for name in wanted}))
        digest = hashlib.sha256(",".join(sorted(wanted)).encode()).hexdigest()[:8]
        more = f"+{len(wanted) - 1}-{digest}" if wanted[1:] else ""
        self.name = f"massive:{self.market}:{wanted[0]}{more}"
        self._join, self._told = LiveJoin(), (0, 0)
        self._listed = 0

    def _symbol(self, name: str) -> str:
        if self.market == "stocks":
            return str(symbol_of(name))
        contract = re.match(files.TICKER, name)
        return underlying_of(contract[1] if contract else name)

    def restore(self, standing: pl.DataFrame) -> None:
        """See `live.Feed.restore`."""
        self._join.restore(standing)

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """See `live.Feed.run`."""
        since = _place(cursor)
        key = key_of("MASSIVE_API_KEY", "massive")
        try:
            rest = Rest(self._server, key, outlet)
        except ImportError:
            raise UsageError(
                "--feed massive: needs the vendor's client: pip install 'flowtape[massive]'"
            ) from None
        try:
            with rest:
                self._run(rest, key, since, outlet)
        except Stopped:
            return

    def _run(self, rest: Rest, key: str, since: int | None, outlet: Outlet) -> None:
        tickers = self._tickers(rest)
        quoted = tickers if self.market == "stocks" else tickers[:QUOTED_CONTRACTS]
        if len(tickers) > len(quoted):
            outlet.count("contracts whose quotes the vendor does not give", len(tickers) - len(quoted))
        topics = [*(f"T.{name}" for name in tickers), *(f"Q.{name}" for name in quoted)]
        with Socket(self._server, key, topics, outlet) as socket:
            # Subscribed first: what happens while the gap is fetched waits in the queue.
            waiting = self._subscribe(socket, set(topics), outlet)
            if outlet.stop.is_set():
                return
            if since is None:
                # What happens before the first delivery is not lost with the line or the process either.
                outlet.put(Delivery(pl.DataFrame(schema=SCHEMA), str(time.time_ns() // _MS * _MS)))
            else:
                self._fill(rest, tickers, since, outlet)
            trades = Trades(outlet, stocks=self.market == "stocks")
            list_at = time.monotonic() + LIST_EVERY
            while not outlet.stop.is_set():
                self._take(waiting, trades, outlet)
                waiting = self._events(socket.take(0.1), outlet)
                if self.market == "options" and time.monotonic() > list_at:
                    if self._take_up_new(rest, tickers, outlet):
                        return
                    list_at = time.monotonic() + LIST_EVERY

    def _take_up_new(self, rest: Rest, tickers: Sequence[str], outlet: Outlet) -> bool:
        """Fetch what happened in contracts that were listed since; whether there are any, to be subscribed by a new
        connection."""
        since = self._listed
        try:
            new = [name for name in self._tickers(rest) if name not in set(tickers)]
        except (FeedError, UsageError):
            outlet.count(NOT_LISTED)
            return False
        if new:
            self._fill(rest, new, since, outlet)
        return bool(new)

    def _tickers(self, rest: Rest) -> list[str]:
        if self.market == "stocks":
            return list(self._wanted)
        now, found = time.time_ns(), dict[str, None]()
        for name in self._wanted:
            contracts = [name] if name.startswith("O:") else rest.each(rest.contracts, [name])[0]
            if not contracts:
                raise UsageError(f"--feed massive:options: {name} has no contracts at Massive")
            found.update(dict.fromkeys(contracts))
        self._listed = now
        return list(found)

    def _events(self, messages: Sequence[str | bytes], outlet: Outlet) -> list[Event]:
        """What the messages hold; a status that is no good news is raised."""
        if messages:
            outlet.heard()
        events = [event for message in messages for event in rows_of(Event, message, outlet)]
        for event in events:
            if event.ev == "status" and event.status not in ("connected", "auth_success", "success"):
                raise FeedError(f"Massive: {event.status}: {event.message}")
        if strange := sum(event.ev not in ("T", "Q", "status") for event in events):
            outlet.count(NOT_UNDERSTOOD, strange)
        return events

    def _subscribe(self, socket: Socket, topics: set[str], outlet: Outlet) -> list[Event]:
        """Wait until all is subscribed; returns what came before that."""
        waiting: list[Event] = []
        until = time.monotonic() + 2 * OPEN_LIMIT
        while topics and time.monotonic() < until and not outlet.stop.is_set():
            events = self._events(socket.take(0.1), outlet)
            for event in events:
                if event.ev == "status" and event.message.startswith("subscribed to:"):
                    topics -= {name.strip() for name in event.message[14:].split(",")}
            waiting += events
        if topics and not outlet.stop.is_set():
            raise FeedError(f"Massive: {len(topics)} subscriptions not confirmed, {min(topics)} among them")
        return waiting

    def _fill(self, rest: Rest, tickers: Sequence[str], since: int, outlet: Outlet) -> None:
        """Fetch what happened from `since` (ns) on, a window after the other."""
        complete = time.monotonic() + REST_LAG
        start: int | None = since // _MS * _MS
        while start is not None:
            end = start + WINDOW if start + WINDOW < time.time_ns() else None
            if end is None and outlet.stop.wait(max(0.0, complete - time.monotonic())):
                return
            start = self._fill_window(rest, tickers, start, end, outlet)

    def _fill_window(
        self, rest: Rest, tickers: Sequence[str], start: int, end: int | None, outlet: Outlet
    ) -> int | None:
        """Take what happened from `start` until `end`; gives where to go on, None after what has no end."""
        both = rest.each(lambda ticker: rest.window(ticker, start, end), tickers)
        raw = pl.concat([trades for trades, _ in both])
        quotes = quotes_of(pl.concat([quotes for _, quotes in both]), outlet, stocks=self.market == "stocks")
        # Numbered anew: a window holds whole milliseconds, and REST numbers no option's trade.
        none = pl.lit(None, pl.Int64).alias("sequence_number")
        raw = raw if self.market == "stocks" else raw.with_columns(none)
        self._replay(Trades(outlet, stocks=self.market == "stocks").of(raw), quotes, outlet)
        if end is None or raw.height or quotes.height:
            return end
        # Where nothing is to come yet the last window begins before now: what is left was asked for already.
        found = rest.each(lambda ticker: rest.first(ticker, end), tickers)
        following = min([time.time_ns() - WINDOW // 2, *(ts for ts in found if ts is not None)])
        return max(end, following // _MS * _MS)

    def _replay(self, trades: pl.DataFrame, quotes: pl.DataFrame, outlet: Outlet) -> None:
        """Join a window in steps that the join holds whole, as they would have come."""
        step = (pl.col("ts").to_physical() // STEP).alias("#step")
        parts = [
            frame.with_columns(step)
            .sort("ts", maintain_order=True)
            .partition_by("#step", as_dict=True, include_key=False)
            for frame in (trades, quotes)
        ]
        for key in sorted(parts[0].keys() | parts[1].keys()):
            some_trades, some_quotes = (part.get(key) for part in parts)
            self._deliver(some_trades, some_quotes, outlet)

    def _take(self, events: Sequence[Event], trades: Trades, outlet: Outlet) -> None:
        quotes = quotes_of(live_quotes(events), outlet, stocks=self.market == "stocks")
        self._deliver(trades.of(live_trades(events)), quotes, outlet)

    def _deliver(self, trades: pl.DataFrame | None, quotes: pl.DataFrame | None, outlet: Outlet) -> None:
        if quotes is not None and quotes.height:
            self._join.add_quotes(quotes)
        if trades is not None and trades.height:
            self._join.add_trades(trades)
        due, standing = self._join.due(), self._join.settle()
        told = (self._join.late, self._join.late_trades)
        for what, now, before in zip(("late quotes", "late trades"), told, self._told, strict=True):
            if now > before:
                outlet.count(what, now - before)
        self._told = told
        if due.height or standing is not None:
            outlet.put(Delivery(self._prints(due, outlet), str(self._join.floor), standing))

    def _prints(self, due: pl.DataFrame, outlet: Outlet) -> pl.DataFrame:
        if due.is_empty():
            # Before the first trade its columns are not known to the join either.
            return pl.DataFrame(schema=SCHEMA)
        stocks = self.market == "stocks"
        symbol = due["root"].alias("symbol") if stocks else underlyings(due["root"])
        prints = due.with_columns(symbol, asset=pl.lit("stock" if stocks else "option"))
        return common.completed(prints, outlet.count)


def _place(cursor: str | None) -> int | None:
    if cursor is not None and not cursor.isdecimal():
        raise FeedError(f"the kept cursor {cursor!r} is not one of Massive")
    return None if cursor is None else int(cursor)


def massive(spec: Spec) -> MassiveFeed:
    """The feed of a spec: `symbols`, and `url`, `rest`, `secure` for another server. Raises `UsageError`."""
    spec.refuse_others("symbols", "url", "rest", "secure")
    if spec.target not in SOURCES:
        raise UsageError(
            f"--feed {spec.text}: {spec.target!r} after massive: is none of {', '.join(SOURCES)}"
        )
    options = spec.options
    # A stock's ticker is case-sensitive: `TpC` is a preferred share of `T`, `TPC` another company.
    wanted = tuple(filter(None, (part.strip() for part in options.get("symbols", "").split(","))))
    for name in wanted:
        if spec.target == "stocks" and symbol_of(name) is None:
            raise UsageError(f"--feed {spec.text}: {name} is not a stock's ticker")
    if not wanted:
        raise UsageError(f"--feed {spec.text}: symbols names what to take, as in symbols=SPY,QQQ")
    if spec.target == "options":
        wanted = tuple(name.upper() for name in wanted)
    if options.get("secure", "1") not in ("0", "1"):
        raise UsageError(f"--feed {spec.text}: secure is {options['secure']!r}, not 0 or 1")
    secure = options.get("secure", "1") == "1"
    server = Server(spec.target, options.get("url", URL), options.get("rest", REST), secure)
    return MassiveFeed(server, wanted)
