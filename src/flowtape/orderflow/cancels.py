"""Which prints stand: each row once (`identity`), without cancels and what they remove.

A cancel names no sequence: it removes the latest earlier print of the same contract, size and price, on the
same trading day, that still stands (docs/store.md). That is bracket matching: in event order each
print opens, each cancel closes the latest still open, and a cancel with nothing open is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flowtape.model.conditions import is_cancel, is_official
from flowtape.model.prints import CONTRACT, Timestamp, trading_days
from flowtape.orderflow.identity import EVENT_ORDER, unique

_GROUP = ("_day", *CONTRACT, "size", "price")
"""What a cancel and the print it removes have in common."""
_ORDER = tuple(name for name in EVENT_ORDER if name not in _GROUP)
"""Event order within such a group: "earlier" and "latest" mean this."""
_PRIMES = (17, 104_729, 7919, 31)
_PLACES = 2**20
"""Of a table of hashes; a power of two."""
_PART = 250_000
"""Rows that are hashed at a time, to bound memory."""


def resolve(rows: pl.DataFrame) -> pl.DataFrame:
    """Match cancels to prints; adds `removed_at` (Timestamp): when the print was cancelled, null while it stands.

    `rows` holds prints and cancels with the columns of `identity.EVENT_ORDER`, each row once, in any
    order; what comes back is in the same order, cancels among it. A cancel's own `removed_at` is null.
    """
    matched = removals(rows)
    at = pl.Series("removed_at", [None], Timestamp).new_from_index(0, rows.height)
    return rows.with_columns(at.scatter(matched["row"], matched["removed_at"]) if matched.height else at)


def removals(rows: pl.DataFrame) -> pl.DataFrame:
    """The prints that cancels remove: `row`, their places in `rows`, and `removed_at`. See `resolve`.

    Rows that no two of one asset share a sequence number of need no `copy`.
    """
    cancels = rows.select(is_cancel()).to_series()
    if not cancels.any():
        return pl.DataFrame(schema={"row": pl.UInt32, "removed_at": Timestamp})
    near = maybe_in(rows, rows.filter(cancels), ("strike", "expiry", "size", "price")).arg_true()
    order = [name for name in _ORDER if name in rows.columns]
    few = rows.select(*CONTRACT, "size", "price", *order)[near].with_columns(
        near.alias("row"), cancels.gather(near).alias("_cancel")
    )
    few = few.with_columns(trading_days(few["ts"]).alias("_day"))
    groups = few.filter("_cancel").select(_GROUP).unique().with_row_index("_group")
    grouped = few.join(groups, on=list(_GROUP), nulls_equal=True, maintain_order="left")
    return _match(grouped, order)


def maybe_in(rows: pl.DataFrame, wanted: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """A mask of `rows`: true for every row whose `columns` are those of a row of `wanted`, and for few others.

    Looked up by a rough hash in a small table, which leaves a join little to compare in full. The columns are
    integers or dates.
    """
    mixed = pl.sum_horizontal(
        pl.col(name).to_physical().cast(pl.Int64).fill_null(0) * prime
        for name, prime in zip(columns, _PRIMES, strict=False)
    )
    rough = (mixed & (_PLACES - 1)).cast(pl.UInt32)
    table = pl.repeat(False, _PLACES, eager=True).scatter(wanted.select(rough).to_series(), True)
    parts = rows.select(columns).iter_slices(_PART)
    masks = [part.select(pl.lit(table).gather(rough)).to_series() for part in parts]
    return pl.concat(masks) if masks else pl.Series(dtype=pl.Boolean)


def _match(rows: pl.DataFrame, order: Sequence[str]) -> pl.DataFrame:
    """`row` and `removed_at` of the prints that a cancel removes; `_group` numbers what they have in common."""
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
        # A print stands at the depth it opens, its cancel closes that same depth: at each depth of a group
        # the two take turns, so a print's fate is its next neighbour there.
        .with_columns(_level=depth + pl.col("_cancel").cast(pl.Int32))
        .with_columns(removed_at=pl.col("ts").shift(-1).over(key, "_level"))
        .filter(~pl.col("_cancel"), pl.col("removed_at").is_not_null())
        .select("row", "removed_at")
    )


def standing(prints: pl.DataFrame, columns: Sequence[str | pl.Expr] = (pl.all(),)) -> pl.DataFrame:
    """The prints of a frame that count, with the given columns: each row once, without cancels, what they removed,
    and rows that only repeat a print."""
    rows = unique(prints)
    counted = rows.select(~(is_cancel() | is_official())).to_series()
    if counted.all():
        return rows.select(columns)
    return rows.select(columns).filter(counted.scatter(removals(rows)["row"], values=False))
