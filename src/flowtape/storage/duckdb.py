"""The embedded store: one DuckDB file, with readable views (`prints`, `minutes`, `removals`) for other tools."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from flowtape.errors import StoreBusy, StoreError
from flowtape.files import Held, private
from flowtape.model.prints import day_bounds
from flowtape.orderflow.identity import PRECEDENCE
from flowtape.orderflow.minute_bars import FIELDS, merge
from flowtape.orderflow.quotes import STANDING
from flowtape.storage import UNRELEASED, Changes, Point, other_format
from flowtape.storage.catalog import (
    BAR_KEY,
    GROUP,
    ROW_IDENTITY,
    ROW_SLOT,
    ROWS,
    SERIES,
    VENUES,
    Catalog,
    last_mids,
    typed,
)
from flowtape.storage.dialect import CANCELS, DUCKDB
from flowtape.storage.duckdb_tables import DDL, STANDING_QUOTES, VERSION

_CONFIG: dict[str, Any] = {
    # DuckDB would fetch an extension from the network where a name or a query seems to need one.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
CLOSE_WAIT = 5.0
"""Seconds that closing waits for a transaction to end."""


class _Arrow:
    """A frame or a query's result shown by its Arrow C stream alone: DuckDB would ask for pyarrow if it knew
    the frame for what it is, and Polars would keep DuckDB's types alive past the interpreter's end."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


