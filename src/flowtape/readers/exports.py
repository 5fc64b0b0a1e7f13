"""Databento's own exports, CSV and Parquet (`to_csv`, `to_parquet`, a saved frame of `to_df`), as DBN records.

An export has the fields of its DBN file as columns, and the symbol if it was made with `map_symbols`. Its rows become
the records of the DBN file, so both give the same prints. Prices are USD (`pretty_px`) or 1e-9 USD, instants ISO 8601
(`pretty_ts`) or nanoseconds; a blank is undefined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn as dbn
import numpy as np
import polars as pl

from flowtape.errors import TapeError
from flowtape.model.prices import nanos
from flowtape.readers import Rejects, common, frames
from flowtape.readers.common import ROW, Field
from flowtape.readers.dbn import (
    BBO_1S,
    CBBO_1S,
    CMBP_1,
    DAY,
    DBN_VERSION,
    MBP_1,
    TCBBO,
    TRADE,
    Chunk,
    Header,
    Records,
)
from flowtape.readers.publishers import VENUES

COLUMNS = ("ts_recv", "ts_event", "rtype", "publisher_id", "instrument_id")
"""The columns of every export, whatever its schema."""
SCHEMAS = {
    TRADE: "trades", MBP_1: "mbp-1", TCBBO: "tcbbo", CMBP_1: "cmbp-1", CBBO_1S: "cbbo-1s", BBO_1S: "bbo-1s",
}  # fmt: skip
UNSYMBOLED = (
    "a Databento export without symbols: make it with map_symbols=True, or give the definition file with it"
)
_PRICES = ("price", "bid_px_00", "ask_px_00")
_COUNTS = {"publisher_id": 2**16 - 1, "instrument_id": 2**32 - 1, "size": 2**32 - 1,
           "bid_sz_00": 2**32 - 1, "ask_sz_00": 2**32 - 1}  # fmt: skip
_TIMES = ("ts_recv", "ts_event")
_TEXTS = ("action", "symbol")
_UNDEFINED = 2**64 - 1
_DATASETS = {number: dataset for dataset, venues in VENUES.items() for number in venues}
_LOOK = 100_000
"""The number of rows used to tell `tbbo` from `mbp-1`."""


@dataclass(frozen=True)
class Export(Header):
    """An export, which replaces a DBN file's metadata."""

    named: bool = False
    table: Any = field(default=None, repr=False, compare=False)

    def chunks(
        self, wanted: Sequence[int], max_records: int, rejects: Rejects, notes: Counter[str]
    ) -> Generator[Chunk]:
        """Yield the rows as records. Rows that do not fit a record are rejected."""
        rtype, schema = wanted[0], self.table.schema
        fields = [
            _field(name, schema[name]) for name in (*_TIMES, *_COUNTS, *_PRICES, *_TEXTS) if name in schema
        ]
        seen = pl.DataFrame(schema={"id": pl.Int64, "day": pl.Int64, "name": pl.String})
        for chunk in self.table.chunks([one.column for one in fields], rejects, notes, max_records):
            raw = chunk.frame.with_columns(
                *(_instants(chunk.frame[name], notes).alias(f"#{name}") for name in _TIMES),
                *(chunk.frame[name].fill_nan(None) for name in _PRICES if _is_float(chunk.frame, name)),
            )
            rows = common.parse(raw, fields, rejects, self.name)
            records = _records(rows, rtype, self.layout(rtype))
            fresh, seen = _fresh_names(rows, seen)
            yield Chunk({rtype: (rows[ROW].to_numpy(), records)}, rows.height, chunk.done, fresh)


def _records(rows: pl.DataFrame, rtype: int, layout: np.dtype[Any]) -> Records:
    """Return parsed rows as records of a layout. Blank fields become undefined."""
    records = np.zeros(rows.height, layout)
    records["rtype"] = rtype
    names = layout.names or ()
    for name in (*_TIMES, *_COUNTS, *_PRICES):
        if name in names and name in rows.columns:
            undefined = dbn.UNDEF_PRICE if name in _PRICES else _UNDEFINED if name in _TIMES else 0
            records[name] = rows[name].fill_null(undefined).to_numpy()
    if "action" in rows.columns and "action" in names:
        records["action"] = rows["action"].fill_null("").to_numpy().astype("S1")
    elif "action" in names:
        # `to_df` omits the action of consolidated records. All records of `tcbbo` are trades.
        records["action"] = b"T" if rtype in (TRADE, TCBBO) else b"A"
    return records


