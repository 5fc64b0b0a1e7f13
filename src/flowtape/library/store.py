"""A store as an object that answers the questions of the HTTP API with frames."""

from __future__ import annotations

import os
import re
import time
import warnings
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec
import polars as pl

from flowtape import queries
from flowtape.errors import StoreBusy, StoreError, UsageError
from flowtape.library import arguments
from flowtape.model.prints import PRICE_SCALE
from flowtape.model.query import Query
from flowtape.model.symbols import meant
from flowtape.pipeline.provenance import SIMULATED
from flowtape.queries.flow_data import FlowData
from flowtape.storage import Store, open_store, shared

Asset = Literal["option", "stock"]
PriceType = Literal["float", "fixed"]
Instant = str | datetime
Day = str | date | tuple[date | None, date | None] | list[date]
Number = str | int | tuple[int | None, int | None]
Price = str | float | Decimal | tuple[float | Decimal | None, float | Decimal | None]
Words = str | list[str]

_PRICES = (
    "price",
    "bid",
    "ask",
    "strike",
    "vwap",
    "open",
    "high",
    "low",
    "close",
    "last_vwap",
    "avg_premium",
)
"""Columns in USD a share. The others in USD are amounts of money."""
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")


def open(store: str | Path) -> FlowStore:  # noqa: A001
    """Open a store to read it.

    Args:
        store: the path of a DuckDB file, or an address such as `clickhouse://user@host/flow`.

    Returns:
        The store, which a `with` statement closes.

    Raises:
        UsageError: where there is no such file, or the address cannot be understood.
        StoreBusy: while a server or another writer holds the file. A server answers the same questions over HTTP.
        StoreError: where the file is no store.

    Example:
        >>> with flowtape.open("flow.duckdb") as store:
        ...     line = store.cumulative("SPY", minutes=390, at="2026-05-12T20:00:00Z")
    """
    from flowtape.settings import load

    if not isinstance(store, str | os.PathLike):
        raise UsageError(f"store: expected a path or an address, not {type(store).__name__} {store!r}")
    name = os.fspath(store)
    if not shared(name):
        if Path(name).is_dir():
            raise UsageError(f"store: {name!r} is a folder, not a store's file")
        if not Path(name).exists():
            raise UsageError(f"store: there is no file {name!r}; flowtape ingest makes one")
    try:
        return FlowStore(open_store(name, read_only=True), load().quote_age)
    except StoreBusy as error:
        raise StoreBusy(f"{error}; ask its server over HTTP, or open the store once it has ended") from None


