"""The days of an embedded store: how their rows were classified, putting them in order, and their minute bars."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl

from flowtape.errors import StoreError
from flowtape.files import private
from flowtape.model.prints import day_bounds, trading_days
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.storage.catalog import BAR_KEY, CLUSTER
from flowtape.storage.duckdb_bars import COLUMNS, bars_of_prints, of_minutes, of_symbols
from flowtape.storage.duckdb_file import CLOSE_WAIT, DuckFile, first_line
from flowtape.storage.duckdb_tables import PRINT_COLUMNS

TAIL_SHARE, MOST_TAIL = 0.05, 500_000
"""A day is written in order again when more of its rows than this share, or this number, are out of order."""
SEVERAL = "several"
"""The classification of a day whose prints were classified under more than one."""


class _Day(NamedTuple):
    """A row of `days`: prints when they were last put in order and the greatest `print_id` among these, rows of them
    that were replaced since, whether the stored minute bars hold, and the classification."""

    prints: int = 0
    sorted_to: int = 0
    moved: int = 0
    bars: bool = False
    classification: str = ""


class _Seal:
    """A day that is being put in order; `disturbed` once a writer has changed it."""

    def __init__(self, day: date, connection: Any) -> None:
        self.day, self.disturbed = day, False
        self._connection = connection

    def disturb(self) -> None:
        """End the attempt."""
        self.disturbed = True
        with suppress(duckdb.Error):  # it may just have been closed
            self._connection.interrupt()


class Days(DuckFile):
    """The part of a `Store` that keeps the record of days. Raises `StoreError` as all of it."""

    def __init__(self, path: Path, read_only: bool = False, **limits: Any) -> None:
        # Days that `days` already tells to have been written to since they were sealed.
        self._written_days: set[date] = set()
        self._one_seal = threading.Lock()
        self._sealing: _Seal | None = None
        self._last_id = 0
        super().__init__(path, read_only, **limits)

    def _prepare(self, read_only: bool) -> None:
        super()._prepare(read_only)
        # Sorted days hold no greater number, so that whole blocks of them are skipped.
        low = self._frame("SELECT coalesce(max(sorted_to), 0) n FROM days").item()
        sql = f"SELECT coalesce(max(print_id), {low}) n FROM print_rows WHERE print_id > {low}"
        self._last_id = int(self._frame(sql).item())

    def _stop_maintenance(self) -> None:
        seal = self._sealing
        if seal is not None:
            seal.disturb()
        if self._one_seal.acquire(timeout=CLOSE_WAIT):
            self._one_seal.release()

    def _forget_transaction(self) -> None:
        self._written_days.clear()

    def classified(self) -> pl.DataFrame:
        return self._frame("SELECT day, classification FROM days")

    def set_classified(self, days: list[date], classification: str, *, whole: bool = False) -> None:
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
        if self._sealing is not None and self._sealing.day == day:
            self._sealing.disturb()
        row = self._day(day)._replace(**values)
        self._run("DELETE FROM days WHERE day = ?", [day])
        self._run("INSERT INTO days VALUES (?, ?, ?, ?, ?, ?)", [day, *row])

    def _write_day(self, days: pl.Series, moved: bool = False) -> None:
        """Record that rows of some trading days were written, or, with `moved`, also lost their place in the order."""
        if self._sealing is not None and self._sealing.day in days:
            self._sealing.disturb()
        if not moved and set(days.unique()) <= self._written_days:
            return
        for day, many in days.value_counts().iter_rows():
            before = self._day(day)
            if before.bars:
                self._run(f"DELETE FROM bar_rows WHERE {of_minutes(*_minutes(day))}")
            self._set_day(day, bars=False, moved=before.moved + (many if moved else 0))
            self._written_days.add(day)

    def unsealed(self) -> list[date]:
        return self._frame("SELECT day FROM days WHERE NOT bars ORDER BY day")["day"].to_list()

    def seal(self, day: date) -> bool:
        """Put a closed day in order and store its minute bars; return whether that succeeded.

        One statement makes the bars from the day's prints. Readers and writers continue meanwhile: the day is read
        as of the start and appended in order. Only the exchange of the old rows for the new ones, which takes a
        fraction of a second, excludes writers. A writer that changes the day meanwhile ends the attempt.
        """
        with self._one_seal:
            try:
                with self.bulk(), self._cursor() as connection:
                    return self._seal(connection, day)
            except duckdb.Error as error:
                raise StoreError(
                    f"{self.path.name}: {day} cannot be put in order: {first_line(error)}"
                ) from error
            finally:
                self._sealing = None

    def _seal(self, connection: Any, day: date) -> bool:
        start, end = _minutes(day)
        which = between(start * NS_PER_MINUTE, end * NS_PER_MINUTE)
        with self._write:
            self._sealing = seal = _Seal(day, connection)
            connection.execute("BEGIN")
            found = connection.execute(
                f"SELECT * EXCLUDE (day) FROM days WHERE day = DATE '{day}'"
            ).fetchall()
            before = _Day(*found[0]) if found else _Day()
            prints, tail, newest, last = connection.execute(
                f"SELECT count(*), count(*) FILTER (print_id > {before.sorted_to}), coalesce(max(print_id), 0),"
                f" coalesce(max(rowid), -1) FROM print_rows WHERE {which}"
            ).fetchall()[0]
        row = before._replace(bars=True)
        rewritten = tail + before.moved > min(MOST_TAIL, TAIL_SHARE * prints)
        if rewritten:
            row = row._replace(prints=prints, sorted_to=newest, moved=0)
        try:
            self._make_bars(connection, which)
            if rewritten:
                order = ", ".join(CLUSTER)
                rows = f"SELECT {PRINT_COLUMNS} FROM print_rows WHERE {which} ORDER BY {order}"
                connection.execute(f"INSERT INTO print_rows ({PRINT_COLUMNS}) {rows}")
        except duckdb.InterruptException:
            return False
        with self._write, private():
            if seal.disturbed:
                return False
            # Deletes are made while nobody else writes: a checkpoint of another commit must not meet them halfway.
            if rewritten:
                sql = f"DELETE FROM print_rows WHERE {which} AND rowid <= {last}"
                (gone,) = connection.execute(sql).fetchall()[0]
                if gone != prints:
                    raise StoreError(
                        f"{self.path.name}: {day}: {gone:,} of {prints:,} rows; nothing is changed"
                    )
            connection.execute(f"DELETE FROM days WHERE day = DATE '{day}'")
            connection.execute("INSERT INTO days VALUES (?, ?, ?, ?, ?, ?)", [day, *row])
            connection.execute("COMMIT")
            self._written_days.discard(day)
            if rewritten:
                # Only a checkpoint gives the blocks of deleted rows free; with readers about, a later one does.
                with suppress(duckdb.Error):
                    connection.execute("CHECKPOINT")
        return True

    def _make_bars(self, connection: Any, which: str) -> None:
        if self.catalog.series.height:
            made = bars_of_prints(self.catalog, which)
            order = ", ".join(f'"{name}"' for name in BAR_KEY)
            connection.execute(f"INSERT INTO bar_rows ({COLUMNS}) {made} ORDER BY {order}")

    def bars(self, symbols: pl.Series | None, start: int, end: int) -> pl.DataFrame:
        """Return stored bars for sealed days, and bars made from prints for other days."""
        whose = of_symbols(symbols)
        stored = f"SELECT {COLUMNS} FROM bar_rows WHERE {of_minutes(start, end)} AND {whose}"
        with self._one_state():
            parts = [stored]
            for first, last in self._unsealed_spans():
                low, high = max(first, start), min(last, end)
                if low < high:
                    which = f"{between(low * NS_PER_MINUTE, high * NS_PER_MINUTE)} AND {whose}"
                    parts.append(bars_of_prints(self.catalog, which))
            return self._frame(" UNION ALL ".join(parts))

    def _unsealed_spans(self) -> list[tuple[int, int]]:
        """Return the minutes [start, end) of days without stored bars; days that follow one another are one span."""
        spans: list[tuple[int, int]] = []
        joined = False
        for day, sealed in self._frame("SELECT day, bars FROM days ORDER BY day").iter_rows():
            if not sealed:
                start, end = _minutes(day)
                if joined:
                    start = spans.pop()[0]
                spans.append((start, end))
            joined = not sealed
        return spans


def _minutes(day: date) -> tuple[int, int]:
    """Return the minutes [start, end) since 1970 of a trading day."""
    start, end = (int(bound.timestamp()) // 60 for bound in day_bounds(day))
    return start, end


def day_overlaps(day: date, start: int, end: int) -> bool:
    """Return whether a trading day has an instant in [start, end) ns."""
    first, last = _minutes(day)
    return first * NS_PER_MINUTE < end and last * NS_PER_MINUTE > start


def days_of(rows: pl.DataFrame) -> pl.Series:
    """Return the trading day of each row."""
    return trading_days(rows["ts"].dt.replace_time_zone("UTC"))


def between(start: int, end: int) -> str:
    """Return the predicate of rows of [start, end) ns."""
    return f"ts >= make_timestamp_ns({start}) AND ts < make_timestamp_ns({end})"
