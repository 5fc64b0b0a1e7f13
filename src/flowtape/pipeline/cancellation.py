"""Cancels of stored prints: the print that each removes is matched again whenever a print or a cancel is added."""

from __future__ import annotations

from datetime import date

import polars as pl

from flowtape.model.prints import day_bounds
from flowtape.orderflow.cancels import maybe_in, resolve
from flowtape.pipeline.batch import bar_keys
from flowtape.pipeline.report import Report
from flowtape.storage import Store
from flowtape.storage.catalog import GROUP

_GROUP_AND_TIME = (*(pl.col(name).cast(pl.Int64) for name in GROUP), pl.col("ts").to_physical())


class Cancels:
    """The cancels of a store, by trading day. Used by one thread at a time, within the transaction that writes the
    prints."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: dict[date, pl.DataFrame] = {}

    def forget(self) -> None:
        """Drop the memory of uncommitted rows after a failed commit."""
        self._groups.clear()

    def match(
        self, rows: pl.DataFrame, days: pl.Series, cancels: pl.Series, report: Report
    ) -> list[pl.DataFrame]:
        """Match the cancels in the groups of some rows, store the changes, and return the keys of the minute bars
        that changed.

        The order in which print and cancel arrive makes no difference.

        Args:
            rows: new or removed rows (`catalog.ROWS`).
            days: their trading days.
            cancels: a mask of the rows that are cancels.
        """
        changed: list[pl.DataFrame] = []
        for day in days.unique():
            start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
            of_day = days == day
            if day not in self._groups:
                self._groups[day] = self._store.cancelled_groups(start, end).cast(pl.Int64)
            if self._groups[day].is_empty() and not cancels.any():
                continue
            fresh = rows.filter(of_day & cancels).select(_GROUP_AND_TIME)
            groups = pl.concat([self._groups[day], fresh.rename({"ts": "last"})])
            groups = self._groups[day] = groups.group_by(GROUP).agg(pl.col("last").max())
            if groups.is_empty():
                continue
            # Rows later than the last cancel of their group change no match.
            near = rows.filter(maybe_in(rows, groups, GROUP) & of_day).select(_GROUP_AND_TIME)
            touched = near.join(groups, on=GROUP).filter(pl.col("ts") <= pl.col("last"))
            if touched.height:
                changed.append(self._resolve(touched.select(GROUP).unique(), start, end, report))
        return changed

    def _resolve(self, groups: pl.DataFrame, start: int, end: int, report: Report) -> pl.DataFrame:
        """Match the cancels of some groups; return the keys of the minute bars that changed."""
        rows = self._store.prints_of(groups, start, end)
        kept = self._store.catalog.decode(rows)
        before = kept["removed_at"]
        now = resolve(kept.drop("removed_at"))
        moved = before.ne_missing(now["removed_at"])
        if not moved.any():
            return bar_keys(now.head(0))
        changed = rows.with_columns(now["removed_at"].dt.replace_time_zone(None)).filter(moved)
        self._store.set_removed(changed)
        report.removed += len(now) - now["removed_at"].null_count() - (len(before) - before.null_count())
        return bar_keys(now.filter(before.is_null() != now["removed_at"].is_null()))
