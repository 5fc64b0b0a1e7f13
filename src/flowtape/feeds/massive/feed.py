"""Massive live: `massive:options?symbols=SPY` and `massive:stocks?symbols=SPY,QQQ`, by the vendor's own client.

Trades (`T`) and quotes (`Q`) arrive by websocket and are joined here. The gap since the cursor is fetched by REST.
Contracts, venues and conditions are those of Massive's flat files, but times are not, so a row cannot be matched with a
row of a file. Therefore the files replace the feed's prints, day by day, and the feed adds nothing to such days.

- The websocket's times are SIP times in whole milliseconds; files and REST have nanoseconds. Rows of REST are cut to
  the millisecond, so that a row fetched twice is one row. A quote is in force after its millisecond. Where quote and
  trade are in the same millisecond, the side can differ from that of the files.
- Only the websocket numbers an option's trades (`q`); REST and the files do not. So an option's trade has no `seq`. Its
  `copy` numbers it among trades equal in price, size, condition, venue and millisecond, and is the same from both. A
  stock's trades are numbered everywhere (`q`, `sequence_number`), and that is their `seq`. Trades equal in number,
  price, size and condition count once; the repeats are counted.

Contracts are listed again from time to time. If new ones exist, their trades since the last listing are fetched and a
new connection subscribes to them.
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
from flowtape.feeds.massive.session import MassiveRest, MassiveStream
from flowtape.feeds.rows import NOT_UNDERSTOOD, Rows, rows_of
from flowtape.feeds.specs import Spec
from flowtape.feeds.websocket import Frame
from flowtape.readers import massive as files
from flowtape.readers.tickers import symbol_of

SOURCES = {"options": f"{files.OPTIONS} (live)", "stocks": f"{files.STOCKS} (live)"}
"""The sources of live prints. The vendor's files replace them, day by day (`provenance.LIVE`)."""
URL, REST = "socket.massive.com", "https://api.massive.com"
QUOTED_CONTRACTS = 1000
"""The number of contracts whose quotes the vendor sends on a connection. Trades have no such limit."""
WINDOW = 300 * 10**9
"""The event time (ns) of one request for a ticker."""
LIST_EVERY = 900.0
"""The seconds between listings of an underlying's contracts."""


READ = 10.0
"""The time limit in seconds for the first byte of a REST answer."""


class MassiveConnection:
    """Massive's messages and pages, a `live.Connection`."""

    def __init__(self, server: Server, account: Account, outlet: Outlet, limits: Limits) -> None:
        self.rest = MassiveRest(server, account, outlet, limits)
        self._server, self._account, self._outlet, self._limits = server, account, outlet, limits
        self._stocks = server.market == "stocks"
        self._trades = Trades(outlet, stocks=self._stocks)

    def websocket(self, traded: Sequence[str], quoted: Sequence[str]) -> MassiveStream:
        """Return a websocket client for the trades and quotes of tickers."""
        return MassiveStream(self._server, self._account, self.topics(traded, quoted), self._limits)

    def topics(self, traded: Sequence[str], quoted: Sequence[str]) -> list[str]:
        """Return the names of the subscribed topics."""
        return [*(f"T.{name}" for name in traded), *(f"Q.{name}" for name in quoted)]

    def confirmed(self, event: Event) -> Iterable[str]:
        """Return the topics that a message confirms."""
        if event.ev == "status" and event.message.startswith("subscribed to:"):
            return [name.strip() for name in event.message[14:].split(",")]
        return ()

    def events(self, frames: Sequence[Frame]) -> list[Event]:
        """Return the events in frames. Raises `FeedError` for an error of the vendor's."""
        read = msgspec.json.decode
        events = [event for frame in frames for event in rows_of(Event, frame, read, self._outlet)]
        for event in events:
            if event.ev == "status" and event.status not in ("connected", "auth_success", "success"):
                raise self._account.failed(f"{event.status}: {event.message}")
        if strange := sum(event.ev not in ("T", "Q", "status") for event in events):
            self._outlet.count(NOT_UNDERSTOOD, strange)
        return events

    def rows(self, events: Sequence[Event]) -> Rows:
        """Return the trades and quotes among events."""
        quotes = quotes_of(live_quotes(events), self._outlet, stocks=self._stocks)
        return Rows(self._trades.of(live_trades(events)), quotes)

    def fetched(self, trades: pl.DataFrame, quotes: pl.DataFrame) -> Rows:
        """Return the trades and quotes among source rows of REST."""
        if not self._stocks:
            # Only the websocket numbers an option's trades.
            trades = trades.with_columns(pl.lit(None, pl.Int64).alias("sequence_number"))
        # Each window is numbered separately, because it holds whole milliseconds.
        numbering = Trades(self._outlet, stocks=self._stocks)
        return Rows(numbering.of(trades), quotes_of(quotes, self._outlet, stocks=self._stocks))


def massive(spec: Spec, limits: Limits = DEFAULTS) -> LiveFeed[Event]:
    """Return the feed of a spec: `symbols`, and `url`, `rest`, `secure` for another server. Raises `UsageError`."""
    spec.refuse_others("symbols", "url", "rest", "secure")
    if spec.target not in SOURCES:
        raise UsageError(
            f"--feed {spec.text}: {spec.target!r} after massive: is not one of {', '.join(SOURCES)}"
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
