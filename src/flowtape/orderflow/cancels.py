"""Match cancels to the prints that they remove.

A cancel carries no sequence number of its print. It removes the latest earlier print of the same contract, size and
price, on the same trading day, that no other cancel has removed (docs/reference/store.md). This is bracket matching in
event order: each print opens, each cancel closes the latest open print, and a cancel with no open print is ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from flowtape.model.conditions import is_cancel, is_official
from flowtape.model.prints import CONTRACT, Timestamp, trading_days
from flowtape.orderflow.identity import EVENT_ORDER

_GROUP = ("_day", *CONTRACT, "size", "price")
"""The columns in which a cancel agrees with the print it removes."""
_ROUGH = ("root", "expiry", "strike", "size", "price")
"""The columns of a group that distinguish most groups."""
_ORDER = tuple(name for name in EVENT_ORDER if name not in _GROUP)
"""Event order within a group. It defines "earlier" and "latest"."""
_FACTORS = tuple(
    int(number) - 2**63 for number in np.random.default_rng(1).integers(0, 2**63, 8, np.uint64) * 2 + 1
)
"""Random odd numbers. Multiplication by one moves every bit of a number into its upper bits."""
_BITS = 22
"""The bits of a hash: few enough for a table of all hashes to fit a processor's cache."""
_PART = 250_000
"""Rows processed at a time."""


def resolve(rows: pl.DataFrame) -> pl.DataFrame:
    """Return prints and cancels with `removed_at` (Timestamp): the time of a print's cancel, null if it has none.

    `rows` holds prints and cancels with the columns of `identity.EVENT_ORDER`, without duplicates, in any order. The
    order is kept and cancels stay in the result. A cancel's own `removed_at` is null.
    """
    matched = removals(rows)
    at = pl.Series("removed_at", [None], Timestamp).new_from_index(0, rows.height)
    return rows.with_columns(at.scatter(matched["row"], matched["removed_at"]) if matched.height else at)


def removals(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the prints that cancels remove: `row`, their positions in `rows`, and `removed_at`.

    `rows` is as for `resolve`. Without the columns `seq`, `venue` and `copy`, rows of one contract and instant must
    already be in event order.
    """
    cancels = _in_parts(rows, lambda part: part.select(is_cancel()).to_series())
    if not cancels.any():
        return pl.DataFrame(schema={"row": pl.UInt32, "removed_at": Timestamp})
    near = maybe_in(rows, _chosen(rows, cancels, _ROUGH), _ROUGH)
    order = [name for name in _ORDER if name in rows.columns]
    few = _chosen(rows, near, (*CONTRACT, "size", "price", *order))
    few = few.with_columns(near.arg_true().alias("row"), cancels.filter(near).alias("_cancel"))
    few = few.with_columns(trading_days(few["ts"]).alias("_day"))
    groups = few.filter("_cancel").select(_GROUP).unique().with_row_index("_group")
    grouped = few.join(groups, on=list(_GROUP), nulls_equal=True, maintain_order="left")
    # Where sequence numbers rise from row to row, events of one instant are in order too.
    in_order = "seq" not in order or bool((grouped["seq"].diff().slice(1) > 0).all())
    return _match(grouped, ["ts"] if in_order else order)


def maybe_in(rows: pl.DataFrame, wanted: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Return a mask of `rows` that is true where `columns` equal those of a row of `wanted`, and for few other rows.

    A small table of hashes leaves few rows to compare in a join. The columns are integers, dates, Enums or
    Categoricals, at most eight.
    """
    mixed = pl.sum_horizontal(
        pl.col(name).to_physical().cast(pl.Int64).fill_null(0) * factor
        for name, factor in zip(columns, _FACTORS, strict=False)
    )
    rough = (mixed.reinterpret(signed=False) // 2 ** (64 - _BITS)).cast(pl.UInt32)
    table = pl.repeat(False, 2**_BITS, eager=True).scatter(wanted.select(rough).to_series(), True)
    return _in_parts(rows[list(columns)], lambda part: part.select(pl.lit(table).gather(rough)).to_series())


def _in_parts(rows: pl.DataFrame, made: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
    """Return a column computed part by part. A part fits a processor's cache; `select` copies no chunks of it."""
    return pl.concat(made(part) for part in rows.iter_slices(_PART)) if rows.height else made(rows)


def _chosen(rows: pl.DataFrame, mask: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """Return the rows at which a mask is true, filtered in parts."""
    parts = rows[list(columns)].iter_slices(_PART)
    return pl.concat(part.filter(mask.slice(place * _PART, part.height)) for place, part in enumerate(parts))


def _match(rows: pl.DataFrame, order: Sequence[str]) -> pl.DataFrame:
    """Return `row` and `removed_at` of the prints that a cancel removes. `_group` numbers the values of `_GROUP`."""
    key = "_group"
    step = pl.when("_cancel").then(-1).otherwise(1).cum_sum().over(key)
    floor = pl.min_horizontal(pl.col("_height").cum_min().over(key), 0)
    ignored = pl.col("_cancel") & (pl.col("_floor") < pl.col("_floor").shift(1, fill_value=0).over(key))
    depth = pl.col("_height") - pl.col("_floor")
    return (
        rows.select(key, *order, "row", "_cancel")
        .sort(*order, maintain_order=True)
        .with_columns(_height=step)
        .with_columns(_floor=floor)
        .filter(~ignored)
        # A print opens a depth and its cancel closes the same depth. At each depth of a group prints and cancels
        # alternate, so the next row at that depth is the print's cancel.
        # Group and depth are packed into one number: a window over two columns costs ten times as much.
        .with_columns(_level=pl.col(key).cast(pl.Int64) * 2**32 + depth + pl.col("_cancel").cast(pl.Int32))
        .with_columns(removed_at=pl.col("ts").shift(-1).over("_level"))
        .filter(~pl.col("_cancel"), pl.col("removed_at").is_not_null())
        .select("row", "removed_at")
    )


def counted(rows: pl.DataFrame) -> pl.Series | None:
    """Return a mask of the rows that count, or None where all do.

    Cancels, the prints they remove and rows that only repeat a print do not count. `rows` has the columns that
    `removals` needs, without duplicates.
    """
    prints = _in_parts(rows, lambda part: part.select(~(is_cancel() | is_official())).to_series())
    return None if prints.all() else prints.scatter(removals(rows)["row"], values=False)
