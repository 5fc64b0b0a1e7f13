"""Rows that their source marks as correcting another, in the place of what they correct."""

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
"""Of rows of one slot the greatest in these stands."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """What corrections did: `dropped`, a mask of the batch's rows that kept rows correct (None: none); `gone`, the kept
    rows (`catalog.STORED`) that were removed since rows of the batch correct them; and in the place of
    how many prints of the batch's own those were (`replacing`)."""

    dropped: pl.Series | None
    gone: pl.DataFrame
    replacing: int


_NOTHING = Corrected(None, pl.DataFrame(schema=STORED), 0)


class Corrections:
    """The corrections of a store. To be used by one thread at a time, within the transaction that keeps the prints."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._slots: dict[date, pl.DataFrame] = {}

    def forget(self) -> None:
        """Hold no more than the store does."""
        self._slots.clear()

    def apply(self, batch: Prepared, days: Iterable[date]) -> Corrected:
        """Compare a batch with the kept rows of its slots, and remove those that the batch corrects.

        `days` are the batch's trading days. Whichever of a row and its correction comes first, the correction stands.
        Raises `StoreError`.
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
        """The slots of the days that hold a correction, kept or in the batch."""
        fresh = rows.filter((pl.col("corrects") == 1) & (pl.col("seq") != 0)).select(ROW_SLOT)
        for day in days:
            if day not in self._slots:
                start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
                self._slots[day] = self._store.corrections(start, end)
            if fresh.height:
                self._slots[day] = pl.concat([self._slots[day], fresh]).unique()
        return pl.concat([fresh, *(self._slots[day] for day in days)]).unique()