def _is_float(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns and frame.schema[name].is_float()


def _fresh_names(rows: pl.DataFrame, seen: pl.DataFrame) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    """Return the names of instruments on UTC days that are not in `seen`, and all names seen so far."""
    if "symbol" not in rows.columns:
        return None, seen
    named = pl.concat(
        rows.select(
            pl.col("instrument_id").cast(pl.Int64).alias("id"),
            (pl.col(time).fill_null(0) // DAY).cast(pl.Int64).alias("day"),
            pl.col("symbol").alias("name"),
        ).unique()
        for time in _TIMES
    ).unique()
    fresh = named.drop_nulls().join(seen, on=["id", "day", "name"], how="anti")
    return fresh, pl.concat([seen, fresh])


def _field(name: str, dtype: pl.DataType) -> Field:
    if name in _TEXTS:
        return Field(name, name, pl.col(name).cast(pl.String), "", required=False)
    if name in _TIMES:
        return Field(name, name, pl.col(f"#{name}"), f"{name} is not a time", required=False)
    if name in _PRICES:
        what = f"{name} is not a price in USD or 1e-9 USD"
        return Field(name, name, _price(name, dtype), what, required=False)
    number = pl.col(name).cast(pl.Int64, strict=False)
    required = name in ("publisher_id", "instrument_id", "size")
    return Field(name, name, number, f"{name} is not a whole number from 0 up", 0, _COUNTS[name], required)


def _price(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return nanos. A text with a decimal point is in USD, one without is fixed-point."""
    here = pl.col(name)
    if dtype.is_integer():
        return here.cast(pl.Int64, strict=False)
    if isinstance(dtype, pl.String):
        fixed = here.cast(pl.Int64, strict=False)
        return pl.when(here.str.contains("[.eE]")).then(nanos(here)).otherwise(fixed)
    return nanos(here)


def _instants(values: pl.Series, notes: Counter[str]) -> pl.Series:
    """Return nanoseconds since 1970 (UInt64); null where a value is invalid or undefined."""
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.cast_time_unit("ns").to_physical().cast(pl.UInt64, strict=False)
    numbers = values.cast(pl.UInt64, strict=False)
    if numbers.null_count() == values.null_count() or not isinstance(values.dtype, pl.String):
        return numbers
    times = common.instants(values, notes, "UTC").to_physical().cast(pl.UInt64, strict=False)
    return numbers.zip_with(numbers.is_not_null(), times)


def matches(path: Path, start: bytes) -> bool:
    """Return whether a file has the columns of a Databento export."""
    return set(COLUMNS) <= set(frames.columns_of(path, start))


def open_export(path: Path) -> Export:
    """Return an opened export. Raises `TapeError` if its schema or dataset is not supported."""
    table = frames.open_table(path)
    if lost := [name for name in COLUMNS if name not in table.schema]:
        raise TapeError(f"{path.name}: not a DBN file, and no column {', '.join(lost)} of a Databento export")
    look = [*COLUMNS, *(["action"] if "action" in table.schema else [])]
    first = next(table.chunks(look, Rejects(), Counter(), _LOOK)).frame
    rtype = _only(path, first, "rtype")
    publisher = first["publisher_id"].cast(pl.Int64, strict=False).drop_nulls()
    dataset = _DATASETS.get(publisher.item(0)) if len(publisher) else None
    if dataset is None:
        raise TapeError(
            f"{path.name}: publisher_id {publisher.head(1).to_list()} is of no dataset that is read"
        )
    schema = SCHEMAS.get(rtype, f"of rtype {rtype}")
    if rtype == MBP_1 and "action" in first.columns and (first["action"] == "T").all():
        schema = "tbbo"
    starts = _instants(first["ts_recv"], Counter()).drop_nulls()
    metadata = SimpleNamespace(
        schema=schema, dataset=dataset, mappings={}, start=starts.min() or 0, end=None, limit=None, stype_in=None,
        ts_out=False,
    )  # fmt: skip
    return Export(path, DBN_VERSION, metadata, "symbol" in table.schema, table)


def _only(path: Path, frame: pl.DataFrame, name: str) -> int:
    found = frame[name].cast(pl.Int64, strict=False).unique().to_list()
    if len(found) != 1 or found[0] is None:
        raise TapeError(f"{path.name}: {name} is {found}: one schema in a file is read")
    return int(found[0])
