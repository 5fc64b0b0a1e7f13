"""A batch of prints between the reader and the store: prints, rows, and the changes to the minute bars."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import polars as pl

from flowtape.model.conditions import is_cancel
from flowtape.model.prints import SIZE_SCALE
from flowtape.orderflow.minute_bars import FIELDS, NS_PER_MINUTE, aggregate
from flowtape.storage.catalog import BAR_KEY, RIGHTS

_RIGHT = pl.col("right").to_physical().cast(pl.UInt8).fill_null(RIGHTS.index(""))


@dataclass(slots=True)
class Change:
    """The changes of a batch to the minute bars: bars added, and bars restated in place of those with `keys`."""

    bars: pl.DataFrame
    keys: pl.DataFrame | None = None
    restated: pl.DataFrame | None = None
    dropped: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch before the store is asked: each row once, as prints with `side`, `family`, `series` and `symbol_id`,
    and as rows. It is valid while the catalog has the same `epoch`.

    `given` counts the rows of the batch. `prints` leaves out `duplicates` (further rows of one key) and `corrected`
    (rows that another row of the batch corrects). `counted` counts prints that are no cancels, `unquoted` those of
    them without a quote in force.
    """

    prints: pl.DataFrame
    rows: pl.DataFrame
    given: int
    epoch: int
    duplicates: int
    corrected: int
    counted: int
    unquoted: int

    def only(self, mask: pl.Series) -> Prepared:
        """Return the batch with the rows of a mask."""
        return replace(self, prints=self.prints.filter(mask), rows=self.rows.filter(mask))

    def volumes(self) -> dict[tuple[str, str], float]:
        """Return the contracts or shares of the prints that count, by asset and side."""
        sums = (
            self.prints.filter(~is_cancel())
            .group_by("asset", "side")
            .agg(pl.col("size").sum())
            .cast({"asset": pl.String, "side": pl.String})
        )
        return {(asset, side): many / SIZE_SCALE[asset] for asset, side, many in sums.iter_rows()}


def bars_of(prints: pl.DataFrame) -> pl.DataFrame:
    """Return minute bars by `BAR_KEY` of the counted prints.

    Args:
        prints: with `symbol_id` and `side`, and optionally `removed_at`.
    """
    if "removed_at" in prints.columns:
        prints = prints.filter(pl.col("removed_at").is_null())
    prints = prints.filter(~is_cancel())
    if prints.is_empty():
        return pl.DataFrame(schema=dict.fromkeys((*BAR_KEY, *FIELDS), pl.Int64))
    return aggregate(prints.with_columns(_RIGHT), ("symbol_id", "right"))


def bar_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the distinct keys of the bars of some prints with `symbol_id`."""
    return rows.select(
        pl.col("symbol_id").cast(pl.Int32),
        _RIGHT,
        (pl.col("ts").to_physical() // NS_PER_MINUTE).alias("minute"),
    ).unique()
