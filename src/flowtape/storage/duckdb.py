"""The embedded store: one DuckDB file, with readable views (`prints`, `minutes`, `removals`) for other tools."""

from __future__ import annotations

from datetime import date

import polars as pl

from flowtape.model.prints import day_bounds
from flowtape.orderflow.identity import PRECEDENCE
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.orderflow.quotes import STANDING
from flowtape.storage import Changes, Point
from flowtape.storage.catalog import (
    CLUSTER,
    GROUP,
    ROW_IDENTITY,
    ROW_SLOT,
    ROWS,
    STORED,
    last_mids,
    typed,
)
from flowtape.storage.dialect import CANCELS, DUCKDB
from flowtape.storage.duckdb_bars import of_symbols
from flowtape.storage.duckdb_days import Days, between, day_overlaps, days_of
from flowtape.storage.duckdb_file import check_reads
from flowtape.storage.duckdb_tables import PRINT_COLUMNS

KNOWN = ("print_id", "removed_at", *PRECEDENCE)


class DuckStore(Days):
    """A `Store` in one DuckDB file."""

    dialect = DUCKDB
    shared = False
    claims_version = 0

    def known(self, rows: pl.DataFrame) -> pl.DataFrame:
        ts = rows["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        within = f"FROM print_rows WHERE {between(first, last + 1)}"
        # A tape in order of time meets what is kept only at its edge, and only there need it be compared.
        low, high = self._frame(f"SELECT epoch_ns(min(ts)) a, epoch_ns(max(ts)) b {within}", True).row(0)
        if low is None:
            return pl.DataFrame(schema={"row": pl.UInt32, **{name: STORED[name] for name in KNOWN}})
        fresh = rows.select(*ROW_IDENTITY).with_row_index("row").filter(ts.is_between(low, high))
        names, quote = ", ".join(ROW_IDENTITY), ", ".join(KNOWN)
        sql = f"SELECT row, {quote} FROM fresh JOIN (SELECT {names}, {quote} {within}) USING ({names})"
        return self._frame(sql, True, fresh=fresh).cast({"row": pl.UInt32})

    def sources(self) -> pl.DataFrame:
        return self._frame("SELECT asset, symbol, day, source FROM sources")

    def claim(self, days: pl.DataFrame) -> None:
        self._run("INSERT INTO sources SELECT asset, symbol, day, source FROM days", days=days)

    def drop_day(self, asset: str, symbol: str, day: date) -> None:
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        number = self.catalog.symbol_id(asset, symbol)
        if number is not None:
            self._run(f"DELETE FROM print_rows WHERE symbol_id = {number} AND {between(start, end)}")
        self._write_day(pl.Series([day]))
        self._run("DELETE FROM sources WHERE asset = ? AND symbol = ? AND day = ?", [asset, symbol, day])

    def clear_minutes(self, start: int, end: int) -> None:
        found = self._frame("SELECT day FROM days WHERE bars", True)["day"]
        self._write_day(pl.Series([day for day in found if day_overlaps(day, start, end)], dtype=pl.Date))

    def append_prints(self, rows: pl.DataFrame) -> None:
        series, venues = self.catalog.fresh()
        if series.height:
            self._run('INSERT INTO series SELECT series, asset, symbol, root, expiry, "right", symbol_id FROM fresh',
                      fresh=series)  # fmt: skip
        if venues.height:
            self._run("INSERT INTO venues SELECT venue, name FROM fresh", fresh=venues)
        if rows.height:
            first = self._last_id + 1
            self._last_id += rows.height
            numbers = pl.int_range(first, first + rows.height, eager=True).alias("print_id")
            removed = pl.lit(None, STORED["removed_at"]).alias("removed_at")
            self._insert(rows.with_columns(numbers, removed))
            self._write_day(days_of(rows))

    def _insert(self, rows: pl.DataFrame) -> None:
        small = (
            (pl.col("ts").to_physical() - pl.col("quote_ts").to_physical()).alias("quote_age"),
            (pl.col("ask") - pl.col("bid").fill_null(0)).alias("spread"),
        )
        sql = f"INSERT INTO print_rows ({PRINT_COLUMNS}) SELECT {PRINT_COLUMNS} FROM fresh"
        self._run(sql, fresh=rows.with_columns(small).drop("quote_ts", "ask"))

    def replace_prints(self, rows: pl.DataFrame) -> None:
        self.remove_prints(rows)
        self._insert(rows.sort(CLUSTER))

    def remove_prints(self, rows: pl.DataFrame) -> None:
        ts = rows["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        which = f"{between(first, last + 1)} AND print_id IN (SELECT print_id FROM gone)"
        self._run(f"DELETE FROM print_rows WHERE {which}", gone=rows.select("print_id"))
        self._write_day(days_of(rows), moved=True)

    def set_removed(self, rows: pl.DataFrame) -> None:
        self.replace_prints(rows)

    def counted(
        self, asset: str, symbol: str, start: int, end: int, at: int | None, min_size: int = 1
    ) -> str:
        known = self.catalog.symbol_id(asset, symbol)
        number = -1 if known is None else known
        later = "" if at is None else f" OR removed_at >= make_timestamp_ns({at})"
        return (
            f"SELECT *, epoch_ns(ts) AS t, epoch_ns(ts) // 60000000000 AS minute FROM print_rows"
            f" WHERE symbol_id = {number} AND {between(start, end)}"
            f" AND condition NOT IN ({CANCELS}) AND size >= {min_size} AND (removed_at IS NULL{later})"
        )

    def select(self, sql: str) -> pl.DataFrame:
        return self._frame(sql)

    def query(self, sql: str) -> pl.DataFrame:
        """Return the rows of a user's statement. Raises `UsageError` unless it is one and only reads."""
        check_reads(sql)
        return self._frame(sql)

    def select_rows(self, sql: str) -> pl.DataFrame:
        return self._frame(f"SELECT {', '.join(ROWS)} {sql}")

    def prints(self, series: pl.Series, start: int, end: int, min_size: int = 1) -> pl.DataFrame:
        which = f"SEMI JOIN keys USING (series) WHERE size >= {min_size} AND {self._whose(series)}"
        return self._prints(start, end, which, own=False, keys=series.alias("series").to_frame())

    def underlying(self, series: pl.Series, start: int, end: int) -> pl.DataFrame:
        which = f"{between(start, end)} AND {self._whose(series)} AND underlying IS NOT NULL"
        keys = series.alias("series").to_frame()
        # The rows of the last instants are few, and only their columns are read.
        with self._one_state():
            instants = self._frame(
                "SELECT max(ts) AS ts FROM print_rows SEMI JOIN keys USING (series)"
                f" WHERE {which} GROUP BY epoch_ns(ts) // 60000000000",
                keys=keys,
            )["ts"].to_physical()
            named = ", ".join(f"make_timestamp_ns({ts})" for ts in instants)
            rows = self._frame(
                f"SELECT {', '.join(ROWS)} FROM print_rows SEMI JOIN keys USING (series)"
                f" WHERE {which} AND ts IN ({named or 'NULL'})",
                keys=keys,
            )
        return last_mids(self.catalog, rows)

    def _whose(self, series: pl.Series) -> str:
        """Return the predicate of the symbols of some series: rows lie in order of symbols, so others are skipped."""
        return of_symbols(self.catalog.series["symbol_id"].gather(series.cast(pl.UInt32)).unique().to_list())

    def prints_of(self, keys: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
        """Return rows that match some keys, with those of the open transaction."""
        return self._prints(
            start, end, f"SEMI JOIN keys USING ({', '.join(keys.columns)})", own=True, keys=keys
        )

    def _prints(self, start: int, end: int, which: str, own: bool, **frames: pl.DataFrame) -> pl.DataFrame:
        sql = f"""
            WITH p AS (SELECT *, epoch_ns(ts) // 60000000000 AS minute FROM print_rows WHERE {between(start, end)})
            SELECT {", ".join(STORED)} FROM p {which}"""
        return self._frame(sql, own, **frames)

    def removed_since(self, series: pl.Series, start: int, end: int, at: int) -> pl.DataFrame:
        sql = f"""SELECT {", ".join(ROWS)} FROM print_rows SEMI JOIN keys USING (series)
            WHERE {between(start, end)} AND {self._whose(series)} AND removed_at >= make_timestamp_ns({at})"""
        return self._frame(sql, keys=series.alias("series").to_frame())

    def cancelled_groups(self, start: int, end: int) -> pl.DataFrame:
        return self._frame(
            f"SELECT {', '.join(GROUP)}, epoch_ns(max(ts)) AS last FROM print_rows"
            f" WHERE condition IN ({CANCELS}) AND {between(start, end)} GROUP BY ALL",
            True,
        )

    def corrections(self, start: int, end: int) -> pl.DataFrame:
        sql = f"SELECT {', '.join(ROW_SLOT)} FROM print_rows WHERE corrects = 1 AND {between(start, end)}"
        return typed(self._frame(sql, True), {name: ROWS[name] for name in ROW_SLOT})

    def append_bars(self, bars: pl.DataFrame) -> None:
        """Do nothing: the store makes bars from prints."""

    def replace_bars(self, keys: pl.DataFrame, bars: pl.DataFrame) -> None:
        """Do nothing: the store makes bars from prints."""

    def compact(self, start: int, end: int) -> None:
        """Do nothing: the store makes bars from prints."""

    def extent(self, symbol: int, end: int) -> tuple[int | None, int | None]:
        sql = f"""SELECT epoch_ns(min(ts)) a, epoch_ns(max(ts)) b FROM print_rows
            WHERE symbol_id = {symbol} AND ts < make_timestamp_ns({min(end * NS_PER_MINUTE, 2**62)})
            AND removed_at IS NULL AND condition NOT IN ({CANCELS})"""
        low, high = self._frame(sql).row(0)
        return low if self.catalog.series["asset"][symbol] == "stock" else None, high

    def take_over(self, source: str) -> None:
        """Do nothing: the lock on the file allows one process."""

    def release(self, source: str) -> None:
        """Do nothing: the lock on the file allows one process."""

    def cursor(self, source: str) -> str | None:
        found = self._frame("SELECT source, position FROM cursors").filter(pl.col("source") == source)
        return None if found.is_empty() else str(found["position"][0])

    def cursors(self, beginning: str) -> dict[str, str]:
        found = self._frame("SELECT source, position FROM cursors")
        return dict(found.filter(pl.col("source").str.starts_with(beginning)).iter_rows())

    def set_cursor(self, source: str, position: str) -> None:
        self._run("DELETE FROM cursors WHERE source = ?", [source])
        self._run("INSERT INTO cursors VALUES (?, ?)", [source, position])

    def standing(self, source: str) -> pl.DataFrame:
        names = ", ".join(STANDING)
        kept = self._frame(f"SELECT source, {names} FROM standing_quotes").filter(pl.col("source") == source)
        return kept.select(pl.col(name).cast(dtype) for name, dtype in STANDING.items())

    def set_standing(self, source: str, quotes: pl.DataFrame) -> None:
        self._run("DELETE FROM standing_quotes s USING quotes q WHERE s.instrument = q.instrument AND s.source = ?",
                  [source], quotes=quotes)  # fmt: skip
        names = ", ".join(STANDING)
        self._run(f"INSERT INTO standing_quotes SELECT ?, {names} FROM quotes", [source], quotes=quotes)

    def point(self) -> Point:
        return Point({})

    def changes(self, before: Point, oldest: int) -> Changes:
        """Return no changes: no other process can write."""
        return Changes(before, pl.DataFrame())

    def span(self) -> tuple[int, int] | None:
        low, high = self._frame("SELECT epoch_ns(min(ts)) a, epoch_ns(max(ts)) b FROM print_rows").row(0)
        return None if low is None else (low, high)
