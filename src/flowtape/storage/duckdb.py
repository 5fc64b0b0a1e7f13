"""The embedded store: one DuckDB file, with readable views (`prints`, `minutes`, `removals`) for other tools."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl

from flowtape.errors import StoreBusy, StoreError
from flowtape.files import Held, private
from flowtape.model.prints import day_bounds, trading_days
from flowtape.orderflow.identity import PRECEDENCE
from flowtape.orderflow.minute_bars import FIELDS, merge
from flowtape.orderflow.quotes import STANDING
from flowtape.storage import Changes, Point, other_format
from flowtape.storage.catalog import (
    BAR_KEY,
    CLUSTER,
    GROUP,
    ROW_IDENTITY,
    ROW_SLOT,
    ROWS,
    SERIES,
    STORED,
    VENUES,
    Catalog,
    last_mids,
    typed,
)
from flowtape.storage.dialect import CANCELS, DUCKDB
from flowtape.storage.duckdb_tables import DDL, VERSION

_CONFIG: dict[str, Any] = {
    # DuckDB would fetch an extension from the network where a name or a query seems to need one.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
CHECKPOINT_AT = "64MB"
"""Size of the log at which a commit writes a checkpoint."""
KNOWN = ("print_id", "removed_at", *PRECEDENCE)
SEVERAL = "several"
"""The classification of a day whose prints were classified under more than one."""
CLOSE_WAIT = 5.0
"""Seconds that closing waits for a transaction to end."""


class _Arrow:
    """A frame or a query's result shown by its Arrow C stream alone: DuckDB would ask for pyarrow if it knew
    the frame for what it is, and Polars would keep DuckDB's types alive past the interpreter's end."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


class _Day(NamedTuple):
    """A row of `days`: prints when they were last put in order and the greatest `print_id` among these, rows of them
    that were replaced since, whether the stored minute bars hold, and the classification."""

    prints: int = 0
    sorted_to: int = 0
    moved: int = 0
    bars: bool = False
    classification: str = ""


