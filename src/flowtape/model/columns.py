"""Convert columns of a caller's frame to columns of prints.

Each function takes a Polars series and returns one of the type that prints hold. A type whose meaning is ambiguous,
and a value that does not fit, raise `Fault` with the row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from flowtape.errors import UsageError
from flowtape.model.prices import MAX_NANOS, nanos, shortest_floats

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_PER_SECOND = {"ns": 10**9, "us": 10**6, "ms": 10**3}
NAIVE = "has no time zone; give it one, as with .dt.replace_time_zone('UTC') (pandas: .dt.tz_localize('UTC'))"


class Fault(UsageError):
    """A column, or one of its values, is not valid in a print. The message names the column, the row and the value."""

    def __init__(self, column: str, what: str, row: int | None = None, value: object = None) -> None:
        where = f"column {column}" if row is None else f"column {column}, row {row + 1}: {value!r:.100}"
        super().__init__(f"prints: {where}: {what}")


def polars_of(frame: Any) -> pl.DataFrame:
    """Return a caller's frame as a Polars frame.

    Args:
        frame: a Polars frame or LazyFrame, a pandas frame, or an object with the Arrow C stream interface.

    Raises:
        UsageError: the object has another type, or Polars cannot hold one of its columns.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        return _of_pandas(frame)
    if hasattr(frame, "__arrow_c_stream__"):
        return pl.DataFrame(frame)
    raise UsageError(f"expected a Polars or pandas frame, not {type(frame).__name__}")


def _of_pandas(frame: Any) -> pl.DataFrame:
    columns = {}
    for place, name in enumerate(frame.columns):
        if name in columns:
            raise UsageError(f"two columns are called {name!r}")
        try:
            columns[name] = pl.Series(str(name), pl.from_pandas(frame.iloc[:, place]))
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
            # pyarrow's errors are ValueError and TypeError.
            raise Fault(str(name), f"values of mixed types: {str(error).splitlines()[0]}") from None
    return pl.DataFrame(list(columns.values()))


def usd(values: pl.Series) -> pl.Series:
    """Return prices in nanos (1e-9 USD) from floats or decimals in USD. NaN becomes null."""
    dtype = values.dtype
    if dtype == pl.Null:
        return values.cast(pl.Int64)
    if dtype.is_integer():
        raise Fault(values.name, "integers beside a price in USD; give it the type of price")
    if not (dtype.is_float() or dtype.is_decimal()):
        raise Fault(
            values.name,
            f"{_named(dtype)} is not a price: integers of 1/10,000 USD, or floats or decimals in USD",
        )
    exact = shortest_floats(values.to_frame("#")).select(nanos(pl.col("#").cast(pl.Float64).fill_nan(None)))
    made = exact.to_series()
    made = made.set((made.abs() > MAX_NANOS).fill_null(value=False), None)
    return kept(
        made,
        values.fill_nan(None) if dtype.is_float() else values,
        "is not a price of at most 10,000,000 USD",
    )


def nanos_of(values: pl.Series, most: int) -> pl.Series:
    """Return amounts in nanos (1e-9) from integers, floats or decimals up to `most`. NaN becomes null."""
    dtype = values.dtype
    if dtype == pl.Null:
        return values.cast(pl.Int64)
    if not (dtype.is_numeric() or dtype.is_decimal()):
        raise Fault(values.name, f"{_named(dtype)} is not a number")
    exact = shortest_floats(values.to_frame("#")).select(pl.col("#").cast(pl.Float64).fill_nan(None))
    refuse(values, (exact["#"].abs() > most).fill_null(value=False), f"is beyond {most:,}")
    return exact.select(nanos(pl.col("#"))).to_series()


def whole(values: pl.Series, what: str = "is not a whole number") -> pl.Series:
    """Return whole numbers as Int64 from integers, floats or decimals. `what` is the error for others. NaN is null."""
    dtype = values.dtype
    if dtype.is_integer() or dtype == pl.Null:
        return kept(values.cast(pl.Int64, strict=False), values, "is beyond 64 bits")
    if not (dtype.is_float() or dtype.is_decimal()):
        raise Fault(values.name, f"{_named(dtype)} is not a number")
    values = values.fill_nan(None) if dtype.is_float() else values
    exact = values.cast(pl.Float64)
    fits = (exact == exact.floor()) & (exact.abs() <= 2**53)
    made = exact.set(~fits.fill_null(value=True), None).cast(pl.Int64, strict=False)
    return kept(made, values, what)