class DuckStore:
    """A `Store` in one DuckDB file."""

    dialect = DUCKDB
    claims_version = 0

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        # Not one of a thread's own: who ends a transaction may not be who began it.
        self._write = threading.Lock()
        self._mine = threading.local()
        try:
            if path.exists() and not path.is_file():
                raise OSError("it is not a regular file")
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            with private():
                # Absolute: DuckDB takes what stands before a colon at the beginning for a kind of database.
                self._db = duckdb.connect(str(path.absolute()), read_only=read_only, config=_CONFIG)
        except (duckdb.Error, OSError) as error:
            raise _opening(path, error) from None
        self._held = Held(path)
        try:
            with private():
                self._prepare(read_only)
        except (duckdb.Error, StoreError) as error:
            self._db.close()
            self._held.release()
            raise _opening(path, error) from None

    def _prepare(self, read_only: bool) -> None:
        # Row order within a commit means nothing here, and keeping it costs a third of the write speed. A
        # large checkpoint threshold keeps a bulk ingest from rewriting the file over and over.
        self._db.execute("SET preserve_insertion_order = false; SET checkpoint_threshold = '256MB'")
        self._db.execute("SET memory_limit = '1GB'")
        tables = {row[0] for row in self._db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if not tables and not read_only:
            self._db.execute(f"BEGIN; {DDL} COMMIT")
        elif "meta" not in tables:
            raise StoreError("it is a DuckDB file, but not a flowtape store")
        (version,) = self._db.execute("SELECT value FROM meta WHERE name = 'version'").fetchall()[0]
        if version == VERSION and not self._classifies():
            version = UNRELEASED
        if version != VERSION:
            raise StoreError(other_format(version, VERSION))
        if not read_only:
            self._db.execute(STANDING_QUOTES)
        series = self._frame('SELECT series, asset, symbol, root, expiry, "right", symbol_id FROM series')
        venues = self._frame("SELECT venue, name FROM venues")
        self.catalog = Catalog.of(typed(series, SERIES), typed(venues, VENUES))

    def _classifies(self) -> bool:
        columns = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'print_rows'"
        return ("side",) in self._db.execute(columns).fetchall()

    def close(self) -> None:
        """Commit what DuckDB still holds back and release the file; a transaction that is open is undone."""
        free = self._write.acquire(timeout=CLOSE_WAIT)
        try:
            # What is committed is in the file or in its log, also where closing could not fold the log into the file.
            with suppress(duckdb.Error):
                self._db.close()
            self._held.release()
        finally:
            if free:
                self._write.release()

    def check(self) -> None:
        """See `Store.check`."""
        # DuckDB goes on reading a file that was taken from under it; what it then says would not outlive it.
        if not self.path.exists():
            raise StoreError(f"{self.path.name}: the store's file is gone")
        self._frame("SELECT value FROM meta")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `Store.transaction`."""
        with self._write:
            try:
                self._db.execute("BEGIN")
                yield
                # The write-ahead log is made here, where there is none yet.
                with private():
                    self._db.execute("COMMIT")
            except BaseException as error:
                self.catalog.rollback()
                with suppress(duckdb.Error):  # the fault itself is what gets told
                    self._db.execute("ROLLBACK")
                if isinstance(error, duckdb.Error):
                    raise StoreError(f"{self.path.name}: {_first_line(error)}") from error
                raise
            self.catalog.settle()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See `Store.snapshot`."""
        self._mine.reader = None
        self._mine.held = True
        try:
            yield
        finally:
            self._mine.held = False
            if self._mine.reader is not None:
                with suppress(duckdb.Error):
                    self._mine.reader.close()

    # A cursor is DuckDB's name for a connection of one's own on the same database: reads on it see what is
    # committed and never wait for a writer.
    def _reader(self) -> Any:
        if not getattr(self._mine, "held", False):
            return self._db.cursor()
        if self._mine.reader is None:
            self._mine.reader = self._db.cursor()
            self._mine.reader.execute("BEGIN")
        return self._mine.reader

    def _frame(self, sql: str, own: bool = False, /, **frames: pl.DataFrame) -> pl.DataFrame:
        """Run a query over the store and the given frames; `own` sees the open transaction."""
        try:
            connection = self._db if own else self._reader()
        except duckdb.Error as error:
            raise StoreError(f"{self.path.name}: {_first_line(error)}") from error
        try:
            for name, frame in frames.items():
                connection.register(name, _Arrow(frame))
            return pl.DataFrame(_Arrow(connection.sql(sql)))
        except duckdb.Error as error:
            raise StoreError(f"{self.path.name}: {_first_line(error)}") from error
        finally:
            _let_go(connection, frames)
            if not own and not getattr(self._mine, "held", False):
                with suppress(duckdb.Error):
                    connection.close()

    def _run(self, sql: str, parameters: list[Any] | None = None, /, **frames: pl.DataFrame) -> None:
        """Run a statement in the open transaction."""
        try:
            for name, frame in frames.items():
                self._db.register(name, _Arrow(frame))
            self._db.execute(sql, parameters)
        finally:
            _let_go(self._db, frames)

    def known(self, rows: pl.DataFrame) -> pl.DataFrame:
        """See `Store.known`."""
        ts = rows["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        within = f"FROM print_rows WHERE {_between(first, last + 1)}"
        # A tape in order of time meets what is kept only at its edge, and only there need it be compared.
        low, high = self._frame(f"SELECT epoch_ns(min(ts)) a, epoch_ns(max(ts)) b {within}", True).row(0)
        if low is None:
            return pl.DataFrame(schema={"row": pl.UInt32, **{name: ROWS[name] for name in PRECEDENCE}})
        fresh = rows.select(*ROW_IDENTITY).with_row_index("row").filter(ts.is_between(low, high))
        names, quote = ", ".join(ROW_IDENTITY), ", ".join(PRECEDENCE)
        sql = f"SELECT row, {quote} FROM fresh JOIN (SELECT {names}, {quote} {within}) USING ({names})"
        return self._frame(sql, True, fresh=fresh).cast({"row": pl.UInt32})

    def sources(self) -> pl.DataFrame:
        """See `Store.sources`."""
        return self._frame("SELECT asset, symbol, day, source FROM sources")

    def claim(self, days: pl.DataFrame) -> None:
        """See `Store.claim`."""
        self._run("INSERT INTO sources SELECT asset, symbol, day, source FROM days", days=days)

    def classified(self) -> pl.DataFrame:
        """See `Store.classified`."""
        return self._frame("SELECT day, classification FROM classified")

    def set_classified(self, days: list[date], classification: str, *, whole: bool = False) -> None:
        """See `Store.set_classified`."""
        for day in days:
            if whole:
                self._run(
                    "DELETE FROM classified WHERE day = ? AND classification != ?", [day, classification]
                )
            self._run("INSERT OR IGNORE INTO classified VALUES (?, ?)", [day, classification])

    def drop_day(self, asset: str, symbol: str, day: date) -> None:
        """See `Store.drop_day`."""
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        numbers = self.catalog.find(asset, symbol).to_frame()
        self._forget(start, end, "AND series IN (SELECT series FROM numbers)", numbers, also_prints=True)
        self._run("DELETE FROM sources WHERE asset = ? AND symbol = ? AND day = ?", [asset, symbol, day])

    def clear_minutes(self, start: int, end: int) -> None:
        """See `Store.clear_minutes`."""
        self._forget(start, end, "", pl.DataFrame(), also_prints=False)

    def _forget(self, start: int, end: int, which: str, numbers: pl.DataFrame, also_prints: bool) -> None:
        frames = {"numbers": numbers} if which else {}
        for table in ("print_rows", "removed_rows")[0 if also_prints else 1 :]:
            self._run(f"DELETE FROM {table} WHERE {_between(start, end)} {which}", **frames)
        low, high = start // 60_000_000_000, end // 60_000_000_000
        self._run(f"DELETE FROM bar_rows WHERE minute >= {low} AND minute < {high} {which}", **frames)

    def append_prints(self, rows: pl.DataFrame) -> None:
        """See `Store.append_prints`."""
        series, venues = self.catalog.fresh()
        if series.height:
            self._run('INSERT INTO series SELECT series, asset, symbol, root, expiry, "right", symbol_id FROM fresh',
                      fresh=series)  # fmt: skip
        if venues.height:
            self._run("INSERT INTO venues SELECT venue, name FROM fresh", fresh=venues)
        if rows.height:
            self._run(f"INSERT INTO print_rows SELECT {', '.join(ROWS)} FROM fresh", fresh=rows)

    def replace_prints(self, rows: pl.DataFrame) -> None:
        """See `Store.replace_prints`."""
        self._delete("print_rows", rows)
        self._run(f"INSERT INTO print_rows SELECT {', '.join(ROWS)} FROM fresh", fresh=rows)

    def remove_prints(self, rows: pl.DataFrame) -> None:
        """See `Store.remove_prints`."""
        self._delete("print_rows", rows)
        self._delete("removed_rows", rows)

    def _delete(self, table: str, rows: pl.DataFrame) -> None:
        """Delete the rows of a table that have the keys of some rows."""
        ts = rows["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        same = " AND ".join(f"t.{name} = f.{name}" for name in ROW_IDENTITY)
        self._run(f"DELETE FROM {table} t USING fresh f WHERE {same} AND {_between(first, last + 1, 't.ts')}",
                  fresh=rows.select(ROW_IDENTITY))  # fmt: skip

    def counted(
        self, asset: str, symbol: str, start: int, end: int, at: int | None, min_size: int = 1
    ) -> str:
        """See `Store.counted`."""
        known, keys = self.catalog.symbol_id(asset, symbol), ", ".join(ROW_IDENTITY)
        number = -1 if known is None else known
        before = "" if at is None else f" AND removed_at < make_timestamp_ns({at})"
        mine = (
            f"SELECT *, epoch_ns(ts) AS t, epoch_ns(ts) // 60000000000 AS minute FROM print_rows"
            f" WHERE symbol_id = {number} AND {_between(start, end)}"
            f" AND condition NOT IN ({CANCELS}) AND size >= {min_size}"
        )
        removed = (
            f"SELECT {keys} FROM removed_rows WHERE {_between(start, end)}{before}"
            f" AND series IN (SELECT series FROM series WHERE symbol_id = {number})"
        )
        # A join by the whole key costs several times as much as the answer itself. So only prints that share their
        # instant with a removed print are compared by the whole key.
        return (
            f"WITH mine AS NOT MATERIALIZED ({mine}), removed AS NOT MATERIALIZED ({removed})"
            " SELECT * FROM mine ANTI JOIN (SELECT ts FROM removed) USING (ts) UNION ALL"
            " SELECT * FROM (SELECT * FROM mine SEMI JOIN (SELECT ts FROM removed) USING (ts))"
            f" ANTI JOIN removed USING ({keys})"
        )

    def select(self, sql: str) -> pl.DataFrame:
        """See `Store.select`."""
        return self._frame(sql)

    def select_rows(self, sql: str) -> pl.DataFrame:
        """See `Store.select_rows`."""
        return self._frame(f"SELECT {', '.join(ROWS)} {sql}")

    def prints(self, series: pl.Series, start: int, end: int, min_size: int = 1) -> pl.DataFrame:
        """See `Store.prints`."""
        which = f"SEMI JOIN keys USING (series) WHERE size >= {min_size}"
        return self._prints(start, end, which, own=False, keys=series.alias("series").to_frame())

    def underlying(self, series: pl.Series, start: int, end: int) -> pl.DataFrame:
        """See `Store.underlying`."""
        sql = f"""WITH p AS (SELECT {", ".join(ROWS)} FROM print_rows SEMI JOIN keys USING (series)
                       WHERE {_between(start, end)} AND underlying IS NOT NULL),
                 newest AS (SELECT max(ts) AS ts FROM p GROUP BY epoch_ns(ts) // 60000000000)
            SELECT p.* FROM p SEMI JOIN newest USING (ts)"""
        return last_mids(self.catalog, self._frame(sql, keys=series.alias("series").to_frame()))

    def prints_of(self, keys: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
        """See `Store.prints_of`; sees the open transaction."""
        return self._prints(
            start, end, f"SEMI JOIN keys USING ({', '.join(keys.columns)})", own=True, keys=keys
        )

    def _prints(self, start: int, end: int, which: str, own: bool, **frames: pl.DataFrame) -> pl.DataFrame:
        columns, identity = ", ".join(ROWS), ", ".join(ROW_IDENTITY)
        sql = f"""
            WITH p AS (SELECT *, epoch_ns(ts) // 60000000000 AS minute FROM print_rows
                       WHERE {_between(start, end)}),
                 r AS (SELECT {identity}, removed_at FROM removed_rows WHERE {_between(start, end)}),
                 chosen AS (SELECT {columns} FROM p {which})
            SELECT {columns}, removed_at FROM chosen LEFT JOIN r USING ({identity})"""
        return self._frame(sql, own, **frames)

    def removed_since(self, series: pl.Series, start: int, end: int, at: int) -> pl.DataFrame:
        """See `Store.removed_since`."""
        columns = ", ".join(f"p.{name}" for name in ROWS)
        which = "SEMI JOIN keys USING (series)"
        sql = f"""SELECT {columns} FROM (SELECT * FROM print_rows {which} WHERE {_between(start, end)}) p
            SEMI JOIN (SELECT * FROM removed_rows {which} WHERE {_between(start, end)}
                AND removed_at >= make_timestamp_ns({at})) r USING ({", ".join(ROW_IDENTITY)})"""
        return self._frame(sql, keys=series.alias("series").to_frame())

    def cancelled_groups(self, start: int, end: int) -> pl.DataFrame:
        """See `Store.cancelled_groups`."""
        return self._frame(
            f"SELECT {', '.join(GROUP)}, epoch_ns(max(ts)) AS last FROM print_rows"
            f" WHERE condition IN ({CANCELS}) AND {_between(start, end)} GROUP BY ALL",
            True,
        )

    def corrections(self, start: int, end: int) -> pl.DataFrame:
        """See `Store.corrections`."""
        sql = f"SELECT {', '.join(ROW_SLOT)} FROM print_rows WHERE corrects = 1 AND {_between(start, end)}"
        return typed(self._frame(sql, True), {name: ROWS[name] for name in ROW_SLOT})

    def set_removed(self, groups: pl.DataFrame, start: int, end: int, removed: pl.DataFrame) -> None:
        """See `Store.set_removed`."""
        same = " AND ".join(f"r.{name} = g.{name}" for name in GROUP)
        self._run(
            f"DELETE FROM removed_rows r USING groups g WHERE {same} AND {_between(start, end)}",
            groups=groups,
        )
        if removed.height:
            names = ", ".join((*ROW_IDENTITY, "removed_at"))
            self._run(f"INSERT INTO removed_rows ({names}) SELECT {names} FROM removed", removed=removed)

    def append_bars(self, bars: pl.DataFrame) -> None:
        """See `Store.append_bars`."""
        names = ", ".join((*BAR_KEY, *FIELDS))
        self._run(f"INSERT INTO bar_rows ({names}) SELECT {names} FROM bars", bars=bars)

    def replace_bars(self, keys: pl.DataFrame, bars: pl.DataFrame) -> None:
        """See `Store.replace_bars`."""
        low, high = keys.select(pl.col("minute").min(), high=pl.col("minute").max()).row(0)
        same = " AND ".join(f"b.{name} = k.{name}" for name in BAR_KEY)
        self._run(
            f"DELETE FROM bar_rows b USING keys k WHERE {same} AND b.minute BETWEEN {low} AND {high}",
            keys=keys,
        )
        self.append_bars(bars)

    def bars(self, series: pl.Series | None, start: int, end: int) -> pl.DataFrame:
        """See `Store.bars`."""
        frames = {} if series is None else {"keys": series.alias("series").to_frame()}
        which = "" if series is None else "SEMI JOIN keys USING (series)"
        sql = f"SELECT * FROM bar_rows {which} WHERE minute >= {start} AND minute < {end}"
        bars = self._frame(sql, **frames)
        return bars if series is None else merge(bars, BAR_KEY)

    def extent(self, series: pl.Series, end: int) -> tuple[int | None, int | None]:
        """See `Store.extent`."""
        sql = f"""SELECT min(first_ts) a, max(last_ts) b FROM bar_rows SEMI JOIN keys USING (series)
            WHERE minute < {end}"""
        low, high = self._frame(sql, keys=series.alias("series").to_frame()).row(0)
        return low, high

    def compact(self, start: int, end: int) -> None:
        """See `Store.compact`."""
        where = f"WHERE minute >= {start} AND minute < {end}"
        bars = self._frame(f"SELECT * FROM bar_rows {where}", True)
        merged = merge(bars, BAR_KEY)
        if merged.height < bars.height:
            self._run(f"DELETE FROM bar_rows {where}")
            self.append_bars(merged)

    def take_over(self, source: str) -> None:
        """See `Store.take_over`; the file's lock has seen to it."""

    def release(self, source: str) -> None:
        """See `Store.release`."""

    def cursor(self, source: str) -> str | None:
        """See `Store.cursor`."""
        found = self._frame("SELECT source, position FROM cursors").filter(pl.col("source") == source)
        return None if found.is_empty() else str(found["position"][0])

    def cursors(self, beginning: str) -> dict[str, str]:
        """See `Store.cursors`."""
        found = self._frame("SELECT source, position FROM cursors")
        return dict(found.filter(pl.col("source").str.starts_with(beginning)).iter_rows())

    def set_cursor(self, source: str, position: str) -> None:
        """See `Store.set_cursor`."""
        self._run("INSERT OR REPLACE INTO cursors VALUES (?, ?)", [source, position])

    def standing(self, source: str) -> pl.DataFrame:
        """See `Store.standing`."""
        names = ", ".join(STANDING)
        kept = self._frame(f"SELECT source, {names} FROM standing_quotes").filter(pl.col("source") == source)
        return kept.select(pl.col(name).cast(dtype) for name, dtype in STANDING.items())

    def set_standing(self, source: str, quotes: pl.DataFrame) -> None:
        """See `Store.set_standing`."""
        self._run("DELETE FROM standing_quotes s USING quotes q WHERE s.instrument = q.instrument AND s.source = ?",
                  [source], quotes=quotes)  # fmt: skip
        names = ", ".join(STANDING)
        self._run(f"INSERT INTO standing_quotes SELECT ?, {names} FROM quotes", [source], quotes=quotes)

    def point(self) -> Point:
        """See `Store.point`."""
        return Point({})

    def changes(self, before: Point, oldest: int) -> Changes:
        """See `Store.changes`; no other process can."""
        return Changes(before, pl.DataFrame())

    def span(self) -> tuple[int, int] | None:
        """See `Store.span`."""
        low, high = self._frame("SELECT epoch_ns(min(ts)) a, epoch_ns(max(ts)) b FROM print_rows").row(0)
        return None if low is None else (low, high)


def _let_go(connection: Any, frames: Iterable[str]) -> None:
    """Take back the names of frames. A database that is invalid refuses that too, which must not hide its own error."""
    for name in frames:
        with suppress(duckdb.Error):
            connection.unregister(name)


def _between(start: int, end: int, ts: str = "ts") -> str:
    return f"{ts} >= make_timestamp_ns({start}) AND {ts} < make_timestamp_ns({end})"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _opening(path: Path, error: Exception) -> StoreError:
    text = _first_line(error)
    if "lock" in text.lower() and "Could not set lock" in str(error):
        return StoreBusy(f"{path.name}: another process holds this store")
    if "sqlite_scanner" in text:
        text = "it is an SQLite file"
    return StoreError(f"{path.name}: cannot be opened as a store: {text}")
