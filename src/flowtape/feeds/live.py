"""A live feed of trades and quotes by websocket, with gaps filled by REST.

One method reads from top to bottom: connect, authenticate, subscribe, fill the gap, deliver. A vendor adds only its
messages and pages (`Vendor`, `Connection`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.base import Outlet
from flowtape.feeds.credentials import Account, need_client
from flowtape.feeds.delivery import Joined, begin, name_of, place_of
from flowtape.feeds.limits import Limits
from flowtape.feeds.rest import Rest, Stopped, Tickers, TooMany
from flowtape.feeds.rows import Rows
from flowtape.feeds.websocket import Frame, Socket, VendorWebsocket
from flowtape.model.prints import underlying_of, underlyings
from flowtape.readers import common
from flowtape.readers.tickers import symbol_of

STEP = 5 * 10**9
"""The event time (ns) of the steps in which a window is joined. It must be well within the horizon of the join."""
SHORTEST_WINDOW = 10**9
"""The event time (ns) below which a window is not split, however many rows it has."""
NOT_LISTED = "contracts that could not be listed anew"
NOT_QUOTED = "contracts whose quotes the vendor does not give"

E = TypeVar("E")


class Connection(Protocol[E]):
    """A vendor's messages and pages during one connection. `E` is the type of its messages."""

    @property
    def rest(self) -> Rest:
        """Return the vendor's REST client."""

    def websocket(self, traded: Sequence[str], quoted: Sequence[str]) -> VendorWebsocket:
        """Return a client that subscribes to the trades and quotes of tickers."""

    def topics(self, traded: Sequence[str], quoted: Sequence[str]) -> Iterable[str]:
        """Return the names of the subscribed topics."""

    def confirmed(self, event: E) -> Iterable[str]:
        """Return the topics that a message confirms."""

    def events(self, frames: Sequence[Frame]) -> list[E]:
        """Return the messages in frames. Unreadable ones are counted.

        Raises:
            UsageError: the vendor refused, and a retry cannot succeed.
            FeedError: the vendor sent another error.
        """

    def rows(self, events: Sequence[E]) -> Rows:
        """Return the trades, quotes and cancels among messages."""

    def fetched(self, trades: pl.DataFrame, quotes: pl.DataFrame) -> Rows:
        """Return the trades, quotes and cancels among source rows of REST."""


@dataclass(frozen=True, slots=True)
class Vendor(Generic[E]):
    """A vendor's properties that a feed needs."""

    kind: str
    """The kind in `--feed`."""
    title: str
    """The vendor's name in messages."""
    market: str
    """`options` or `stocks`."""
    source: str
    """The source of its prints."""
    prefix: str
    """The prefix of the feed's name."""
    contract: str
    """A pattern of an option's ticker; its first group is the root."""
    variables: tuple[str, ...]
    """The environment variables with the keys."""
    module: str
    """The module of the vendor's own client."""
    connect: Callable[[Account, Outlet, Limits], Connection[E]]
    together: int = 1
    """The number of tickers in one request."""
    unit: int = 1
    """The resolution (ns) of its times."""


