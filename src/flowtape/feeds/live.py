"""A live feed of trades and quotes by websocket, whose gaps are filled by REST.

One loop, from top to bottom: connect, authenticate, subscribe, fill the gap, deliver. A vendor is its messages and
pages (`Vendor`, `Connection`) and nothing else.
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
from flowtape.feeds.websocket import Frame, Socket, Wire
from flowtape.model.prints import underlying_of, underlyings
from flowtape.readers import common
from flowtape.readers.tickers import symbol_of

STEP = 5 * 10**9
"""Event time (ns) of the steps in which a window is joined: well within the horizon of the join."""
SHORTEST_WINDOW = 10**9
"""Event time (ns) of a window that is not made shorter however many rows it has."""
NOT_LISTED = "contracts that could not be listed anew"
NOT_QUOTED = "contracts whose quotes the vendor does not give"

E = TypeVar("E")


class Connection(Protocol[E]):
    """A vendor's messages and pages during one connection; `E` is the type of its messages."""

    @property
    def rest(self) -> Rest:
        """The vendor's REST client."""

    def wire(self, traded: Sequence[str], quoted: Sequence[str]) -> Wire:
        """A client that subscribes to the trades and quotes of tickers."""

    def topics(self, traded: Sequence[str], quoted: Sequence[str]) -> Iterable[str]:
        """The names of what is subscribed."""

    def confirmed(self, event: E) -> Iterable[str]:
        """The topics that a message confirms."""

    def events(self, frames: Sequence[Frame]) -> list[E]:
        """The messages in frames; what cannot be read is counted. Raises `UsageError` for a refusal that no further
        try helps, `FeedError` for any other error of the vendor's."""

    def rows(self, events: Sequence[E]) -> Rows:
        """The trades, quotes and cancels among messages."""

    def fetched(self, trades: pl.DataFrame, quotes: pl.DataFrame) -> Rows:
        """The same of source rows of REST."""


@dataclass(frozen=True, slots=True)
class Vendor(Generic[E]):
    """What a feed takes of which vendor."""

    kind: str
    """As in `--feed`."""
    title: str
    """The vendor's name in messages."""
    market: str
    """`options` or `stocks`."""
    source: str
    """What prints are filed under."""
    prefix: str
    """How the feed's name begins."""
    contract: str
    """A pattern of an option's ticker; its first group is the root."""
    variables: tuple[str, ...]
    """The variables of the environment with the keys."""
    module: str
    """The vendor's own client."""
    connect: Callable[[Account, Outlet, Limits], Connection[E]]
    together: int = 1
    """Tickers of one request."""
    unit: int = 1
    """Resolution (ns) of its times."""


class LiveFeed(Generic[E]):
    """Options or stocks of a vendor. The cursor is the event time (ns) from which to fetch again."""

    always_open = False
    ends = False

    def __init__(self, vendor: Vendor[E], wanted: tuple[str, ...], limits: Limits) -> None:
        """`wanted` are tickers or, for options, also underlyings; `limits.window` must be given."""
        self.vendor, self._wanted, self._limits = vendor, wanted, limits
        self.source, self.market = vendor.source, vendor.market
        self.assets = frozenset({"stock" if self.market == "stocks" else "option"})
        self.symbols = tuple(sorted({self._symbol(name) for name in wanted}))
        self.name = name_of(vendor.prefix, wanted)
        self._joined = Joined(self._finish, limits)
        self._listed = 0

    def restore(self, standing: pl.DataFrame) -> None:
        """See `base.Feed.restore`."""
        self._joined.restore(standing)

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """See `base.Feed.run`."""
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
            # A request or a connection that the end broke off is no failure.
            if not outlet.stop.is_set():
                raise

    def _run(self, connection: Connection[E], account: Account, since: int | None, outlet: Outlet) -> None:
        tickers = self._tickers(connection.rest)
        quoted = self._quoted(tickers, outlet)
        with Socket(connection.wire(tickers, quoted), account, outlet, self._limits) as socket:
            # Subscribed first: what happens while the gap is fetched waits in the queue.
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
                    if self._take_up_new(connection, tickers, outlet):
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
        """Wait until all topics are confirmed; returns what came before that."""
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
        """Fetch what happened from `since` (ns) on, a window after the other, up to now."""
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
        """Start and width of the window after an empty one: where something happened again or, where the vendor
        cannot tell, twice as wide."""
        try:
            found = rest.each(lambda part: rest.first(part, end), parts)
        except NotImplementedError:
            return end, 2 * width
        # Where nothing is to come yet the last window begins before now: what is left was asked for already.
        following = min([time.time_ns() - width // 2, *(ts for ts in found if ts is not None)])
        return max(end, self._whole(following)), width

    def _replay(self, rows: Rows, outlet: Outlet) -> None:
        """Join a window in steps that the join holds whole, as they would have come."""
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

    def _take_up_new(self, connection: Connection[E], tickers: Sequence[str], outlet: Outlet) -> bool:
        """Fetch what happened in contracts that were listed since; whether there are any, to be subscribed by a new
        connection."""
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
        """A time (ns) cut to the vendor's resolution."""
        return ts // self.vendor.unit * self.vendor.unit