class FlowStore:
    """The answers of the HTTP API as frames, from a store that is open to read. Made by `flowtape.open`.

    Every method takes the parameters of its route, by the same names in lower case with underscores, and refuses what
    the route refuses, with the same words. Values may be texts as in a URL, or Python values:

    - `at`, `from_` and `to`: a text (without a zone, UTC), or a date-time with a time zone. Without `at`, an answer is
      of now.
    - `expiry`: a date, a range `(first, last)`, or a list of them. None is an open end.
    - `dte` (days to expiry) and `strike` (USD): a number, or a range `(first, last)`, both included.
    - `right`: `"C"` or `"P"`; `side`: `"buy"` or `"sell"`; `exclude`: families of sale conditions, a text or a list.
    - `asset`: `"option"` or `"stock"`. The filters `expiry`, `right`, `dte` and `strike` are of options.
    - `price_type`: `"float"` gives prices as floats in USD; `"fixed"` as integers of 1/10,000 USD, which are exact.
      Amounts of money, such as a premium, are floats in USD in both.

    Columns are those of the API's answer in lower case with underscores. Instants are in UTC. Volumes are whole
    contracts or shares. An answer without a row is an empty frame, and a warning says when the newest print is.
    """

    def __init__(self, store: Store, max_quote_age: timedelta | None) -> None:
        self._store = store
        self._max_quote_age = max_quote_age

    def __enter__(self) -> FlowStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store. It may be called again."""
        self._store.close()

    def cumulative(
        self,
        symbol: str,
        *,
        minutes: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        from_: Instant | None = None,
        to: Instant | None = None,
        right: str | None = None,
        expiry: Day | None = None,
        dte: Number | None = None,
        strike: Price | None = None,
        side: str | None = None,
        exclude: Words | None = None,
        measure: str | None = None,
        anchor: str | None = None,
        split: str | None = None,
        include: str | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return net volume a minute and its running sum, oldest first. Minutes without a print are left out.

        Args:
            symbol: the underlying, such as `SPY`.
            minutes: length of the window, 240 by default; it ends by `at`.
            asset: `"option"` or `"stock"`.
            at: the instant the answer is of; only what was known by it counts.
            from_: in place of `minutes`, the first minute, of any time kept.
            to: with `from_`, the end, itself not included.
            right: calls (`"C"`) or puts (`"P"`) only.
            expiry: expirations.
            dte: days from the trading day to the expiry.
            strike: strikes in USD.
            side: `"buy"` or `"sell"` only.
            exclude: families of sale conditions to leave out.
            measure: `"volume"` (contracts or shares), `"premium"` (USD), `"directional"` or `"directional_premium"`.
            anchor: where the running sum begins: `"window"`, or `"session"` for each session's open.
            split: `"right"` for calls and puts apart.
            include: `"quality"` adds what each minute's numbers rest on.
            price_type: `"float"` or `"fixed"`; see the class.

        Returns:
            `ts` (start of the minute), `net_volume` (or `net_premium`), `cumulative`, `vwap` (a share), `trade_count`.

        Raises:
            UsageError: for an argument that cannot be used; it names the argument and its value.
            StoreError: where the store cannot be read.
        """
        asked = dict(
            minutes=minutes, at=at, from_=from_, to=to, right=right, expiry=expiry, dte=dte, strike=strike,
            side=side, exclude=exclude, measure=measure, anchor=anchor, split=split, include=include,
        )  # fmt: skip
        return self._answer("cumulative", asset, symbol, price_type, asked)

    def history(
        self,
        symbol: str,
        *,
        minutes: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        from_: Instant | None = None,
        to: Instant | None = None,
        right: str | None = None,
        expiry: Day | None = None,
        dte: Number | None = None,
        strike: Price | None = None,
        side: str | None = None,
        exclude: Words | None = None,
        include: str | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return volume by side, VWAP and extremes of each minute, newest first. `minutes` is 60 by default.

        See `cumulative` for the arguments and errors.
        """
        asked = dict(minutes=minutes, at=at, from_=from_, to=to, right=right, expiry=expiry, dte=dte, strike=strike,
                     side=side, exclude=exclude, include=include)  # fmt: skip
        return self._answer("history", asset, symbol, price_type, asked)

    def summary(
        self,
        symbol: str,
        *,
        asset: Asset = "option",
        at: Instant | None = None,
        right: str | None = None,
        expiry: Day | None = None,
        dte: Number | None = None,
        strike: Price | None = None,
        side: str | None = None,
        exclude: Words | None = None,
    ) -> pl.DataFrame:
        """Return the newest trading day (up to `at`) in one row: prints, volume by side, the largest print.

        See `cumulative` for the arguments and errors.
        """
        asked = dict(at=at, right=right, expiry=expiry, dte=dte, strike=strike, side=side, exclude=exclude)
        return self._answer("summary", asset, symbol, "float", asked)

    def divergence(
        self,
        symbol: str,
        *,
        minutes: int | None = None,
        lookback: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        right: str | None = None,
        expiry: Day | None = None,
        dte: Number | None = None,
        strike: Price | None = None,
        side: str | None = None,
        exclude: Words | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return the slopes of cumulative flow and of the underlying's price as t-statistics, oldest first.

        `minutes` is 240 by default, `lookback` 30 minutes. See `cumulative` for the other arguments and the errors.
        """
        asked = dict(minutes=minutes, lookback=lookback, at=at, right=right, expiry=expiry, dte=dte, strike=strike,
                     side=side, exclude=exclude)  # fmt: skip
        return self._answer("divergence", asset, symbol, price_type, asked)

    def sessions(
        self,
        symbol: str,
        *,
        days: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        right: str | None = None,
        expiry: Day | None = None,
        dte: Number | None = None,
        strike: Price | None = None,
        side: str | None = None,
        exclude: Words | None = None,
    ) -> pl.DataFrame:
        """Return the parts of the newest trading days (5 by default), newest day first, one row a part.

        See `cumulative` for the other arguments and the errors.
        """
        asked = dict(
            days=days, at=at, right=right, expiry=expiry, dte=dte, strike=strike, side=side, exclude=exclude
        )
        return self._answer("sessions", asset, symbol, "float", asked)

    def recent(
        self,
        symbol: str,
        *,
        limit: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        expiry: Day | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return the newest prints of the newest trading day, newest first, 50 by default.

        See `cumulative` for the other arguments and the errors.
        """
        return self._answer("recent", asset, symbol, price_type, dict(limit=limit, at=at, expiry=expiry))

    def blocks(
        self,
        symbol: str,
        *,
        min_size: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        expiry: Day | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return the newest prints of `min_size` or more of the newest trading day, newest first, at most 500.

        `min_size` is 100 contracts or 10,000 shares by default. See `cumulative` for the other arguments and the
        errors.
        """
        return self._answer(
            "blocks", asset, symbol, price_type, dict(min_size=min_size, at=at, expiry=expiry)
        )

    def leaderboard(
        self,
        *,
        n: int | None = None,
        window_minutes: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        right: str | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return the symbols bought most and sold most by net notional in USD; `list` is `buyers` or `sellers`.

        `n` is the most symbols of each list, 10 by default, `window_minutes` 240. See `cumulative` for the other
        arguments and the errors.
        """
        asked = dict(n=n, window_minutes=window_minutes, at=at, right=right)
        return self._answer("leaderboard", asset, None, price_type, asked)

    def outliers(
        self,
        *,
        limit: int | None = None,
        min_trades: int | None = None,
        window_minutes: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        right: str | None = None,
        price_type: PriceType = "float",
    ) -> pl.DataFrame:
        """Return the symbols with the largest net notional in USD, bought or sold, largest first.

        `limit` is the most rows, 20 by default, `min_trades` the least prints of a symbol, 20 by default. See
        `cumulative` for the other arguments and the errors.
        """
        asked = dict(limit=limit, min_trades=min_trades, window_minutes=window_minutes, at=at, right=right)
        return self._answer("outliers", asset, None, price_type, asked)

    def drift(
        self,
        *,
        limit: int | None = None,
        min_trades: int | None = None,
        window_minutes: int | None = None,
        asset: Asset = "option",
        at: Instant | None = None,
        right: str | None = None,
    ) -> pl.DataFrame:
        """Return symbols by how far their net volume is from zero, against their own past and their volume.

        See `outliers` for the arguments, and `cumulative` for the errors.
        """
        asked = dict(limit=limit, min_trades=min_trades, window_minutes=window_minutes, at=at, right=right)
        return self._answer("drift", asset, None, "float", asked)

    def sql(self, query: str) -> pl.DataFrame:
        """Return the rows of an SQL query over the store's views: `prints`, `minutes`, `minute_bars`, `removals` and
        `sources`.

        Args:
            query: one statement that reads, in the SQL of the store: DuckDB's, or ClickHouse's. In ClickHouse, prices
                are integers of 1/10,000 USD.

        Raises:
            UsageError: for a statement that DuckDB refuses; the text is DuckDB's.
            StoreError: where the store cannot be read, and for a statement that ClickHouse refuses.
        """
        import duckdb

        if not isinstance(query, str):
            raise UsageError(f"query: expected a text, not {type(query).__name__}")
        try:
            return self._store.query(query.strip().rstrip(";"))
        except StoreError as error:
            if isinstance(error.__cause__, duckdb.ProgrammingError):
                raise UsageError(f"query: {error.__cause__}") from None
            raise

    def symbols(self, asset: Asset = "option") -> list[str]:
        """Return the symbols that have prints, sorted."""
        return sorted(self._store.catalog.symbols(_asset(asset)))

    def span(self) -> tuple[datetime, datetime] | None:
        """Return the times of the oldest and the newest print, to the second; None of an empty store."""
        found = self._store.span()
        if found is None:
            return None
        oldest, newest = (datetime.fromtimestamp(ns // 10**9, UTC) for ns in found)
        return oldest, newest

    def simulated(self, symbol: str, asset: Asset = "option") -> bool:
        """Return whether any of a symbol's prints is simulated."""
        symbol = meant(symbol, self._store.catalog.symbols(_asset(asset)))
        mine = self._store.sources().filter(pl.col("asset") == asset, pl.col("symbol") == symbol)
        return SIMULATED in mine["source"]

    def _answer(
        self, name: str, asset: Asset, symbol: str | None, price_type: str, asked: dict[str, Any]
    ) -> pl.DataFrame:
        """Return the rows of a route's answer; of a span that takes several pages, all of them."""
        from flowtape.server.routes import FLOW

        if price_type not in ("float", "fixed"):
            raise UsageError(f"price_type: {price_type!r} is neither float nor fixed")
        route = FLOW[_asset(asset), name]
        pairs, parts = arguments.texts(asked), list[pl.DataFrame]()
        more: list[tuple[str, str]] = []
        while True:
            query = self._query(route, symbol, [*pairs, *more])
            with self._store.snapshot():
                made = route.answer(FlowData(self._store, None, time.time_ns(), self._max_quote_age), query)
            parts.append(queries.table(made.body))
            cursor = getattr(made.body, "next_cursor", None)
            if not isinstance(cursor, str):
                break
            more = [("cursor", cursor)]
        found = pl.concat(parts, how="vertical_relaxed")
        if found.is_empty() or (name == "summary" and made.as_of is None):
            self._warn_of_nothing(query)
        return _prices(found.rename(lambda column: _CAPITAL.sub(r"_\1", column).lower()), price_type)

    def _query(self, route: Any, symbol: str | None, pairs: list[tuple[str, str]]) -> Query:
        """Return the query of a route's parameters, read by the code of the HTTP server."""
        from flowtape.server.errors import ErrorBody, Refusal
        from flowtape.server.queries import read_request

        known = [param.name for param in route.params]
        for name, value in pairs:
            if name not in known:
                raise UsageError(f"{name}: {value!r} is given, but {route.path} has no such parameter")
        if symbol is not None and not isinstance(symbol, str):
            raise UsageError(f"symbol: expected a text, not {type(symbol).__name__} {symbol!r}")
        try:
            query = read_request(route.asset, route.params, {"symbol": symbol or ""}, pairs).query
        except Refusal as refusal:
            body = refusal.body
            raise UsageError(body.message if isinstance(body, ErrorBody) else str(body)) from None
        if not query.symbol:
            return query
        found = meant(query.symbol, self._store.catalog.symbols(query.asset))
        return msgspec.structs.replace(query, symbol=found)

    def _warn_of_nothing(self, query: Query) -> None:
        """Warn that an answer has no row, and say what is kept."""
        if query.symbol and query.symbol not in self._store.catalog.symbols(query.asset):
            text = f"{query.symbol}: the store has no print of this {query.asset}"
        elif (span := self.span()) is None:
            text = "the store is empty"
        else:
            newest = f"{span[1]:%Y-%m-%dT%H:%M:%SZ}"
            text = f"{query.symbol or 'all symbols'}: no print fits; the newest print of the store is of {newest}"
        warnings.warn(text, stacklevel=4)


def _asset(asset: str) -> Asset:
    if asset not in ("option", "stock"):
        raise UsageError(f"asset: {asset!r} is neither option nor stock")
    return "option" if asset == "option" else "stock"


def _prices(frame: pl.DataFrame, price_type: str) -> pl.DataFrame:
    """Return a frame with its prices in USD as floats, or exact, as integers of 1/10,000 USD."""
    if price_type == "float":
        return frame
    # Each is the double nearest to a decimal of four places, so the integer comes back exactly.
    return frame.with_columns(
        (pl.col(name) * PRICE_SCALE).round().cast(pl.Int64) for name in _PRICES if name in frame.columns
    )
