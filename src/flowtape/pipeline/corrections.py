"""Rows that their source marks as corrections of other rows, which they replace."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import polars as pl

from flowtape.model.prints import day_bounds
from flowtape.pipeline.batch import Prepared
from flowtape.storage import Store
from flowtape.storage.catalog import ROW_IDENTITY, ROW_SLOT, STORED

_VALUES = ("price", "size", "condition")
_BEST = ("corrects", *_VALUES)
"""The order of the rows of one slot; the last one is valid."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """The result of applying corrections. `dropped` is a mask of the batch's rows that stored rows correct, None
    for none. `gone` are the stored rows (`catalog.STORED`) that the batch corrected; they are removed. `replacing`
    counts the prints of the batch that replace them."""

    dropped: pl.Series | None
    gone: pl.DataFrame
    replacing: int


_NOTHING = Corrected(None, pl.DataFrame(schema=STORED), 0)


class Corrections:
    """The corrections of a store. Used by one thread at a time, within the transaction that writes the prints."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots: dict[date, pl.DataFrame] = {}

    def forget(self) -> None:
        """Drop the memory of uncommitted corrections after a failed commit."""
        self._slots.clear()

    def apply(self, batch: Prepared, days: Iterable[date]) -> Corrected:
        """Compare a batch with the stored rows of its slots, and remove the stored rows that it corrects.

        The correction is valid whichever of the two rows arrives first. Raises `StoreError`.

        Args:
            days: the trading days of the batch.
        """
        slots = self._met(batch.rows, days)
        if slots.is_empty():
            return _NOTHING
        mine = batch.rows.with_row_index("#row").join(slots, on=ROW_SLOT, how="semi")
        if mine.is_empty():
            return _NOTHING
        ts = mine["ts"].to_physical()
        first, last = pl.select(ts.min(), last=ts.max()).row(0)
        kept = self._store.prints_of(mine.select(ROW_SLOT).unique(), first, last + 1)
        both = pl.concat([mine.select(*ROW_IDENTITY, "corrects"), kept.select(*ROW_IDENTITY, "corrects")])
        best = both.sort(_BEST).unique(ROW_SLOT, keep="last").select(*ROW_SLOT, *_VALUES)
        values = [*ROW_SLOT, *_VALUES]
        gone = kept.join(best, on=values, how="anti")
        lost = mine.join(best, on=values, how="anti")
        if gone.height:
            self._store.remove_prints(gone)
        replacing = mine.join(best, on=values, how="semi").join(gone, on=ROW_SLOT, how="semi").height
        dropped = pl.int_range(batch.rows.height, dtype=pl.UInt32, eager=True).is_in(lost["#row"].implode())
        return Corrected(dropped if lost.height else None, gone, replacing)

    def _met(self, rows: pl.DataFrame, days: Iterable[date]) -> pl.DataFrame:
        """Return the slots of the days that have a correction, stored or in the batch."""
        fresh = rows.filter((pl.col("corrects") == 1) & (pl.col("seq") != 0)).select(ROW_SLOT)
        for day in days:
            if day not in self._slots:
                start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
                self._slots[day] = self._store.corrections(start, end)
            if fresh.height:
                self._slots[day] = pl.concat([self._slots[day], fresh]).unique()
        return pl.concat([fresh, *(self._slots[day] for day in days)]).unique()