class LiveFeed(Generic[E]):
    """Options or stocks of a vendor. The cursor is the event time (ns) from which to fetch again."""

    always_open = False
    ends = False

    def __init__(self, vendor: Vendor[E], wanted: tuple[str, ...], limits: Limits) -> None:
        """Take the `wanted` tickers (for options, also underlyings). `limits.window` must be set."""
        self.vendor, self._wanted, self._limits = vendor, wanted, limits
        self.source, self.market = vendor.source, vendor.market
        self.assets = frozenset({"stock" if self.market == "stocks" else "option"})
        self.symbols = tuple(sorted({self._symbol(name) for name in wanted}))
        self.name = name_of(vendor.prefix, wanted)
        self._joined = Joined(self._finish, limits)
        self._listed = 0

    def restore(self, standing: pl.DataFrame) -> None:
        """Restore the quotes that were stored with the cursor."""
        self._joined.restore(standing)

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Connect and deliver, as `base.Feed.run` defines."""
        since = place_of(cursor, self.vendor.title)
        account = Account(self.vendor.title, self.vendor.kind, self.vendor.variables)
        need_client(self.vendor.kind, self.vendor.module)
        connection = self.vendor.connect(account, outlet, self._limits)
        try:
            with connection.rest:
                self._run(connection, account, since, outlet)
        except Stopped:
            return
        except FeedError:
            # A request or connection that was cut by the stop has not failed.
            if not outlet.stop.is_set():
                raise

    def _run(self, connection: Connection[E], account: Account, since: int | None, outlet: Outlet) -> None:
        tickers = self._tickers(connection.rest)
        quoted = self._quoted(tickers, outlet)
        with Socket(connection.websocket(tickers, quoted), account, outlet, self._limits) as socket:
            # Subscribe first: the queue holds what happens while the gap is fetched.
            events = self._subscribe(connection, socket, set(connection.topics(tickers, quoted)), outlet)
            if since is None:
                begin(outlet, self._whole(time.time_ns()))
            else:
                self._fill(connection, tickers, since, outlet)
            list_at = self._next_listing()
            while not outlet.stop.is_set():
                self._joined.put(connection.rows(events), outlet)
                events = self._events(connection, socket, outlet)
                if time.monotonic() > list_at:
                    if self._add_listed(connection, tickers, outlet):
                        return
                    list_at = self._next_listing()

    def _events(self, connection: Connection[E], socket: Socket, outlet: Outlet) -> list[E]:
        frames = socket.take(0.1)
        if frames:
            outlet.heard()
        return connection.events(frames)

    def _subscribe(
        self, connection: Connection[E], socket: Socket, missing: set[str], outlet: Outlet
    ) -> list[E]:
        """Wait until all topics are confirmed. Return the events received before that."""
        waiting: list[E] = []
        until = time.monotonic() + 2 * self._limits.open
        while missing and time.monotonic() < until:
            if outlet.stop.is_set():
                raise Stopped
            events = self._events(connection, socket, outlet)
            for event in events:
                missing.difference_update(connection.confirmed(event))
            waiting += events
        if missing:
            raise FeedError(
                f"{self.vendor.title}: {len(missing)} subscriptions not confirmed, {min(missing)} among them"
            )
        return waiting

    def _fill(self, connection: Connection[E], tickers: Sequence[str], since: int, outlet: Outlet) -> None:
        """Fetch everything from `since` (ns) up to now, one window after another."""
        complete = time.monotonic() + self._limits.rest_lag
        most = self.vendor.together
        parts = [tuple(tickers[at : at + most]) for at in range(0, len(tickers), most)]
        start, usual = self._whole(since), self._limits.window or 0
        width, rows = usual, self._limits.rows
        while True:
            now = time.time_ns()
            end = self._whole(start + width) if start + width < now else None
            if end is None and outlet.stop.wait(max(0.0, complete - time.monotonic())):
                raise Stopped
            wide = (now if end is None else end) - start
            try:
                found = connection.rest.window(parts, start, end, rows if wide > SHORTEST_WINDOW else None)
            except TooMany:
                width = usual if wide > usual else max(wide // 2, SHORTEST_WINDOW)
                continue
            self._replay(connection.fetched(*found), outlet)
            if end is None:
                return
            many = sum(frame.height for frame in found)
            if many:
                start, width = end, min(usual, width if many > rows // 4 else 2 * width)
            else:
                start, width = self._next_window(connection.rest, parts, end, width)

    def _next_window(self, rest: Rest, parts: Sequence[Tickers], end: int, width: int) -> tuple[int, int]:
        """Return the start and width of the window after an empty one. It starts at the next trade or quote, or, if the
        vendor cannot give it, is twice as wide."""
        try:
            found = rest.each(lambda part: rest.first(part, end), parts)
        except NotImplementedError:
            return end, 2 * width
        # If nothing follows yet, the last window begins before now; everything earlier was already requested.
        following = min([time.time_ns() - width // 2, *(ts for ts in found if ts is not None)])
        return max(end, self._whole(following)), width

    def _replay(self, rows: Rows, outlet: Outlet) -> None:
        """Join a window in steps that fit the join's horizon, in the order of time."""
        step = (pl.col("ts").to_physical() // STEP).alias("#step")
        frames = [frame for frame in rows if frame is not None]
        parts: list[Mapping[Any, pl.DataFrame]] = [
            frame.with_columns(step)
            .sort("ts", maintain_order=True)
            .partition_by("#step", as_dict=True, include_key=False)
            for frame in frames
        ]
        nothing = [frame.clear() for frame in frames]
        for key in sorted(set().union(*parts)):
            some = [part.get(key, none) for part, none in zip(parts, nothing, strict=True)]
            self._joined.put(Rows(*some), outlet)
            if outlet.stop.is_set():
                raise Stopped

    def _next_listing(self) -> float:
        every = self._limits.list_every if self.market == "options" else None
        return float("inf") if every is None else time.monotonic() + every

    def _add_listed(self, connection: Connection[E], tickers: Sequence[str], outlet: Outlet) -> bool:
        """Fetch the trades and quotes of contracts that were listed since. Return whether there are any; they need a
        new connection to be subscribed."""
        since = self._listed
        try:
            new = [name for name in self._tickers(connection.rest) if name not in set(tickers)]
        except (FeedError, UsageError):
            outlet.count(NOT_LISTED)
            return False
        if new:
            self._fill(connection, new, since, outlet)
        return bool(new)

    def _tickers(self, rest: Rest) -> list[str]:
        if self.market == "stocks":
            return list(self._wanted)
        now, found = time.time_ns(), dict[str, None]()
        for name in self._wanted:
            known = re.match(self.vendor.contract, name)
            contracts = [name] if known else rest.each(lambda part: rest.contracts(part[0]), [(name,)])[0]
            if not contracts:
                kind = f"{self.vendor.kind}:{self.market}"
                raise UsageError(f"--feed {kind}: {name} has no contracts at {self.vendor.title}")
            found.update(dict.fromkeys(contracts))
        self._listed = now
        return list(found)

    def _quoted(self, tickers: list[str], outlet: Outlet) -> list[str]:
        quoted = tickers[: self._limits.quoted] if self.market == "options" else tickers
        if more := len(tickers) - len(quoted):
            outlet.count(NOT_QUOTED, more)
        return quoted

    def _finish(self, trades: pl.DataFrame, outlet: Outlet) -> pl.DataFrame:
        stocks = self.market == "stocks"
        symbol = trades["root"].alias("symbol") if stocks else underlyings(trades["root"])
        prints = trades.with_columns(symbol, asset=pl.lit("stock" if stocks else "option"))
        return common.completed(prints, outlet.count)

    def _symbol(self, name: str) -> str:
        if self.market == "stocks":
            return str(symbol_of(name))
        contract = re.match(self.vendor.contract, name)
        return underlying_of(contract[1] if contract else name)

    def _whole(self, ts: int) -> int:
        """Return a time (ns) cut to the vendor's resolution."""
        return ts // self.vendor.unit * self.vendor.unit
