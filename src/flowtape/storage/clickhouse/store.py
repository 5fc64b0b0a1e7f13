"""The store of many machines: ClickHouse over HTTP, or the same engine in this process (chDB).

Nothing is changed in place: what replaces a row has a higher stamp (`commits`).
"""

from __future__ import annotations

import secrets
from datetime import date

import polars as pl

from flowtape.model.prints import day_bounds
from flowtape.orderflow.identity import PRECEDENCE
from flowtape.orderflow.minute_bars import FIELDS, NS_PER_MINUTE, merge
from flowtape.orderflow.quotes import STANDING
from flowtape.storage import Changes, Point
from flowtape.storage.catalog import (
    BAR_KEY,
    GROUP,
    ROW_IDENTITY,
    ROW_SLOT,
    ROWS,
    STORED,
    Schema,
    last_mids,
    typed,
)
from flowtape.storage.clickhouse.commits import Commits, seen, since
from flowtape.storage.clickhouse.connection import Address
from flowtape.storage.clickhouse.rows import (
    BAR_ROW,
    IDENTITY,
    PRINT_ROW,
    REMOVAL_ROW,
    SYMBOL,
    bars_by_name,
    bars_by_number,
    by_name,
    by_number,
    chosen,
    in_list,
    quoted,
    span_of,
    struck,
)
from flowtape.storage.dialect import CANCELS, CLICKHOUSE

_CLAIMS: Schema = {"asset": pl.String, "symbol": pl.String, "day": pl.Date, "source": pl.String}
_EXTENT = "count() AS n, min(toUnixTimestamp64Nano(ts)) AS a, max(toUnixTimestamp64Nano(ts)) AS b"
_KEPT: Schema = {name: kind for name, kind in STORED.items() if name != "removed_at"}
_ID_BITS = 34
"""Bits of `print_id` that count prints of one process; the 29 bits above them are drawn at random by each."""
_NAMED = 10_000
"""Keys asked for by name; of more, whole symbols are read and the rest is left here."""


