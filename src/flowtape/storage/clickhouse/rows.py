"""Rows by name for a store that many processes share, and back to the numbers that this process gave.

Numbers of series and venues are one process's own (`catalog`); in ClickHouse rows stand under the names themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from flowtape.model.conditions import FAMILIES
from flowtape.model.prints import Side
from flowtape.orderflow.minute_bars import FIELDS
from flowtape.storage.catalog import RIGHTS, ROWS, SERIES, SERIES_KEY, Catalog, Schema, typed

IDENTITY = ("ts", *SERIES_KEY, "strike", "venue", "seq", "price", "size", "condition", "copy")
SYMBOL = "asset, symbol"
PRINT_ROW = (
    *IDENTITY,
    *(name for name in ROWS if name not in (*IDENTITY, "series", "symbol_id")),
    "print_id",
)
REMOVAL_ROW = (*IDENTITY, "removed_at", "print_id")
BAR_ROW = ("asset", "symbol", "right", "minute", *FIELDS)
_NO_EXPIRY = date(1970, 1, 1)
_FAMILY = pl.Enum(FAMILIES)


def by_name(catalog: Catalog, rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Rows by number (`series`, and `venue`, `family`, `side` where they have them) as rows by name: those that make
    a series, and `columns`."""
    told = catalog.series.select(pl.col(name).gather(rows["series"].cast(pl.UInt32)) for name in SERIES_KEY)
    made = {
        **{name: told[name].cast(pl.String).fill_null("") for name in ("asset", "symbol", "root", "right")},
        "expiry": told["expiry"].fill_null(_NO_EXPIRY),
    }
    if "venue" in columns:
        made["venue"] = catalog.venues["name"].gather(rows["venue"].cast(pl.UInt32)).cast(pl.String)
    if "family" in columns:
        made["family"] = rows["family"].cast(pl.UInt8).cat.to(_FAMILY).cast(pl.String)
    if "side" in columns:
        made["side"] = rows["side"].cast(pl.UInt8).cat.to(Side).cast(pl.String)
    names = (*SERIES_KEY, *(name for name in columns if name not in SERIES_KEY))
    return pl.DataFrame({name: made[name] if name in made else rows[name] for name in names})


def by_number(catalog: Catalog, rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Rows by name as rows by number, in a schema."""
    if not rows.width:
        return pl.DataFrame(schema=schema)
    series, venue = catalog.numbers(typed_series(rows), rows["venue"] if "venue" in schema else None)
    made: dict[str, pl.Series] = {"series": series}
    if venue is not None:
        made["venue"] = venue
    if "family" in schema:
        made["family"] = rows["family"].cast(pl.String).cast(_FAMILY).to_physical()
    if "side" in schema:
        made["side"] = rows["side"].cast(pl.String).cast(Side).to_physical()
    if "symbol_id" in schema:
        made["symbol_id"] = catalog.series["symbol_id"].gather(series.cast(pl.UInt32))
    columns = {name: made[name] if name in made else rows[name] for name in schema}
    plain = pl.DataFrame(columns).with_columns(pl.col(pl.Datetime("ns", "UTC")).dt.replace_time_zone(None))
    return plain.select(pl.col(name).cast(kind) for name, kind in schema.items())


def bars_by_name(catalog: Catalog, bars: pl.DataFrame) -> pl.DataFrame:
    """Return bars by number (`catalog.BAR_KEY`) as `BAR_ROW`."""
    owners = bars["symbol_id"].cast(pl.UInt32)
    return bars.with_columns(
        *(catalog.series[name].gather(owners).cast(pl.String) for name in ("asset", "symbol")),
        pl.col("right").replace_strict(range(len(RIGHTS)), RIGHTS, return_dtype=pl.String),
        minute=(pl.col("minute").cast(pl.Int64) * 60).cast(pl.UInt32),
    ).select(BAR_ROW)


def bars_by_number(catalog: Catalog, rows: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Return bars by name (`BAR_ROW` and others) as bars by number, in a schema."""
    if not rows.width:
        return pl.DataFrame(schema=schema)
    made = rows.with_columns(
        catalog.symbol_ids(rows.select(pl.col("asset", "symbol").cast(pl.String))).alias("symbol_id"),
        pl.col("right").cast(pl.String).replace_strict(RIGHTS, range(len(RIGHTS)), return_dtype=pl.UInt8),
        (_seconds(rows["minute"]) // 60).alias("minute"),
    )
    return typed(made, schema)


def typed_series(rows: pl.DataFrame) -> pl.DataFrame:
    """The names that make a series, in the catalog's types."""
    text = {name: pl.col(name).cast(pl.String) for name in ("asset", "symbol", "root", "right")}
    clear = rows.select(
        text["asset"],
        text["symbol"],
        pl.when(text["root"] != "").then(text["root"]).alias("root"),
        pl.when(pl.col("expiry") != _NO_EXPIRY).then(pl.col("expiry")).alias("expiry"),
        pl.when(text["right"] != "").then(text["right"]).alias("right"),
    )
    return typed(clear, {name: SERIES[name] for name in SERIES_KEY})


def chosen(catalog: Catalog, series: pl.Series) -> str:
    """SQL that the rows of the symbols of some series meet."""
    known = catalog.series.select("asset", "symbol")[series.unique().cast(pl.UInt32)].unique()
    parts = []
    for asset in sorted(known["asset"].cast(pl.String).unique()):
        symbols = known.filter(pl.col("asset") == asset)["symbol"].cast(pl.String).sort()
        parts.append(f"(asset = '{asset}' AND symbol IN ({', '.join(map(quoted, symbols))}))")
    return f"({' OR '.join(parts)})" if parts else "0"


def span_of(start: int, end: int) -> str:
    """SQL that rows of [start, end) ns meet."""
    return f"ts >= {_instant(start)} AND ts < {_instant(end)}"


def struck(kind: str, asset: str, symbol: str, start: int, end: int, stamp: int) -> str:
    """SQL that the rows meet which a row of `voids` struck out."""
    minutes = "toInt64(toUnixTimestamp(minute)) * 1000000000"
    time = minutes if kind == "minute_bars" else "toUnixTimestamp64Nano(ts)"
    whose = f"asset = '{asset}' AND symbol = {quoted(symbol)} AND " if symbol else ""
    return f"({whose}{time} >= {start} AND {time} < {end} AND v < {stamp})"


def _instant(ns: int) -> str:
    return f"fromUnixTimestamp64Nano({ns}, 'UTC')"


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def in_list(values: pl.Series) -> str:
    """Integers as SQL has them in a list."""
    return ", ".join(map(str, values.sort().to_list()))


def _seconds(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.epoch("s")
    return column.cast(pl.Int64)
