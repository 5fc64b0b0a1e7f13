"""Shared code of readers: convert columns of a file to typed columns of prints, and report every bad row.

`delimited` reads CSV, `times` converts times, `stream` decompresses files; this module also exports their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from flowtape.errors import UsageError
from flowtape.model.conditions import from_numbers
from flowtape.model.prices import NANOS, PRICE_SCALE, Note, beyond, nanos, rounded, units
from flowtape.model.prints import LIMITS as UNITS
from flowtape.model.prints import (
    MAX_NOTIONAL,
    MAX_SIZE,
    OUT_OF_RANGE,
    SIZE_SCALE,
    SIZES_ROUNDED,
    TOO_LARGE,
    arranged,
    out_of_range,
    strike_units,
)
from flowtape.readers import Rejects
from flowtape.readers.columns import is_missing
from flowtape.readers.delimited import FIELDS, ROW, Chunk, Csv, header_of
from flowtape.readers.names import NO_NAME, names
from flowtape.readers.stream import Stream, head, open_stream
from flowtape.readers.times import (
    NO_DATE,
    date_of_text,
    dates,
    from_wall,
    in_nanoseconds,
    instants,
    nanoseconds,
)

__all__ = [
    "FIELDS", "LIMITS", "NO_NAME", "ROW", "Chunk", "Csv", "Field", "Stream", "completed", "condition", "dates",
    "expiry", "from_wall", "head", "header_of", "in_nanoseconds", "instants", "integer", "names", "nanoseconds",
    "note_unknown", "noting", "number", "open_stream", "parse", "price", "quote", "quote_size", "right", "size",
    "strike", "text", "whole",
]  # fmt: skip


FINER = "#finer"
"""The column that marks sizes finer than a size unit, from `parse` to `completed`."""
_QUOTE = ("bid", "ask", "bid_size", "ask_size", "quote_ts", "quote_seq", "quote_class")
_NANOS = ("price", "bid", "ask", "underlying")
LIMITS = {
    name: (low * NANOS, high * NANOS) if name in _NANOS else (low, high)
    for name, (low, high) in UNITS.items()
}
"""`prints.LIMITS` with prices in nanos, as they are during a read."""


@dataclass(frozen=True, slots=True)
class Field:
    """The conversion of a file's columns to one column of prints.

    `value` is null where the source's value is invalid. A null, or a value outside `low`..`high`, makes a bad row.
    `column` is the source's column, as named in the report. If `required` is off, a missing value
    (`columns.is_missing`) is valid. `scale` is the size units of one contract or share.
    """

    name: str
    column: str
    value: pl.Expr
    what: str
    low: int | None = None
    high: int | None = None
    required: bool = True
    names: bool = False
    """Whether the column holds names. Then `value` is the source's text, and `names` converts it."""
    scale: int = 1


def parse(
    raw: pl.DataFrame,
    fields: Sequence[Field],
    rejects: Rejects,
    file: str,
    unit: int = NANOS,
    source: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the columns of prints from source rows (with `ROW`), without the bad rows.

    Each bad row is reported once, for the first of `fields` that it fails, or because its price x size exceeds
    `MAX_NOTIONAL`. A quote whose time is out of range is unknown.

    Args:
        raw: the source rows.
        fields: the columns to make.
        rejects: receives the bad rows.
        file: the file's name.
        unit: the size of a price unit: `NANOS` if the fields return nanos, 1 if they return price units.
        source: the file's columns as they are reported, if those of `raw` were converted.
    """
    source = raw if source is None else source
    parsed = raw.select(pl.col(ROW), *(field.value.alias(field.name) for field in fields))
    parsed = parsed.with_columns(names(parsed[field.name], file)[0] for field in fields if field.names)
    good: pl.Series | None = None
    for field in fields:
        for bad, what in _faults(parsed[field.name], source[field.column], field):
            fresh = bad if good is None else bad & good
            if not fresh.any():
                continue
            rows = raw[ROW].filter(fresh).to_list()
            values = _shown(source[field.column].filter(fresh).head(max(1, rejects.keep)))
            if field.name == "quote_ts" and what is OUT_OF_RANGE:
                rejects.remark(file, rows, f"{field.column} {what}: quote taken as unknown", values)
                quote = [name for name in _QUOTE if name in parsed.columns]
                parsed = parsed.with_columns(pl.when(~fresh).then(pl.col(name)).alias(name) for name in quote)
            else:
                rejects.add(file, rows, f"{field.column} {what}" if what is OUT_OF_RANGE else what, values)
                good = ~fresh if good is None else good & ~fresh
    return _within_limit(parsed if good is None else parsed.filter(good), source, fields, rejects, file, unit)


def _within_limit(
    parsed: pl.DataFrame,
    source: pl.DataFrame,
    fields: Sequence[Field],
    rejects: Rejects,
    file: str,
    unit: int,
) -> pl.DataFrame:
    """Return parsed rows without trades larger than `MAX_NOTIONAL`, which are reported."""
    of = {field.name: field for field in fields if field.name in ("price", "size")}
    if len(of) < 2:
        return parsed
    limit = MAX_NOTIONAL * PRICE_SCALE * unit * of["size"].scale
    large = beyond(parsed["price"], parsed["size"], limit)
    if large is None:
        return parsed
    rows = parsed.filter(large)[ROW]
    values = source.filter(pl.col(ROW).is_in(rows.implode())).select(of["price"].column, of["size"].column)
    shown = [f"{price} x {size}" for price, size in values.iter_rows()]
    rejects.add(file, rows.to_list(), TOO_LARGE, shown)
    return parsed.filter(~large)


def _shown(values: pl.Series) -> list[object]:
    """Return values for a report. Polars cannot show a time beyond the years of Python's datetime."""
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime):
        zone = "Z" if dtype.time_zone else ""
        numbers = values.to_physical().to_list()
        return [
            number if number is None else f"{np.datetime64(number, dtype.time_unit)}{zone}"
            for number in numbers
        ]
    if isinstance(dtype, pl.Date):
        return [
            number if number is None else f"{np.datetime64(number, 'D')}" for number in values.to_physical()
        ]
    return values.to_list()


