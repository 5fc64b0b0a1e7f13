"""The numbers behind an answer: minutes, prints and cross-sections, from the cache or the store.

Minute bars are used where they are enough, else the prints. Both give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from flowtape.cache.cache import Cache
from flowtape.cache.view import CrossSection, Totals, View
from flowtape.feeds.backlog import FOREVER, Missing
from flowtape.model.exact import Ints
from flowtape.model.prints import NEW_YORK, day_bounds
from flowtape.model.query import Query
from flowtape.orderflow.identity import EVENT_ORDER
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, SUMS
from flowtape.pipeline.batch import bars_of
from flowtape.queries import print_sql
from flowtape.queries.all_symbols import AllSymbols, Pieces
from flowtape.queries.measures import SPLIT, split_totals
from flowtape.storage import Store
from flowtape.storage.catalog import RIGHTS

_FIRST_LOOK = 4 * NS_PER_MINUTE
_PIECE = 120
"""Minutes of a cross-section that are read from the store at a time, which bounds memory."""
_MOST_PIECES = 16
"""The most reads of one cross-section, since a read from a server takes tens of milliseconds. The pieces of long
windows are longer."""
_WIDER = 8
"""The factor by which each further search for the newest prints goes back."""


class Span(NamedTuple):
    """The instants [start, end) in ns UTC. `newest` is the symbol's newest counted print of a trading day, None where
    unknown."""

    start: int
    end: int
    newest: int | None = None


class Summed(NamedTuple):
    """Sums over counted prints: their number, volume by side and the largest size in units, the newest print's time in
    ns (None without one), and the number of contracts."""

    trades: int
    buy: int
    sell: int
    mid: int
    biggest: int
    newest: int | None
    contracts: int


class FlowData:
    """The numbers behind one answer, as of the instant `now` (ns UTC). Each instance is used by one thread.

    Minute bars may come from the cache, which is at most one commit behind the store. `trades` and prints come from
    the store, so they agree within one `Store.snapshot`. Every method raises `StoreError` when the store cannot be
    read, and `Loading` when it needs instants that are `missing`.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache | None,
        now: int,
        max_quote_age: timedelta | None = None,
        missing: Missing | None = None,
    ) -> None:
        self.now = now
        self._store = store
        self._cache = cache
        # Taken before a snapshot begins, so that minutes that changed later are read again.
        self._versions = {} if cache is None else cache.versions()
        self._missing = missing
        self.max_quote_age = max_quote_age

    def _require(self, start: int, end: int) -> None:
        """Raise `Loading` if prints of [start, end) ns may be missing."""
        if self._missing is not None:
            self._missing.check(start, end)

    def totals(self, query: Query, start: int, end: int, names: tuple[str, ...]) -> Totals:
        """Return a symbol's minutes in [start, end) with a counted print that passes the query's filter.

        With `query.at`, the minutes are point in time: prints before `at`, without the effect of cancels from `at` on.

        Args:
            start, end: minutes since 1970 UTC.
            names: of `minute_bars.VALUES`, and of `EDGES` for stocks. A prefix of `SPLIT` restricts a sum to one
                right.
        """
        self._require(start * NS_PER_MINUTE, end * NS_PER_MINUTE)
        if any(name.startswith(tuple(SPLIT)) for name in names):
            return self._by_right(query, start, end, names)
        if query.filter.by_print:
            return self._of_prints(query, start, end, names)
        view = None if query.quality else self._cached(query, start)
        if view is None:
            view = self._kept(query, start, end)
        return view.line(self._number(query), start, end, names, _right(query))

    def _by_right(self, query: Query, start: int, end: int, names: tuple[str, ...]) -> Totals:
        """Return a symbol's minutes with sums over one right, all from the same state."""
        view = None
        if not query.filter.by_print:
            view = (None if query.quality else self._cached(query, start)) or self._kept(query, start, end)

        def read(right: str | None, plain: tuple[str, ...]) -> Totals:
            if view is not None:
                number = None if right is None else RIGHTS.index(right)
                return view.line(self._number(query), start, end, plain, number)
            of = msgspec.structs.replace(query, filter=msgspec.structs.replace(query.filter, right=right))
            return self._of_prints(of, start, end, plain)

        return split_totals(names, query.filter.right, read)

    def _of_prints(self, query: Query, start: int, end: int, names: tuple[str, ...]) -> Totals:
        """Return a symbol's minutes made from its prints. The cache keeps them, and only minutes that changed are read
        again."""

        def read(start: int, end: int, names: tuple[str, ...] = (*names, "last_ts")) -> Totals:
            span = Span(start * NS_PER_MINUTE, end * NS_PER_MINUTE)
            return self.bars(query, span, tuple(dict.fromkeys(names)), NS_PER_MINUTE)

        number = self._number(query)
        if self._cache is None or number < 0 or self._cached(query, start) is None:
            return read(start, end, names)
        bars = self._cache.of(query.asset)
        return self._cache.filtered.totals(
            (query.asset, number, query.filter, names, end - start),
            self._versions[query.asset],
            (start, end),
            lambda version: bars.changed_since(number, version),
            read,
        )

    def _cached(self, query: Query, start: int) -> View | None:
        """Return the bars in memory, None if they cannot answer the query from minute `start` on."""
        if query.at is not None or self._cache is None:
            return None
        view = self._cache.of(query.asset).view()
        return view if start >= view.oldest else None

    def _number(self, query: Query) -> int:
        """Return the catalog number of the query's symbol, −1 for a symbol without prints."""
        found = self._store.catalog.symbol_id(query.asset, query.symbol)
        return -1 if found is None else found

    def _kept(self, query: Query, start: int, end: int) -> View:
        """Return a symbol's bars from the store as of `at`, without the effect of cancels from `at` on."""
        number = self._number(query)
        bars = self._store.bars(pl.Series([number] if number >= 0 else [], dtype=pl.Int32), start, end)
        back = [] if query.at is None else [self._put_back(self._series(query), start, end, query.at)]
        return View.of([bars], back, edges=query.asset == "stock")

    def bars(self, query: Query, span: Span, names: tuple[str, ...], length: int) -> Totals:
        """Return bars made from the prints of a span.

        Args:
            names: of `minute_bars.VALUES`, and of `EDGES` for stocks.
            length: of a bar, in ns. `minute` of the result counts such bars since 1970.
        """
        rows, which = self._rows(query, span)
        dialect, stock = self._store.dialect, query.asset == "stock"
        venue = print_sql.venue_rank(dialect, self._store.catalog) if stock else ""
        sql = print_sql.bars(dialect, rows, which, names, stock=stock, length=length, venue=venue)
        found = self._store.select(sql)
        if found.is_empty():
            none = np.empty(0, np.int64)
            return Totals(none, dict.fromkeys(names, none), None)
        bar, *values, newest = (column.cast(pl.Int64).to_numpy() for column in found.get_columns())
        return Totals(bar, dict(zip(names, values, strict=True)), int(newest.max()))

    def quality(self, query: Query, span: Span) -> pl.DataFrame:
        """Return the quote coverage of each minute of a span, with the columns of `print_sql.quality`."""
        rows, which = self._rows(query, span)
        max_age = (
            None if self.max_quote_age is None else self.max_quote_age // timedelta(microseconds=1) * 1000
        )
        return self._store.select(
            print_sql.quality(self._store.dialect, rows, which, span.start, span.end, max_age)
        )

    def largest(self, query: Query, span: Span, most: int) -> pl.DataFrame:
        """Return the `most` largest counted prints of a span that pass the filter, largest first; of equal sizes the
        earliest."""
        rows, which = self._rows(query, span)
        found = self._store.select(print_sql.largest(rows, which, most))
        if found.is_empty():
            return self._store.catalog.decode(self._store.select_rows(f"FROM ({rows}) AS p WHERE 1 = 0"))
        size, t = found.row(-1)
        among = f"FROM ({rows}) AS p WHERE {which} AND (size > {size} OR (size = {size} AND t <= {t}))"
        order = ("size", *(name for name in EVENT_ORDER if name != "size"))
        descending = [True] + [False] * (len(order) - 1)
        prints = self._store.catalog.decode(self._store.select_rows(among))
        return prints.sort(order, descending=descending, nulls_last=True).head(most)

    def _rows(self, query: Query, span: Span, min_size: int = 1) -> tuple[str, str]:
        """Return the SQL of a symbol's counted prints of a span (as of `at`), and the predicate of the filter."""
        end = span.end if query.at is None else min(span.end, query.at)
        self._require(span.start, end)
        rows = self._store.counted(query.asset, query.symbol, span.start, end, query.at, min_size)
        return rows, print_sql.passes(self._store.dialect, query.filter, span.start, end)

    def summary(self, query: Query, span: Span) -> Summed:
        """Return the sums over the counted prints of a span that pass the filter."""
        rows, which = self._rows(query, span)
        found = Summed(*self._store.select(print_sql.summary(self._store.dialect, rows, which)).row(0))
        # The maximum of no rows is null in DuckDB and 0 in ClickHouse.
        return found if found.trades else found._replace(newest=None)

    def day(self, query: Query) -> Span | None:
        """Return the trading day of the symbol's newest counted print (before `at`), cut at `at`; None without a
        print."""
        newest = self._newest(query)
        self._require(newest or 0, FOREVER if query.at is None else query.at)
        if newest is None:
            return None
        day = datetime.fromtimestamp(newest // 10**9, UTC).astimezone(NEW_YORK).date()
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        return Span(start, end if query.at is None else min(end, query.at), newest)

    def trades(self, query: Query, span: Span) -> int:
        """Return the number of counted prints of a span that pass the filter."""
        self._require(span.start, span.end)
        whole = span.start % NS_PER_MINUTE == 0 and span.end % NS_PER_MINUTE == 0
        if whole and not query.filter.by_print:
            start, end = span.start // NS_PER_MINUTE, span.end // NS_PER_MINUTE
            line = self._kept(query, start, end).line(
                self._number(query), start, end, ("trades",), _right(query)
            )
            return int(line.values["trades"].sum())
        return self.summary(query, span).trades

    def newest(self, query: Query, span: Span, most: int, min_size: int = 1) -> pl.DataFrame:
        """Return the newest counted prints of a span that pass the filter, newest first by `identity.EVENT_ORDER`.

        At most `most` prints, with a size of `min_size` or more. The search begins with the last minutes of the span
        and goes further back while these hold too few.
        """
        # The stored value, not a new read: a print that arrived since may belong to the next day.
        last = span.end - 1 if span.newest is None else min(span.newest, span.end - 1)
        look = Span(max(span.start, last - _FIRST_LOOK), span.end)
        while True:
            rows, which = self._rows(query, look, min_size)
            found = self._store.catalog.decode(self._store.select_rows(print_sql.newest(rows, which, most)))
            if found.height >= most or look.start <= span.start:
                return found.sort(EVENT_ORDER, descending=True, nulls_last=True).head(most)
            look = Span(max(span.start, look.end - _WIDER * (look.end - look.start)), look.end)

    def all_symbols(
        self,
        query: Query,
        start: int,
        end: int,
        names: tuple[str, ...] = SUMS,
        kind: str = "volume",
        *,
        directional: bool = False,
    ) -> AllSymbols:
        """Return all symbols of the query's asset, summed over minutes [start, end), by the query's right and `at`.

        With `query.at`, the sums are point in time, without the effect of cancels from `at` on.

        Args:
            names: of `minute_bars.SUMS`, `trades` among them.
            kind, directional: the squares that the answer needs, as in `CrossSection.squares`.
        """
        self._require(start * NS_PER_MINUTE, end * NS_PER_MINUTE)
        view, right = self._cached(query, start), _right(query)
        section: CrossSection | Pieces
        if view is not None:
            section = view.cross_section(start, end, right, names)
        else:
            pieces = (
                piece.cross_section(low, high, right, names)
                for low, high, piece in self._pieces(query, start, end)
            )
            section = Pieces(pieces, kind, directional=directional)
        return AllSymbols(section, self._store.catalog.named(query.asset))

    def _pieces(self, query: Query, start: int, end: int) -> Iterator[tuple[int, int, View]]:
        """Yield minutes [low, high) and the bars of all symbols in them, from the store as of `at`."""
        series = self._store.catalog.series.filter(pl.col("asset") == query.asset)
        numbers, edges = series["symbol_id"].unique().implode(), query.asset == "stock"
        length = max(_PIECE, -(-(end - start) // _MOST_PIECES))
        for low in range(start, end, length):
            high = min(low + length, end)
            bars = self._store.bars(None, low, high).filter(pl.col("symbol_id").is_in(numbers))
            back = [] if query.at is None else [self._put_back(series["series"], low, high, query.at)]
            yield low, high, View.of([bars], back, edges=edges)

    def underlying(self, query: Query, start: int, end: int) -> tuple[Ints, Ints]:
        """Return the underlying's last mid of each minute in [start, end) (before `at`) on the symbol's option prints:
        minutes since 1970, and prices in 1/10,000 USD."""
        last = end * NS_PER_MINUTE if query.at is None else min(end * NS_PER_MINUTE, query.at)
        self._require(start * NS_PER_MINUTE, last)
        found = self._store.underlying(self._series(query), start * NS_PER_MINUTE, last)
        return found["minute"].to_numpy().astype("int64"), found["price"].to_numpy().astype("int64")

    def oldest(self, query: Query) -> int | None:
        """Return the time (ns UTC) of the oldest counted print of a stock, None without one."""
        self._require(0, FOREVER)
        return self._extent(query, 2**31 - 1)[0]

    def _series(self, query: Query) -> pl.Series:
        """Return the catalog numbers of the symbol's series."""
        return self._store.catalog.find(query.asset, query.symbol)

    def _put_back(self, series: pl.Series, start: int, end: int, at: int) -> pl.DataFrame:
        """Return bars of the prints in minutes [start, end) that were cancelled at `at` or later."""
        missed = self._store.removed_since(series, start * NS_PER_MINUTE, end * NS_PER_MINUTE, at)
        return bars_of(self._store.catalog.decode(missed))

    def _extent(self, query: Query, end: int) -> tuple[int | None, int | None]:
        """Return the times (ns) of the oldest (stocks only) and newest counted print before minute `end`."""
        number = self._number(query)
        return (None, None) if number < 0 else self._store.extent(number, end)

    def _newest(self, query: Query) -> int | None:
        """Return the time of the symbol's newest counted print (before `at`), regardless of the filter."""
        series = self._series(query)
        if query.at is None:
            cached = None if self._cache is None else self._cache.of(query.asset)
            newest = None if cached is None else cached.newest(self._number(query))
            return self._extent(query, 2**31 - 1)[1] if newest is None else newest
        minute = query.at // NS_PER_MINUTE
        plain = Query(asset=query.asset, symbol=query.symbol, at=query.at)
        begun = self.summary(plain, Span(minute * NS_PER_MINUTE, query.at)).newest
        back = self._store.removed_since(series, 0, query.at, query.at)
        known = [self._extent(query, minute)[1], begun, back["ts"].to_physical().max()]
        return max((ts for ts in known if isinstance(ts, int)), default=None)


def _right(query: Query) -> int | None:
    """Return the index of the query's right in `catalog.RIGHTS`, None for both."""
    return None if query.filter.right is None else RIGHTS.index(query.filter.right)
