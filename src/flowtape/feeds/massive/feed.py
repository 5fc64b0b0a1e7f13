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

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
import polars as pl

from flowtape.errors import UsageError
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account
from flowtape.feeds.limits import DEFAULTS, Limits
from flowtape.feeds.live import LiveFeed, Vendor
from flowtape.feeds.massive.rows import Event, Server, Trades, live_quotes, live_trades, quotes_of
from flowtape.feeds.massive.session import MassiveRest, MassiveWire
from flowtape.feeds.rows import NOT_UNDERSTOOD, Rows, rows_of
from flowtape.feeds.specs import Spec
from flowtape.feeds.websocket import Frame
from flowtape.readers import massive as files
from flowtape.readers.tickers import symbol_of

SOURCES = {"options": f"{files.OPTIONS} (live)", "stocks": f"{files.STOCKS} (live)"}
"""The vendor's files take the place of these, day by day (`claims.LIVE`)."""
URL, REST = "socket.massive.com", "https://api.massive.com"
QUOTED_CONTRACTS = 1000
"""Contracts whose quotes the vendor gives a connection; it gives the trades of any number."""
WINDOW = 300 * 10**9
"""Event time (ns) fetched by one request for each ticker."""
LIST_EVERY = 900.0
"""Seconds between listings of an underlying's contracts."""


READ = 10.0
"""Seconds in which REST must begin to answer."""


class MassiveConnection:
    """Massive's messages and pages. See `live.Connection`."""

    def __init__(self, server: Server, account: Account, outlet: Outlet, limits: Limits) -> None:
        self.rest = MassiveRest(server, account, outlet, limits)
        self._server, self._account, self._outlet, self._limits = server, account, outlet, limits
        self._stocks = server.market == "stocks"
        self._trades = Trades(outlet, stocks=self._stocks)

    def wire(self, traded: Sequence[str], quoted: Sequence[str]) -> MassiveWire:
        """See `live.Connection.wire`."""
        return MassiveWire(self._server, self._account, self.topics(traded, quoted), self._limits)

    def topics(self, traded: Sequence[str], quoted: Sequence[str]) -> list[str]:
        """See `live.Connection.topics`."""
        return [*(f"T.{name}" for name in traded), *(f"Q.{name}" for name in quoted)]

    def confirmed(self, event: Event) -> Iterable[str]:
        """See `live.Connection.confirmed`."""
        if event.ev == "status" and event.message.startswith("subscribed to:"):
            return [name.strip() for name in event.message[14:].split(",")]
        return ()

    def events(self, frames: Sequence[Frame]) -> list[Event]:
        """See `live.Connection.events`."""
        read = msgspec.json.decode
        events = [event for frame in frames for event in rows_of(Event, frame, read, self._outlet)]
        for event in events:
            if event.ev == "status" and event.status not in ("connected", "auth_success", "success"):
                raise self._account.failed(f"{event.status}: {event.message}")
        if strange := sum(event.ev not in ("T", "Q", "status") for event in events):
            self._outlet.count(NOT_UNDERSTOOD, strange)
        return events

    def rows(self, events: Sequence[Event]) -> Rows:
        """See `live.Connection.rows`."""
        quotes = quotes_of(live_quotes(events), self._outlet, stocks=self._stocks)
        return Rows(self._trades.of(live_trades(events)), quotes)

    def fetched(self, trades: pl.DataFrame, quotes: pl.DataFrame) -> Rows:
        """See `live.Connection.fetched`."""
        if not self._stocks:
            # Only the websocket numbers an option's trades.
            trades = trades.with_columns(pl.lit(None, pl.Int64).alias("sequence_number"))
        # Numbered anew: a window holds whole milliseconds.
        numbering = Trades(self._outlet, stocks=self._stocks)
        return Rows(numbering.of(trades), quotes_of(quotes, self._outlet, stocks=self._stocks))


def massive(spec: Spec, limits: Limits = DEFAULTS) -> LiveFeed[Event]:
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
    vendor = Vendor(
        "massive", "Massive", spec.target, SOURCES[spec.target], f"massive:{spec.target}", files.TICKER,
        ("MASSIVE_API_KEY",), "massive", partial(MassiveConnection, server), unit=1_000_000,
    )  # fmt: skip
    own = limits.filled(window=WINDOW, quoted=QUOTED_CONTRACTS, list_every=LIST_EVERY, read=READ)
    return LiveFeed(vendor, wanted, own)
