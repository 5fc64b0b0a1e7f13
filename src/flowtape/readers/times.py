"""Convert times in files to UTC instants in nanoseconds."""

from __future__ import annotations

from collections import Counter
from typing import cast

import numpy as np
import polars as pl

from flowtape.model.prints import EARLIEST, FIRST_DAY, LAST_DAY, LATEST, NEW_YORK, Timestamp
from flowtape.readers.columns import TEXT

_FIRST_YEAR, _LAST_YEAR = "1990", "2100"
"""A text before or from these years may be outside the calendar."""


def instants(text: pl.Series, notes: Counter[str], zone: str = NEW_YORK.key) -> pl.Series:
    """Return UTC instants of ISO 8601 date-times; null where a text is not one.

    A time without an offset is wall time in `zone`. Both ISO forms are read, `2026-05-12T14:00:00.5Z` and
    `20260512T140000.5Z`, also with a space for the `T`, without seconds, and with an offset in hours (`-04`). A time
    outside the calendar (`prints.FIRST_DAY` to `prints.LAST_DAY`) becomes some instant outside it.

    In the hour that the clock repeats in autumn, a time is taken as the first pass, and noted. A time in the hour that
    the clock skips in spring does not exist, and is null.
    """
    found = _of_one_length(text)
    found = _common_form(text, notes, zone) if found is None else found
    if found.null_count() == text.null_count():
        return found
    other = found.is_null() & text.is_not_null()
    rest = pl.Series("at", np.flatnonzero(other.to_numpy()))
    return found.scatter(rest, _common_form(_in_common_form(text.gather(rest)), notes, zone))


_LENGTHS = {20: "%SZ", 24: "%S.%3fZ", 27: "%S.%6fZ", 30: "%S.%9fZ"}
"""The format of the seconds, by the length of `YYYY-MM-DDTHH:MM:SS.fZ`. Polars parses a fixed number of digits six
times as fast as a variable one."""


def _of_one_length(text: pl.Series) -> pl.Series | None:
    """Return the instants of text times. All must have one length, end in `Z` and be valid; otherwise return None."""
    first = text.drop_nulls().first() if text.has_nulls() else text.first()
    low, high = text.min(), text.max()
    if not isinstance(first, str) or len(first) not in _LENGTHS or first[10:11] not in ("T", " "):
        return None
    if not isinstance(low, str) or not isinstance(high, str) or low < _FIRST_YEAR or high >= _LAST_YEAR:
        return None
    form = f"%Y-%m-%d{first[10]}%H:%M:{_LENGTHS[len(first)]}"
    found = text.str.to_datetime(form, time_unit="ns", strict=False).dt.replace_time_zone("UTC")
    return found if found.null_count() == text.null_count() else None


def _common_form(text: pl.Series, notes: Counter[str], zone: str) -> pl.Series:
    """Return instants of `YYYY-MM-DD HH:MM:SS.f`, with a blank or a `T`, followed by `Z`, `+HHMM`, `+HH:MM` or
    nothing."""
    text = text.str.replace("T", " ", literal=True)
    offset = text.str.contains(r"(Z|[+-]\d\d:?\d\d)$")
    wall = pl.Series(text.name, [None], dtype=Timestamp).new_from_index(0, len(text))
    if offset.any():
        wall = _read(text.str.replace(r"Z$", "+00:00"), "%Y-%m-%d %H:%M:%S%.f%z", "UTC")
    if offset.all():
        return wall
    local = _read(text, "%Y-%m-%d %H:%M:%S%.f", None)
    return wall.zip_with(offset.fill_null(False), from_wall(local, notes, zone))


def _read(text: pl.Series, form: str, zone: str | None) -> pl.Series:
    """Return parsed times of one form. In ns, years before 1678 and after 2261 would become other years."""
    found = text.str.to_datetime(form, time_unit="ns", time_zone=zone, strict=False)
    low, high = text.min(), text.max()
    if not isinstance(low, str) or not isinstance(high, str) or (low >= _FIRST_YEAR and high < _LAST_YEAR):
        return found
    wide = in_nanoseconds(text.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False))
    return wide.zip_with((text < _FIRST_YEAR) | (text >= _LAST_YEAR), found)


_ISO = (
    r"^\s*(\d{4})-?(\d\d)-?(\d\d)[Tt ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9})\d*)?)?)?"
    r" ?(?:([Zz])|([+-]\d\d)(?::?(\d\d))?)?\s*$"
)


