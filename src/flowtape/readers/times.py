"""Times as files write them → UTC instants in nanoseconds."""

from __future__ import annotations

from collections import Counter

import polars as pl

from flowtape.prints import NEW_YORK, Timestamp


def instants(text: pl.Series, notes: Counter[str], zone: str = NEW_YORK.key) -> pl.Series:
    """ISO 8601 date-times → UTC instants; without an offset it is wall time in `zone`; null if neither.

    The hour that autumn's clock change repeats is taken as its first pass, and noted; the hour that spring's
    leaves out never was, and is null.
    """
    text = text.str.replace("T", " ", literal=True)
    offset = text.str.contains(r"(Z|[+-]\d\d:?\d\d)$")
    wall = pl.Series(text.name, [None], dtype=Timestamp).new_from_index(0, len(text))
    if offset.any():
        text = text.str.replace(r"Z$", "+00:00")
        wall = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="ns", time_zone="UTC", strict=False)
    if offset.all():
        return wall
    local = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    return wall.zip_with(offset.fill_null(False), from_wall(local, notes, zone))


def nanoseconds(value: pl.Expr) -> pl.Expr:
    """Integer nanoseconds since 1970 → UTC instants; null outside the years 2001 to 2096, where milliseconds
    or seconds lie."""
    number = value.cast(pl.Int64, strict=False)
    return pl.when(number.is_between(10**18, 4 * 10**18)).then(number).cast(Timestamp)


def from_wall(local: pl.Series, notes: Counter[str], zone: str = NEW_YORK.key) -> pl.Series:
    """Naive date-times in a time zone → UTC instants, as `instants` says of the two odd hours."""
    found = local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    if found.null_count() > local.null_count():
        first = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        notes[f"times in the hour the {zone} clock repeats, taken as the first pass"] += (
            found.null_count() - first.null_count()
        )
        found = first
    return found.dt.convert_time_zone("UTC")
