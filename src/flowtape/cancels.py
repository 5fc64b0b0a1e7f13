"""Which prints stand: identity of rows and the cancels among them.

A cancel names no sequence: it removes the latest earlier print of the same contract, size and price, on the
same trading day, that still stands (contract FLOW, section 3). That is bracket matching: in event order each
print opens, each cancel closes the latest still open, and a cancel with nothing open is ignored.
"""

from __future__ import annotations

import polars as pl

from flowtape.conditions import is_cancel
from flowtape.prints import CONTRACT, IDENTITY, Timestamp, trading_days

ORDER = ("ts", "seq", "venue")
"""Event order: "earlier" and "latest" mean this."""


def unique(prints: pl.DataFrame, identity: tuple[str, ...] = IDENTITY) -> pl.DataFrame:
    """Drop rows whose identity an earlier row of the frame has; order is kept."""
    # A source's sequence that only rises cannot repeat a row, and this is by far the commonest tape.
    seq = prints["seq"]
    if len(seq) < 2 or bool((seq.diff().slice(1) > 0).all()):
        return prints
    return prints.unique(subset=list(identity), keep="first", maintain_order=True)


def resolve(rows: pl.DataFrame, group: tuple[str, ...] = CONTRACT) -> pl.DataFrame:
    """Match cancels to prints; adds `removed_at` (Timestamp): when the print was cancelled, null while it stands.

    `rows` holds prints and cancels with the columns `group`, `ts`, `seq`, `venue`, `size`, `price` and
    `condition`, each row once, in any order; what comes back is in the same order, cancels among it. A
    cancel's own `removed_at` is null.
    """
    cancels = rows.select(is_cancel()).to_series()
    if not cancels.any():
        return rows.with_columns(removed_at=pl.lit(None, Timestamp))
    marked = rows.with_columns(trading_days(rows["ts"]).alias("_day"), _cancel=cancels).with_row_index("_row")
    key = ["_day", *group, "size", "price"]
    found = marked.join(marked.filter("_cancel").select(key).unique(), on=key, how="semi", nulls_equal=True)
    matched = _match(found, key)
    return marked.join(matched, on="_row", how="left", maintain_order="left").drop("_row", "_day", "_cancel")


def _match(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """`_row` and `removed_at` of the prints that a cancel removes."""
    step = pl.when("_cancel").then(-1).otherwise(1).cum_sum().over(key)
    floor = pl.min_horizontal(pl.col("_height").cum_min().over(key), 0)
    ignored = pl.col("_cancel") & (pl.col("_floor") < pl.col("_floor").shift(1, fill_value=0).over(key))
    depth = pl.col("_height") - pl.col("_floor")
    return (
        rows.select(*key, *ORDER, "_row", "_cancel")
        .sort(*ORDER, maintain_order=True)
        .with_columns(_height=step)
        .with_columns(_floor=floor)
        .filter(~ignored)
        # A print stands at the depth it opens, its cancel closes that same depth: at each depth of a group
        # the two take turns, so a print's fate is its next neighbour there.
        .with_columns(_level=depth + pl.col("_cancel").cast(pl.Int32))
        .with_columns(removed_at=pl.col("ts").shift(-1).over([*key, "_level"]))
        .filter(~pl.col("_cancel"), pl.col("removed_at").is_not_null())
        .select("_row", "removed_at")
    )


def standing(prints: pl.DataFrame) -> pl.DataFrame:
    """The prints of a frame that count: each row once, without cancels and what they removed."""
    rows = resolve(unique(prints))
    return rows.filter(pl.col("removed_at").is_null(), ~is_cancel()).drop("removed_at")