def _in_common_form(text: pl.Series) -> pl.Series:
    """Return other forms of ISO 8601 rewritten to the common form; null where a text is invalid."""
    parts = text.str.extract_groups(_ISO).struct.rename_fields(list("ymdHMSfzoO")).struct.unnest()
    none = pl.lit("")
    offset = pl.col("o") + ":" + pl.col("O").fill_null("00")
    return parts.select(
        pl.format(
            "{}-{}-{} {}:{}:{}{}{}",
            *(pl.col(name) for name in "ymdH"),
            *(pl.col(name).fill_null("00") for name in "MS"),
            pl.coalesce("." + pl.col("f"), none),
            pl.coalesce(pl.col("z").str.to_uppercase(), offset, none),
        )
    ).to_series()


def in_nanoseconds(times: pl.Series) -> pl.Series:
    """Return date-times of any unit in nanoseconds. One outside the calendar becomes some instant outside it."""
    unit = cast(pl.Datetime, times.dtype).time_unit
    if unit == "ns":
        return times
    per_second = 1_000_000 if unit == "us" else 1_000
    first, last = EARLIEST // 10**9 * per_second - per_second, (LATEST // 10**9 + 2) * per_second
    if times.to_physical().is_between(first, last).all():
        return times.dt.cast_time_unit("ns")
    return times.to_physical().clip(first, last).cast(times.dtype).dt.cast_time_unit("ns")


def dates(values: pl.Series) -> pl.Series:
    """Return the dates of a column: dates, local dates of date-times, numbers and texts `YYYYMMDD`, texts `YYYY-MM-DD`
    (also with a time); null where it is not a date from `prints.FIRST_DAY` to `prints.LAST_DAY`."""
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime):
        found = in_nanoseconds(values).dt.date()
    elif dtype.is_numeric():
        whole = values.cast(pl.Float64, strict=False)
        number = values.cast(pl.Int64, strict=False)
        found = _dates_of_text(number.set(whole != whole.floor(), None).cast(pl.String))
    elif isinstance(dtype, TEXT):
        text = values.cast(pl.String)
        found = _dates_of_text(text)
        if found.null_count() > text.null_count():
            found = found.zip_with(found.is_not_null(), _dates_of_text(text.str.extract(_DATE_AND_TIME)))
    else:
        found = values.cast(pl.Date, strict=False)
    return found.set(~found.is_between(FIRST_DAY, LAST_DAY), None)


def _dates_of_text(text: pl.Series) -> pl.Series:
    return text.to_frame("#").select(date_of_text(pl.col("#"))).to_series()


NO_DATE = f"is not a date from {FIRST_DAY.year} to {LAST_DAY.year}, YYYY-MM-DD or YYYYMMDD"
_DATE_AND_TIME = r"^\s*(\d{4}-\d\d-\d\d|\d{8})(?:[Tt ]\d\d:?\d\d[^/]*)?\s*$"


def date_of_text(text: pl.Expr) -> pl.Expr:
    """Return the dates of texts `YYYY-MM-DD` and `YYYYMMDD` from `prints.FIRST_DAY` to `prints.LAST_DAY`; else null.

    Polars alone would also accept `26-5-15`.
    """
    found = pl.coalesce(
        pl.when(text.str.len_bytes() == length).then(text.str.to_date(form, strict=False))
        for length, form in ((10, "%Y-%m-%d"), (8, "%Y%m%d"))
    )
    return pl.when(found.is_between(FIRST_DAY, LAST_DAY)).then(found)


def nanoseconds(value: pl.Expr) -> pl.Expr:
    """Return UTC instants from integer nanoseconds since 1970; null before `prints.FIRST_DAY`. Seconds, milliseconds
    and microseconds of our time fall before that date."""
    number = value.cast(pl.Int64, strict=False)
    return pl.when(number >= EARLIEST).then(number).cast(Timestamp)


def from_wall(local: pl.Series, notes: Counter[str], zone: str = NEW_YORK.key) -> pl.Series:
    """Return UTC instants of naive date-times in a time zone. Repeated and skipped hours are as in `instants`."""
    found = local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    if found.null_count() > local.null_count():
        first = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        notes[f"times in the hour the {zone} clock repeats, taken as the first pass"] += (
            found.null_count() - first.null_count()
        )
        found = first
    return found.dt.convert_time_zone("UTC")
