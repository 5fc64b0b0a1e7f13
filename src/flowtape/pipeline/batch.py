"""A batch of prints on its way into store and window: as rows, as bars, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import polars as pl

from flowtape.model.conditions import is_cancel
from flowtape.orderflow.minute_bars import FIELDS, NS_PER_MINUTE, aggregate
from flowtape.storage.catalog import BAR_KEY, RIGHTS

_RIGHT = pl.col("right").to_physical().cast(pl.UInt8).fill_null(RIGHTS.index(""))


@dataclass(slots=True)
class Change:
    """What a batch did to the minutes: bars added, and bars put in the place of others."""

    bars: pl.DataFrame
    keys: pl.DataFrame | None = None
    restated: pl.DataFrame | None = None
    dropped: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch on its way: each row once, as prints with `side`, `family`, `series` and `symbol_id`, as rows, and as the
    bars they make if none is known already. Holds while the catalog's `epoch` is the one it was made in.

    `given` counts the rows of the batch. Not among `prints` are `duplicates` (rows of a key that is there once)
    and `corrected` (rows in whose place another row of the batch stands). `counted` prints are no cancels, `unquoted`
    of those have no quote in force.
    """

    prints: pl.DataFrame
    rows: pl.DataFrame
    bars: pl.DataFrame
    given: int
    epoch: int
    duplicates: int
    corrected: int
    counted: int
    unquoted: int

    def only(self, mask: pl.Series) -> Prepared:
        """The batch with a part of its rows."""
        prints = self.prints.filter(mask)
        return replace(self, prints=prints, rows=self.rows.filter(mask), bars=bars_of(prints))


def bars_of(prints: pl.DataFrame) -> pl.DataFrame:
    """Return bars by `BAR_KEY` of the prints that count.

    `prints` has `symbol_id` and `side`, and may have `removed_at`.
    """
    if "removed_at" in prints.columns:
        prints = prints.filter(pl.col("removed_at").is_null())
    prints = prints.filter(~is_cancel())
    if prints.is_empty():
        return pl.DataFrame(schema=dict.fromkeys((*BAR_KEY, *FIELDS), pl.Int64))
    return aggregate(prints.with_columns(_RIGHT), ("symbol_id", "right"))


def bar_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the distinct keys of the bars that some prints with `symbol_id` are in."""
    return rows.select(
        pl.col("symbol_id").cast(pl.Int32),
        _RIGHT,
        (pl.col("ts").to_physical() // NS_PER_MINUTE).alias("minute"),
    ).unique()
