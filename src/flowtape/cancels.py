"""Which prints stand: identity of rows and the cancels among them.

A cancel names no sequence: it removes the latest earlier print of the same contract, size and price, on the
same trading day, that still stands (docs/store.md). That is bracket matching: in event order each
print opens, each cancel closes the latest still open, and a cancel with nothing open is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from flowtape.conditions import is_cancel, is_official
from flowtape.prints import CONTRACT, IDENTITY, Asset, Timestamp, trading_days

ORDER = ("ts", "seq", "venue")
"""Event order: "earlier" and "latest" mean this."""
_PRIMES = (17, 104_729, 7919, 31)
_PLACES = 2**20
"""Of a table of hashes; a power of two."""


def unique(prints: pl.DataFrame) -> pl.DataFrame:
    """Each row once: of those with one identity the one with the latest quote, and of equal ones the last; order is
    kept."""
    # An asset's sequence that only rises cannot repeat a row, and this is by far the commonest tape.
    sequences = (prints["seq"].filter(prints["asset"] == asset) for asset in Asset.categories)
    if all((seq.diff().slice(1) > 0).all() for seq in sequences):
        return prints
    ordered = prints.with_row_index("#row").sort("quote_ts", nulls_last=False, maintain_order=True)
    standing = ordered.unique(list(IDENTITY), keep="last")["#row"]
    return prints[standing.sort()]


def resolve(rows: pl.DataFrame) -> pl.DataFrame:
    """Match cancels to prints; adds `removed_at` (Timestamp): when the print was cancelled, null while it stands.

    `rows` holds prints and cancels with the contract's columns, `ts`, `seq`, `venue`, `size`, `price` and
    `condition`, each row once, in any order; what comes back is in the same order, cancels among it. A
    cancel's own `removed_at` is null.
    """
    matched = removals(rows)
    at = pl.Series("removed_at", [None], Timestamp).new_from_index(0, rows.height)
    return rows.with_columns(at.scatter(matched["row"], matched["removed_at"]) if matched.height else at)


def removals(rows: pl.DataFrame) -> pl.DataFrame:
    """The prints that cancels remove: `row`, their places in `rows`, and `removed_at`. See `resolve`."""
    cancels = rows.select(is_cancel()).to_series()
    if not cancels.any():
        return pl.DataFrame(schema={"row": pl.UInt32, "removed_at": Timestamp})
    near = maybe_in(rows, rows.filter(cancels), ("strike", "expiry", "size", "price")).arg_true()
    columns = list(dict.fromkeys((*CONTRACT, *ORDER, "size", "price")))
    few = rows.select(columns)[near].with_columns(near.alias("row"), cancels.gather(near).alias("_cancel"))
    few = few.with_columns(trading_days(few["ts"]).alias("_day"))
    key = ["_day", *CONTRACT, "size", "price"]
    found = few.join(few.filter("_cancel").select(key).unique(), on=key, how="semi", nulls_equal=True)
    return _match(found, key)


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
    return rows.select(pl.lit(table).gather(rough)).to_series()


def _match(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """`row` and `removed_at` of the prints that a cancel removes."""
    step = pl.when("_cancel").then(-1).otherwise(1).cum_sum().over(key)
    floor = pl.min_horizontal(pl.col("_height").cum_min().over(key), 0)
    ignored = pl.col("_cancel") & (pl.col("_floor") < pl.col("_floor").shift(1, fill_value=0).over(key))
    depth = pl.col("_height") - pl.col("_floor")
    return (
        rows.select(*key, *ORDER, "row", "_cancel")
        .sort(*ORDER, maintain_order=True)
        .with_columns(_height=step)
        .with_columns(_floor=floor)
        .filter(~ignored)
        # A print stands at the depth it opens, its cancel closes that same depth: at each depth of a group
        # the two take turns, so a print's fate is its next neighbour there.
        .with_columns(_level=depth + pl.col("_cancel").cast(pl.Int32))
        .with_columns(removed_at=pl.col("ts").shift(-1).over([*key, "_level"]))
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