def _faults(values: pl.Series, source: pl.Series, field: Field) -> Iterator[tuple[pl.Series, str]]:
    """Yield masks of bad values with the reason: the value is invalid, or an instant is out of range."""
    bad = _bad(values, source, field)
    if bad is not None:
        yield bad, field.what
    if isinstance(values.dtype, pl.Datetime):
        outside = out_of_range(values)
        if outside is not None:
            yield outside, OUT_OF_RANGE


def _bad(values: pl.Series, source: pl.Series, field: Field) -> pl.Series | None:
    """Return a mask of bad values, or None where there are none. Usually a null count, a minimum and a maximum do."""
    blank = 0 if field.required else source.null_count()
    outside = (
        any(
            limit is not None and found is not None and (cast(int, found) - limit) * sign < 0
            for limit, found, sign in ((field.low, values.min(), 1), (field.high, values.max(), -1))
        )
        if field.low is not None or field.high is not None
        else False
    )
    if values.null_count() == blank and not outside:
        return None
    bad = values.is_null() if field.required else values.is_null() & ~is_missing(source)
    if field.low is not None:
        bad = bad | (values < field.low).fill_null(False)
    if field.high is not None:
        bad = bad | (values > field.high).fill_null(False)
    return bad


def whole(column: str) -> pl.Expr:
    """Return a whole number from text (`10`, `10.0`) or a number; null if it is not one."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False)


def price(column: str = "price") -> Field:
    """Return the field of a print's price: USD in the file, nanos (see `prices`) in the frame."""
    return Field(
        "price", column, nanos(pl.col(column)), f"{column} is not a price in USD from 0 up", *LIMITS["price"]
    )


def quote(name: str, column: str) -> Field:
    """Return the field of a bid or an ask, in nanos. It may be blank. Trade classification ignores negative quotes."""
    what = f"{column} is not a price in USD"
    return Field(name, column, nanos(pl.col(column)), what, *LIMITS["bid"], required=False)


def size(asset: str, column: str = "size", *, integer: bool = False, what: str = "") -> list[Field]:
    """Return the fields of a print's size in size units.

    A stock's size that is finer than a unit is rounded half to even, and the column `FINER` marks it for `completed`.

    Args:
        asset: the asset of all rows.
        column: the source's column.
        integer: whether that column holds integers, not text or floats.
        what: the message for a bad value, if it differs from the default.
    """
    value, scale = _sized(asset, column, integer=integer), SIZE_SCALE[asset]
    if asset == "option":
        return [Field("size", column, value, f"{column} is not a whole number from 1 up", 1, MAX_SIZE)]
    what = what or "is not a number of shares from 1/10,000 up"
    fields = [Field("size", column, value, f"{column} {what}", 1, MAX_SIZE * scale, scale=scale)]
    if not integer:
        finer = nanos(pl.col(column)) % NANOS != 0
        fields.append(Field(FINER, column, finer, "", required=False))
    return fields