def instants(values: pl.Series, earliest: int, latest: int, what: str) -> pl.Series:
    """Return times with a time zone as `Datetime("ns", "UTC")`.

    Args:
        values: date-times of any unit.
        earliest: the first valid instant, in ns since 1970.
        latest: the last valid instant, in ns since 1970.
        what: the error message for an instant out of this range.
    """
    dtype = values.dtype
    if dtype == pl.Null:
        return values.cast(pl.Datetime("ns", "UTC"))
    if not isinstance(dtype, pl.Datetime):
        raise Fault(values.name, f"{_named(dtype)} is not a time: give it as date-time with a time zone")
    if dtype.time_zone is None:
        raise Fault(values.name, NAIVE)
    # Checked in the column's own unit: nanoseconds cannot hold every year.
    step = 10**9 // _PER_SECOND[dtype.time_unit]
    numbers, low, high = values.to_physical(), -(-earliest // step), latest // step
    first, last = numbers.min(), numbers.max()
    if isinstance(first, int) and isinstance(last, int) and (first < low or last > high):
        refuse(values, ~numbers.is_between(low, high).fill_null(value=True), what)
    return values.cast(pl.Datetime("ns", "UTC"))


def dates(values: pl.Series) -> pl.Series:
    """Return dates from dates or date-times. A date-time keeps the date of its own time zone."""
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime):
        return values.dt.date()
    if dtype not in (pl.Date, pl.Null):
        raise Fault(values.name, f"{_named(dtype)} is not a date; give it that type, as with .str.to_date()")
    return values.cast(pl.Date)


def names(values: pl.Series, good: Callable[[str], bool], what: str, most: int, strip: str = "") -> pl.Series:
    """Return names as Categorical, in upper case, without surrounding blanks and without the prefix `strip`.

    Args:
        values: text.
        good: returns whether a name is valid.
        what: the error message for an invalid name.
        most: the largest number of distinct names.
        strip: characters to remove from the start of a name.
    """
    if values.dtype == pl.Null:
        return values.cast(pl.Categorical)
    if not isinstance(values.dtype, _TEXT):
        raise Fault(values.name, f"{_named(values.dtype)} is not a name: give it as text")
    found = values.unique().drop_nulls().cast(pl.String)
    if len(found) > most:
        raise Fault(values.name, f"more than {most:,} distinct names")
    table = {name: name.strip().upper().lstrip(strip) for name in found}
    bad = [name for name, right in table.items() if not good(right)]
    if bad:
        refuse(values, values.cast(pl.String).is_in(bad), what)
    if all(name == right for name, right in table.items()):
        return values.cast(pl.Categorical)
    return values.cast(pl.String).replace_strict(table, default=None).cast(pl.Categorical)


def chosen(values: pl.Series, kind: pl.Enum, choices: Mapping[str, str], what: str) -> pl.Series:
    """Return words as `kind`; `choices` maps each accepted spelling, in upper case, to its word. Case is ignored."""
    if values.dtype in (kind, pl.Null):
        return values.cast(kind)
    if not isinstance(values.dtype, _TEXT):
        raise Fault(values.name, f"{_named(values.dtype)} {what}")
    text = values.cast(pl.String)
    made = text.str.strip_chars().str.to_uppercase().replace_strict(choices, default=None, return_dtype=kind)
    return kept(made, values, what)


def _named(dtype: pl.DataType) -> str:
    return "text" if isinstance(dtype, _TEXT) else f"of type {dtype}"


def kept(made: pl.Series, values: pl.Series, what: str) -> pl.Series:
    """Return `made`, converted from `values`, after a check that no value was lost."""
    if made.null_count() != values.null_count():
        refuse(values, made.is_null() & values.is_not_null(), what)
    return made.alias(values.name)


def refuse(values: pl.Series, bad: pl.Series, what: str) -> None:
    """Raise `Fault` for the first bad value, if there is one."""
    row = bad.arg_max()
    if row is not None and bad[row]:
        value = values[row]
        raise Fault(
            values.name, what, row, value.isoformat() if isinstance(value, dt.date | dt.datetime) else value
        )