class ClickStore(Commits):
    """A `Store` in ClickHouse. Many processes may write: each symbol's day by one of them at a time."""

    dialect = CLICKHOUSE
    shared = True

    def __init__(self, address: Address, read_only: bool = False) -> None:
        super().__init__(address, read_only)
        self._next_id = (secrets.randbits(63 - _ID_BITS) << _ID_BITS) + 1

    # reading
    def _ask(
        self,
        table: str,
        columns: str,
        where: str,
        own: bool,
        one_of: str = "",
        voided: str = "",
        also: str = "",
    ) -> pl.DataFrame:
        """Rows of a table that count; of each `one_of` the newest, where that one meets `also`."""
        return self._link.ask(self._sql(table, columns, where, own, one_of, voided, also))

    def _sql(
        self, table: str, columns: str, where: str, own: bool, one_of: str, voided: str, also: str
    ) -> str:
        """Return the statement of `_ask`."""
        if own:
            self._flush(table)
        counts = self._counts(own)
        if voided:
            where += self._not_void(voided, counts, own)
        newest = f" ORDER BY v DESC LIMIT 1 BY {one_of}" if one_of else ""
        sql = f"SELECT {columns} FROM {self._at(table)} WHERE ({counts}) AND {where}{newest}"
        return f"SELECT * FROM ({sql}) WHERE {also}" if also else sql

    def _not_void(self, kind: str, counts: str, own: bool) -> str:
        """What rows meet that no later statement struck out in whole."""
        if own:
            self._flush("voids")
        rows = self._link.ask(
            f"SELECT asset, symbol, start, end, max(v) AS latest FROM {self._at('voids')}"
            f" WHERE ({counts}) AND kind = '{kind}' GROUP BY ALL ORDER BY ALL"
        )
        return "".join(f" AND NOT {struck(kind, *void)}" for void in rows.iter_rows())

    def known(self, rows: pl.DataFrame) -> pl.DataFrame:
        ts = rows["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        where = f"{span_of(first, last + 1)} AND {chosen(self.catalog, rows['series'])}"
        many, low, high = self._ask("prints", _EXTENT, where, own=True).row(0)
        if not many:
            return pl.DataFrame(schema={"row": pl.UInt32, **{name: STORED[name] for name in _KNOWN}})
        fresh = rows.select(ROW_IDENTITY).with_row_index("row").filter(ts.is_between(low, high))
        where = f"{span_of(low, high + 1)} AND {chosen(self.catalog, rows['series'])}"
        kept = self._rows(where, own=True)
        found = fresh.join(kept, on=ROW_IDENTITY).with_columns(
            pl.lit(None, STORED["removed_at"]).alias("removed_at")
        )
        return found.select(pl.col("row").cast(pl.UInt32), *_KNOWN)

    def _rows(self, where: str, own: bool, also: str = "") -> pl.DataFrame:
        """Return prints as `catalog.STORED` without `removed_at`, each once. `where` filters by a row's key, `also`
        the newest copy of each."""
        columns, also = ", ".join((*PRINT_ROW, "gone")), f"gone = 0 AND ({also or 1})"
        found = self._ask("prints", columns, where, own, ", ".join(IDENTITY), "prints", also)
        return by_number(self.catalog, found, _KEPT)

    def _removed(self, where: str, own: bool) -> pl.DataFrame:
        """What cancels removed: `ROW_IDENTITY` and `removed_at`."""
        columns = ", ".join((*IDENTITY, "removed_at"))
        found = self._ask("removals", columns, where, own, ", ".join(IDENTITY), "removals")
        schema = {name: ROWS[name] for name in ROW_IDENTITY} | {"removed_at": pl.Datetime("ns")}
        return by_number(self.catalog, found, schema).filter(pl.col("removed_at").is_not_null())

    def sources(self) -> pl.DataFrame:
        found = self._ask("sources", "asset, symbol, day, source", "1", False, f"{SYMBOL}, day")
        kept = found if found.width else pl.DataFrame(schema=_CLAIMS)
        return typed(kept.filter(pl.col("source") != ""), _CLAIMS)

    def claim(self, days: pl.DataFrame) -> None:
        self._write_rows("sources", days.select(pl.col("asset", "symbol").cast(pl.String), "day", "source"))
        self._claimed = self._stamp

    def classified(self) -> pl.DataFrame:
        found = self._ask("classified", "day, classification, whole, v", "1", False)
        if not found.width:
            return pl.DataFrame(schema={"day": pl.Date, "classification": pl.String})
        floor = pl.col("v").filter(pl.col("whole") == 1).max().over("day").fill_null(0)
        return found.filter(pl.col("v") >= floor).select("day", "classification").unique()

    def set_classified(self, days: list[date], classification: str, *, whole: bool = False) -> None:
        rows = pl.DataFrame({"day": days}, {"day": pl.Date}).with_columns(
            classification=pl.lit(classification), whole=pl.lit(int(whole), pl.UInt8)
        )
        self._write_rows("classified", rows)

    def unsealed(self) -> list[date]:
        """Do nothing: the engine merges rows into their order."""
        return []

    def seal(self, day: date) -> bool:
        return True

    def drop_day(self, asset: str, symbol: str, day: date) -> None:
        start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
        self._strike_out(("prints", "minute_bars", "removals"), start, end, asset, symbol)
        self.claim(pl.DataFrame({"asset": [asset], "symbol": [symbol], "day": [day], "source": [""]}))

    def clear_minutes(self, start: int, end: int) -> None:
        self._strike_out(("minute_bars",), start, end)

    def _strike_out(
        self, kinds: tuple[str, ...], start: int, end: int, asset: str = "", symbol: str = ""
    ) -> None:
        rows = pl.DataFrame({"kind": kinds}).with_columns(
            pl.lit(asset).alias("asset"), pl.lit(symbol).alias("symbol"),
            pl.lit(start, pl.Int64).alias("start"), pl.lit(end, pl.Int64).alias("end"),
        )  # fmt: skip
        self._write_rows("voids", rows)

    def append_prints(self, rows: pl.DataFrame) -> None:
        series, _ = self.catalog.fresh()
        if series.height:
            self._write_rows("series", by_name(self.catalog, series, ()))
            self._grew = self._stamp
        if rows.height:
            numbers = pl.int_range(self._next_id, self._next_id + rows.height, eager=True)
            self._next_id += rows.height
            self._write_prints(rows.with_columns(numbers.alias("print_id")), gone=0)

    def _write_prints(self, rows: pl.DataFrame, gone: int) -> None:
        named = by_name(self.catalog, rows, PRINT_ROW).with_columns(pl.lit(gone, pl.UInt8).alias("gone"))
        self._write_rows("prints", named)

    def replace_prints(self, rows: pl.DataFrame) -> None:
        self._write_prints(rows, gone=0)

    def remove_prints(self, rows: pl.DataFrame) -> None:
        self._write_prints(rows, gone=1)
        self.set_removed(rows.with_columns(pl.lit(None, STORED["removed_at"]).alias("removed_at")))

    def corrections(self, start: int, end: int) -> pl.DataFrame:
        return self._rows(span_of(start, end), own=True, also="corrects = 1").select(ROW_SLOT)

    def counted(
        self, asset: str, symbol: str, start: int, end: int, at: int | None, min_size: int = 1
    ) -> str:
        where = f"{span_of(start, end)} AND asset = {quoted(asset)} AND symbol = {quoted(symbol)}"
        columns, keys = ", ".join((*PRINT_ROW, "gone")), ", ".join(IDENTITY)
        also = f"gone = 0 AND condition NOT IN ({CANCELS}) AND size >= {min_size}"
        prints = self._sql("prints", columns, where, False, keys, "prints", also)
        also = "removed_at IS NOT NULL" if at is None else f"toUnixTimestamp64Nano(removed_at) < {at}"
        removed = self._sql("removals", f"{keys}, removed_at", where, False, keys, "removals", also)
        time = "toUnixTimestamp64Nano(p.ts)"
        return (
            f"SELECT {', '.join(PRINT_ROW)}, {time} AS t, intDiv({time}, {NS_PER_MINUTE}) AS minute"
            f" FROM ({prints}) AS p LEFT ANTI JOIN (SELECT {keys} FROM ({removed})) AS r USING ({keys})"
        )

    def select(self, sql: str) -> pl.DataFrame:
        return self._link.ask(sql)

    def query(self, sql: str) -> pl.DataFrame:
        """Return the rows of a user's statement; names without a database are those of the store's."""
        # Within parentheses only a query is allowed, and a query only reads.
        return self._link.ask_views(f"SELECT * FROM (\n{sql}\n)")

    def select_rows(self, sql: str) -> pl.DataFrame:
        return by_number(self.catalog, self._link.ask(f"SELECT {', '.join(PRINT_ROW)} {sql}"), ROWS)

    def prints(self, series: pl.Series, start: int, end: int, min_size: int = 1) -> pl.DataFrame:
        where = f"{span_of(start, end)} AND {chosen(self.catalog, series)}"
        also = f"size >= {min_size}" if min_size > 1 else ""
        return self._with_removals(where, series, own=False, also=also)

    def _with_removals(self, where: str, series: pl.Series, own: bool, also: str) -> pl.DataFrame:
        rows = self._rows(where, own, also).filter(pl.col("series").is_in(series.implode()))
        removed = self._removed(where, own)
        return rows.join(removed, on=ROW_IDENTITY, how="left", maintain_order="left")

    def underlying(self, series: pl.Series, start: int, end: int) -> pl.DataFrame:
        where = f"{span_of(start, end)} AND {chosen(self.catalog, series)}"
        rows = self._rows(where, own=False, also="underlying IS NOT NULL")
        rows = rows.filter(pl.col("series").is_in(series.implode()))
        minute = pl.col("ts").to_physical() // NS_PER_MINUTE
        return last_mids(self.catalog, rows.filter(pl.col("ts") == pl.col("ts").max().over(minute)))

    def prints_of(self, keys: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
        """Return rows that match some keys, with those of the open transaction."""
        # A symbol's number is that of its first series.
        number = "symbol_id" if "symbol_id" in keys.columns else "series"
        numbers = keys[number].unique().cast(pl.Int32)
        series = self.catalog.series.filter(pl.col(number).is_in(numbers.implode()))["series"]
        where = f"{span_of(start, end)} AND {chosen(self.catalog, numbers)}"
        listed = {name: keys[name].unique() for name in keys.columns if name != number}
        told = {name: f" IN ({in_list(values)})" for name, values in listed.items() if len(values) <= _NAMED}
        if "minute" in told:
            where += f" AND intDiv(toUnixTimestamp64Nano(ts), {NS_PER_MINUTE}){told['minute']}"
        if "strike" in told:
            where += f" AND strike{told['strike']}"
        also = " AND ".join(f"{name}{told[name]}" for name in ("size", "price") if name in told)
        found = self._with_removals(where, series, own=True, also=also)
        minute = pl.col("ts").to_physical() // NS_PER_MINUTE
        wanted = keys.cast(pl.Int64)
        on = [minute if name == "minute" else pl.col(name).cast(pl.Int64) for name in keys.columns]
        return found.join(wanted, left_on=on, right_on=list(keys.columns), how="semi")

    def removed_since(self, series: pl.Series, start: int, end: int, at: int) -> pl.DataFrame:
        which = f"{span_of(start, end)} AND {chosen(self.catalog, series)}"
        removed = self._removed(which, own=False).filter(pl.col("removed_at").to_physical() >= at)
        if removed.is_empty():
            return pl.DataFrame(schema=ROWS)
        low, high = removed.select(
            pl.col("ts").to_physical().min(), high=pl.col("ts").to_physical().max()
        ).row(0)
        rows = self._rows(
            f"{span_of(low, high + 1)} AND {chosen(self.catalog, removed['series'])}", own=False
        )
        rows = rows.filter(pl.col("series").is_in(series.implode()))
        return rows.join(removed, on=ROW_IDENTITY, how="semi")

    def cancelled_groups(self, start: int, end: int) -> pl.DataFrame:
        cancels = f"condition IN ({CANCELS})"
        rows = self._rows(span_of(start, end), own=True, also=cancels)
        return rows.group_by(GROUP).agg(pl.col("ts").to_physical().max().alias("last"))

    def set_removed(self, rows: pl.DataFrame) -> None:
        self._write_rows("removals", by_name(self.catalog, rows, REMOVAL_ROW))

    # minutes
    def append_bars(self, bars: pl.DataFrame) -> None:
        self._write_bars(bars, restated=0)

    def _write_bars(self, bars: pl.DataFrame, restated: int) -> None:
        if bars.height:
            rows = bars_by_name(self.catalog, bars)
            self._write_rows("minute_bars", rows.with_columns(pl.lit(restated, pl.UInt8).alias("restated")))

    def replace_bars(self, keys: pl.DataFrame, bars: pl.DataFrame) -> None:
        kinds = [pl.col(name).cast(bars.schema[name]) for name in BAR_KEY]
        none = keys.select(kinds).join(bars, on=BAR_KEY, how="anti")
        empty = none.with_columns(pl.lit(0, pl.Int64).alias(name) for name in FIELDS).select(bars.columns)
        merged = merge(bars, BAR_KEY)
        self._write_bars(pl.concat([merged, empty.cast(merged.schema)]), restated=1)

    def bars(self, symbols: pl.Series | None, start: int, end: int) -> pl.DataFrame:
        which = "1" if symbols is None else chosen(self.catalog, symbols)
        found = self._bars(which, start, end, own=False)
        return found if symbols is None else merge(found, BAR_KEY)

    def _bars(self, which: str, start: int, end: int, own: bool, counts: str = "") -> pl.DataFrame:
        """Return the bars that count: of a restated key, the newest restatement and the bars added after it."""
        if own:
            self._flush("minute_bars")
        counts = counts or self._counts(own)
        where = (
            f"({counts}) AND minute >= toDateTime({start * 60}, 'UTC')"
            f" AND minute < toDateTime({min(end * 60, 2**32 - 1)}, 'UTC') AND {which}"
            f"{self._not_void('minute_bars', counts, own)}"
        )
        rows = self._link.ask(
            f"SELECT {', '.join(BAR_ROW)}, restated, v FROM {self._at('minute_bars')} WHERE {where}"
        )
        return _standing(
            bars_by_number(self.catalog, rows, {**_BAR_TYPES, "restated": pl.UInt8, "v": pl.UInt64})
        )

    def extent(self, symbol: int, end: int) -> tuple[int | None, int | None]:
        bars = self.bars(pl.Series([symbol]), 0, end)
        low, high = bars.select(pl.col("first_ts").min(), high=pl.col("last_ts").max()).row(0)
        return low, high

    def compact(self, start: int, end: int) -> None:
        """Replace the added bars of this writer's symbols by one bar a key."""
        bars = self._bars(f"writer = {self._writer}", start, end, own=True)
        repeated = bars.select(BAR_KEY).is_duplicated()
        if repeated.any():
            keys = bars.filter(repeated).select(BAR_KEY).unique()
            whole = self._bars(chosen(self.catalog, keys["symbol_id"]), start, end, own=True)
            self._write_bars(merge(whole.join(keys, on=BAR_KEY, how="semi"), BAR_KEY), restated=1)

    def changes(self, before: Point, oldest: int) -> Changes:
        now = self.point()
        none = pl.DataFrame(schema=_BAR_TYPES)
        # What a writer lost when another took over may have been shown.
        if any(now.reached.get(writer, 0) < stamp for writer, stamp in before.reached.items()):
            return Changes(now, none, whole=True)
        others = Point({w: v for w, v in now.reached.items() if w not in self._writers})
        fresh = since(others, before)
        if fresh == "0":
            return Changes(now, none)
        if self._link.ask(f"SELECT count() AS n FROM {self._at('voids')} WHERE {fresh}").item():
            return Changes(now, none, whole=True)
        rows = self._link.ask(
            f"SELECT {', '.join(BAR_ROW)}, restated FROM {self._at('minute_bars')}"
            f" WHERE ({fresh}) AND minute >= toDateTime({oldest * 60}, 'UTC')"
        )
        found = bars_by_number(self.catalog, rows, {**_BAR_TYPES, "restated": pl.UInt8})
        keys = found.filter(pl.col("restated") == 1).select(BAR_KEY).unique()
        added = found.drop("restated")
        if keys.is_empty():
            return Changes(now, added)
        low, high = keys.select(pl.col("minute").min(), high=pl.col("minute").max()).row(0)
        which = chosen(self.catalog, keys["symbol_id"])
        kept = self._bars(which, low, high + 1, own=False, counts=seen(now))
        restated = merge(kept.join(keys, on=BAR_KEY, how="semi"), BAR_KEY)
        return Changes(now, added.join(keys, on=BAR_KEY, how="anti"), keys, restated)

    # cursors
    def cursor(self, source: str) -> str | None:
        found = self._ask("cursors", "position", f"source = {quoted(source)}", False, "source")
        return None if found.is_empty() else str(found["position"][0])

    def cursors(self, beginning: str) -> dict[str, str]:
        where = f"startsWith(source, {quoted(beginning)})"
        found = self._ask("cursors", "source, position", where, False, "source")
        return dict(found.iter_rows())

    def set_cursor(self, source: str, position: str) -> None:
        self._write_rows("cursors", pl.DataFrame({"source": [source], "position": [position]}))

    def standing(self, source: str) -> pl.DataFrame:
        found = self._ask(
            "standing", ", ".join(STANDING), f"source = {quoted(source)}", False, "source, instrument"
        )
        if not found.width:
            return pl.DataFrame(schema=STANDING)
        return found.select(pl.col(name).cast(kind) for name, kind in STANDING.items())

    def set_standing(self, source: str, quotes: pl.DataFrame) -> None:
        rows = quotes.select(pl.lit(source).alias("source"), *STANDING)
        self._write_rows("standing", rows.cast({"instrument": pl.String}))

    def span(self) -> tuple[int, int] | None:
        many, low, high = self._ask("prints", _EXTENT, "1", own=False, voided="prints").row(0)
        return (low, high) if many else None


_KNOWN = ("print_id", "removed_at", *PRECEDENCE)
_BAR_TYPES = {
    "symbol_id": pl.Int32, "right": pl.UInt8, "minute": pl.Int32, **dict.fromkeys(FIELDS, pl.Int64),
}  # fmt: skip


def _standing(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars that nothing has taken the place of: of a key that was restated, the newest restatement and what came
    after it."""
    again = bars.filter(pl.col("restated") == 1)
    if again.height:
        floors = again.group_by(BAR_KEY).agg(pl.col("v").max().alias("floor"))
        bars = bars.join(floors, on=BAR_KEY, how="left", maintain_order="left")
        bars = bars.filter(pl.col("floor").is_null() | (pl.col("v") >= pl.col("floor")))
    return bars.filter(pl.col("trades") > 0).select(*_BAR_TYPES)