def quote_size(name: str, column: str, asset: str, *, integer: bool = False) -> Field:
    """Return the field of the size at a quote in size units, as for `size`. It may be blank."""
    what = "a whole number" if asset == "option" else "a number"
    value = _sized(asset, column, integer=integer)
    return Field(name, column, value, f"{column} is not {what} from 0 up", *LIMITS[name], required=False)


def _sized(asset: str, column: str, *, integer: bool) -> pl.Expr:
    """Return a size in size units; null if it is invalid."""
    if not integer:
        return whole(column) if asset == "option" else units(nanos(pl.col(column)))
    contracts = pl.col(column).cast(pl.Int64, strict=False)
    if asset == "option":
        return contracts
    # A larger number would not fit 64 bits, and is no valid size.
    return pl.when(contracts <= 2**49).then(contracts) * SIZE_SCALE[asset]


def completed(prints: pl.DataFrame, note: Note, unit: int = NANOS) -> pl.DataFrame:
    """Return parsed prints with all columns, with prices rounded from nanos to price units.

    Args:
        prints: the columns of `prints.SCHEMA`, with prices in nanos, and `FINER` if there are stocks.
        note: is called for each kind of rounded value.
        unit: 1 if prices are already in price units.
    """
    if FINER in prints.columns and prints[FINER].any():
        note(SIZES_ROUNDED, int(prints[FINER].sum()))
    return arranged(rounded(prints, note) if unit == NANOS else prints)


def strike(column: str = "strike") -> Field:
    """Return the field of a strike in USD, a multiple of 0.001 as in an OSI symbol."""
    value = strike_units(nanos(pl.col(column)))
    return Field("strike", column, value, f"{column} is not a strike in USD", *LIMITS["strike"])


def right(column: str = "right") -> Field:
    """Return the field of the right: `C`, `P`, `CALL` or `PUT`, in any case."""
    table = {"C": "C", "CALL": "C", "P": "P", "PUT": "P"}
    value = pl.col(column).str.to_uppercase().replace_strict(table, default=None, return_dtype=pl.String)
    return Field("right", column, value, f"{column} is neither call nor put")


def text(name: str, column: str) -> Field:
    """Return the field of a name that must not be blank. It is converted to upper case. A symbol or a root must match
    `prints.SYMBOL_PATTERN`, another name `prints.NAME_PATTERN`."""
    return Field(name, column, pl.col(column), f"{column} {NO_NAME[name]}", names=True)


def number(name: str, column: str) -> Field:
    """Return the field of a whole number of any sign, exact over all of 64 bits."""
    return Field(name, column, integer(column), f"{column} is not a whole number")


def integer(column: str) -> pl.Expr:
    """Return a text column (`10`, `10.0`) as 64-bit integers, null where the text is not a whole number."""
    return pl.coalesce(pl.col(column).cast(pl.Int64, strict=False), whole(column))


def expiry(column: str = "expiry") -> Field:
    """Return the field of an expiration, `YYYY-MM-DD` or `YYYYMMDD`."""
    return Field("expiry", column, date_of_text(pl.col(column)), f"{column} {NO_DATE}")


def condition(column: str, vendor: str) -> pl.Expr:
    """Return the names of a vendor's condition numbers, given as text; null only where the text is not a number."""
    known = pl.col(column).is_null() | pl.col(column).cast(pl.Int64, strict=False).is_not_null()
    return pl.when(known).then(from_numbers(pl.col(column), vendor))


def noting(notes: Counter[str]) -> Note:
    """Return a function that adds to a tape's notes."""

    def note(what: str, many: int) -> None:
        notes[what] += many

    return note


_SHOWN, _MAX_NOTES = 40, 200
"""The characters of a text that a note shows, and the number of notes that name one condition."""
_OTHERS = "other conditions without a name here: kept as unknown"


def note_unknown(conditions: pl.Series, source: pl.Series, notes: Counter[str]) -> None:
    """Note the source's conditions without a name in our vocabulary; their prints are kept as `unknown`."""
    for value, count in source.filter(conditions == "unknown").drop_nulls().value_counts().iter_rows():
        what = f"condition {value[:_SHOWN]} is not known: kept as unknown"
        notes[what if what in notes or len(notes) < _MAX_NOTES else _OTHERS] += count


def check_unnamed(path: Path, symbol: str | None) -> None:
    """Raise `UsageError` where a symbol is given for a file that has a column of symbols."""
    if symbol is not None:
        raise UsageError(f"symbol: {symbol!r} is given, but {path.name} has a column of symbols")