class DuckStore:
    """A `Store` in one DuckDB file."""

    dialect = DUCKDB
    claims_version = 0

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        # Not one of a thread's own: who ends a transaction may not be who began it.
        self._write = threading.Lock()
        self._mine = threading.local()
        # Days that `days` already tells to be written to since their minute bars were stored.
        self._written_days: set[date] = set()
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
        # Statements that need an order name it; keeping the order of insertion costs a third of the write speed.
        self._db.execute("SET preserve_insertion_order = false; SET memory_limit = '600MB'")
        self._db.execute(f"SET checkpoint_threshold = '{CHECKPOINT_AT}'")
        tables = {row[0] for row in self._db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if not tables and not read_only:
            self._db.execute(f"BEGIN; {DDL} COMMIT")
        elif "meta" not in tables:
            raise StoreError("it is a DuckDB file, but not a flowtape store")
        (version,) = self._db.execute("SELECT value FROM meta WHERE name = 'version'").fetchall()[0]
        if version != VERSION:
            raise StoreError(other_format(version, VERSION))
        series = self._frame('SELECT series, asset, symbol, root, expiry, "right", symbol_id FROM series')
        venues = self._frame("SELECT venue, name FROM venues")
        self.catalog = Catalog.of(typed(series, SERIES), typed(venues, VENUES))
        # Sorted days hold no greater number, and whole blocks of them are skipped.
        low = self._frame("SELECT coalesce(max(sorted_to), 0) n FROM days").item()
        sql = f"SELECT coalesce(max(print_id), {low}) n FROM print_rows WHERE print_id > {low}"
        self._last_id = int(self._frame(sql).item())

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
                self._written_days.clear()
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
            return pl.DataFrame(schema={"row": pl.UInt32, **{name: STORED[name] for name in KNOWN}})
        fresh = rows.select(*ROW_IDENTITY).with_row_index("row").filter(ts.is_between(low, high))
        names, quote = ", ".join(ROW_IDENTITY), ", ".join(KNOWN)
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
        return self._frame("SELECT day, classification FROM days")

    def set_classified(self, days: list[date], classification: str, *, whole: bool = False) -> None:
        """See `Store.set_classified`."""
        for day in days:
            before = self._day(day).classification
            if before != classification:
                known = whole or not before
                self._set_day(day, classification=classification if known else SEVERAL)

    def _day(self, day: date) -> _Day:
        """Return the row of `days` of a day, as the open transaction sees it."""
        found = self._frame(f"SELECT * EXCLUDE (day) FROM days WHERE day = DATE '{day}'", True)
        return _Day(*found.row(0)) if found.height else _Day()

    def _set_day(self, day: date, **values: Any) -> None:
        """Change some values of the row of `days` of a day."""
        row = self._day(day)._replace(**values)
        self._run("DELETE FROM days WHERE day = ?", [day])
        self._run("INSERT INTO days VALUES (?, ?, ?, ?, ?, ?)", [day, *row])

    def _write_day(self, days: pl.Series, moved: bool = False) -> None:
        """Record that rows of some trading days were written, or, with `moved`, also lost their place in the order."""
        if not moved and set(days.unique()) <= self._written_days:
            return
        for day, many in days.value_counts().iter_rows():
            self._set_day(day, bars=False, moved=self._day(day).moved + (many if moved else 0))
            self._written_days.add(day)

    def drop_day(self, asset: str, symbol: str, day: date) -> None:
        """See `Store.drop_day`."""
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        numbers = self.catalog.find(asset, symbol).to_frame()
        self._forget(start, end, "AND series IN (SELECT series FROM numbers)", numbers, also_prints=True)
        self._write_day(pl.Series([day]))
        self._run("DELETE FROM sources WHERE asset = ? AND symbol = ? AND day = ?", [asset, symbol, day])

    def clear_minutes(self, start: int, end: int) -> None:
        """See `Store.clear_minutes`."""
        self._forget(start, end, "", pl.DataFrame(), also_prints=False)

    def _forget(self, start: int, end: int, which: str, numbers: pl.DataFrame, also_prints: bool) -> None:
        frames = {"numbers": numbers} if which else {}
        if also_prints:
            self._run(f"DELETE FROM print_rows WHERE {_between(start, end)} {which}", **frames)
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
            first = self._last_id + 1
            self._last_id += rows.height
            numbers = pl.int_range(first, first + rows.height, eager=True).alias("print_id")
            removed = pl.lit(None, STORED["removed_at"]).alias("removed_at")
            self._insert(rows.with_columns(numbers, removed))
            self._write_day(_days_of(rows))

    def _insert(self, rows: pl.DataFrame) -> None:
        self._run(f"INSERT INTO print_rows SELECT {', '.join(STORED)} FROM fresh", fresh=rows)

    def replace_prints(self, rows: pl.DataFrame) -> None:
        """See `Store.replace_prints`."""
        self.remove_prints(rows)
        self._insert(rows.sort(CLUSTER))

    def remove_prints(self, rows: pl.DataFrame) -> None:
        """See `Store.remove_prints`."""
        ts = rows["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        which = f"{_between(first, last + 1)} AND print_id IN (SELECT print_id FROM gone)"
        self._run(f"DELETE FROM print_rows WHERE {which}", gone=rows.select("print_id"))
        self._write_day(_days_of(rows), moved=True)

    def set_removed(self, rows: pl.DataFrame) -> None:
        """See `Store.set_removed`."""
        self.replace_prints(rows)

    def counted(
        self, asset: str, symbol: str, start: int, end: int, at: int | None, min_size: int = 1
    ) -> str:
        """See `Store.counted`."""
        known = self.catalog.symbol_id(asset, symbol)
        number = -1 if known is None else known
        later = "" if at is None else f" OR removed_at >= make_timestamp_ns({at})"
        return (
            f"SELECT *, epoch_ns(ts) AS t, epoch_ns(ts) // 60000000000 AS minute FROM print_rows"
            f" WHERE symbol_id = {number} AND {_between(start, end)}"
            f" AND condition NOT IN ({CANCELS}) AND size >= {min_size} AND (removed_at IS NULL{later})"
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
        sql = f"""
            WITH p AS (SELECT *, epoch_ns(ts) // 60000000000 AS minute FROM print_rows WHERE {_between(start, end)})
            SELECT {", ".join(STORED)} FROM p {which}"""
        return self._frame(sql, own, **frames)

    def removed_since(self, series: pl.Series, start: int, end: int, at: int) -> pl.DataFrame:
        """See `Store.removed_since`."""
        sql = f"""SELECT {", ".join(ROWS)} FROM print_rows SEMI JOIN keys USING (series)
            WHERE {_between(start, end)} AND removed_at >= make_timestamp_ns({at})"""
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
        self._run("DELETE FROM cursors WHERE source = ?", [source])
        self._run("INSERT INTO cursors VALUES (?, ?)", [source, position])

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


def _days_of(rows: pl.DataFrame) -> pl.Series:
    """Return the trading day of each row."""
    return trading_days(rows["ts"].dt.replace_time_zone("UTC"))


def _between(start: int, end: int) -> str:
    return f"ts >= make_timestamp_ns({start}) AND ts < make_timestamp_ns({end})"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _opening(path: Path, error: Exception) -> StoreError:
    text = _first_line(error)
    if "lock" in text.lower() and "Could not set lock" in str(error):
        return StoreBusy(f"{path.name}: another process holds this store")
    if "sqlite_scanner" in text:
        text = "it is an SQLite file"
    return StoreError(f"{path.name}: cannot be opened as a store: {text}")
