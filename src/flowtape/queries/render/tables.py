"""A body as a frame, for the table formats (CSV, Arrow, Parquet)."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import polars as pl

from flowtape.model.conditions import CANCEL, FAMILIES, OFFICIAL
from flowtape.model.prints import Timestamp
from flowtape.queries.leaders import Leaderboard
from flowtape.queries.measures import MEASURES
from flowtape.queries.render.bodies import Rows
from flowtape.queries.signals import SessionPart, Sessions

_DATES = {"expiry", "session"}
_TYPES: dict[Any, type[pl.DataType]] = {
    int: pl.Int64, float: pl.Float64, bool: pl.Boolean, str: pl.String
}  # fmt: skip


def table(body: msgspec.Struct) -> pl.DataFrame:
    """Return the rows of a body, or a body without rows as one row, with the column names of its JSON.

    Instants are Datetime in UTC, dates Date, whole numbers Int64, others Float64. `families` becomes a column
    `family_<name>` per family, 0 where absent. The rows of a leaderboard begin with `list`: buyers or sellers.
    Sessions have a row per part, which begins with its day's `date`.
    """
    if isinstance(body, Leaderboard):
        parts = [(name, _of_rows(getattr(body, name))) for name in ("buyers", "sellers")]
        return pl.concat(part.select(pl.lit(name).alias("list"), pl.all()) for name, part in parts)
    if isinstance(body, Sessions):
        return _of_parts(body)
    for name in body.__struct_fields__:
        value = getattr(body, name)
        if isinstance(value, Rows):
            return _of_rows(value)
    fields = {name: getattr(body, name) for name in body.__struct_fields__}
    return _frame(type(body), {name: [value] for name, value in fields.items() if value is not msgspec.UNSET})


def _of_parts(body: Sessions) -> pl.DataFrame:
    """Return a row per part of a session, each with the date of its day."""
    parts = [(day.date, part) for day in body.sessions for part in day.parts]
    columns = {name: [getattr(part, name) for _, part in parts] for name in SessionPart.__struct_fields__}
    for name in (MEASURES["directional"].field, MEASURES["directional_premium"].field):
        if all(value is msgspec.UNSET for value in columns[name]):
            del columns[name]
    frame = _frame(SessionPart, columns)
    return frame.insert_column(
        0, pl.Series("date", [day for day, _ in parts], pl.String).str.to_date("%Y-%m-%d")
    )


def _of_rows(rows: Rows[Any]) -> pl.DataFrame:
    return _frame(rows.kind, rows.columns)


def _frame(kind: type[msgspec.Struct], columns: dict[str, Any]) -> pl.DataFrame:
    hints = get_type_hints(kind)
    if "net_premium" in columns or "net_directional_premium" in columns:
        hints |= dict.fromkeys(("cumulative", "calls", "puts"), float)
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    made: list[pl.Series] = []
    for name, values in columns.items():
        if name == "families":
            made += _families(values)
        else:
            known = [None if value is msgspec.UNSET else value for value in values]
            made.append(_series(name, known, hints[name]).alias(names[name]))
    return pl.DataFrame(made)


def _series(name: str, values: list[Any], hint: Any) -> pl.Series:
    if name in {"ts", "as_of", "since", "until"} or name.endswith("_utc"):
        return (
            pl.Series(name, values, pl.String)
            .str.to_datetime(time_unit="ns", time_zone="UTC")
            .cast(Timestamp)
        )
    if name in _DATES:
        # An expiry given as a list or a range is no date.
        texts = pl.Series(name, values, pl.String)
        dates = texts.str.to_date("%Y-%m-%d", strict=False)
        return dates if dates.null_count() == texts.null_count() else texts
    kinds = get_args(hint) or (hint,)
    if float in kinds and any(isinstance(value, float) for value in values):
        kinds = (float,)
    return pl.Series(name, values, next(_TYPES[one] for one in kinds if one in _TYPES))


def _families(shares: list[dict[str, float]]) -> list[pl.Series]:
    return [
        pl.Series(f"family_{name}", [share.get(name, 0.0) for share in shares], pl.Float64)
        for name in FAMILIES
        if name not in (CANCEL, OFFICIAL)
    ]
