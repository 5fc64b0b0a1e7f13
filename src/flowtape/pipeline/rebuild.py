"""Rebuilds the minute bars, sides and removals of a stored day from its prints."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from flowtape.model.prints import day_bounds
from flowtape.orderflow.cancels import resolve
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, merge
from flowtape.pipeline.batch import bars_of
from flowtape.pipeline.classification import classified
from flowtape.storage import Store
from flowtape.storage.catalog import BAR_KEY

_PARTS = 8
"""Groups of symbols that are rebuilt one after the other, which bounds memory."""


def rebuild_day(store: Store, day: date, max_quote_age: timedelta | None) -> int:
    """Classify a day's prints again and rebuild its minute bars, in the open transaction and bounded memory.

    Returns the number of bars. Raises `StoreError`.
    """
    start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
    store.clear_minutes(start, end)
    return sum(_rebuild_part(store, start, end, part, max_quote_age) for part in range(_PARTS))


def _rebuild_part(store: Store, start: int, end: int, part: int, max_quote_age: timedelta | None) -> int:
    known = store.catalog.series
    # By symbol, since a bar covers all series of its symbol.
    rows = store.prints(known.filter(pl.col("symbol_id") % _PARTS == part)["series"], start, end)
    bars = bars_of(_reclassify(store, rows, max_quote_age))
    store.append_bars(bars)
    return bars.height


def _reclassify(store: Store, rows: pl.DataFrame, max_quote_age: timedelta | None) -> pl.DataFrame:
    """Classify stored rows (`catalog.STORED`) and match their cancels again, and store what differs.

    Returns the rows as prints with `removed_at`.
    """
    before = store.catalog.decode(rows.drop("removed_at"))
    prints = resolve(classified(before.drop("side", "family"), max_quote_age))
    now = rows.with_columns(
        prints["side"].to_physical().cast(pl.UInt8),
        prints["family"].to_physical().cast(pl.UInt8),
        prints["removed_at"].dt.replace_time_zone(None),
    )
    differ = (rows["side"] != now["side"]) | (rows["family"] != now["family"])
    if differ.any():
        store.replace_prints(now.filter(differ))
    moved = rows["removed_at"].ne_missing(now["removed_at"])
    if moved.any():
        store.set_removed(now.filter(moved))
    return prints


def wrong_minutes(store: Store, day: date) -> tuple[int, int]:
    """Return how many of a day's minute bars differ from its stored prints, and how many bars there are.

    Raises `StoreError`.
    """
    start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
    with store.snapshot():
        found = [_wrong_part(store, start, end, part) for part in range(_PARTS)]
    return sum(wrong for wrong, _ in found), sum(kept for _, kept in found)


def _wrong_part(store: Store, start: int, end: int, part: int) -> tuple[int, int]:
    known = store.catalog.series.filter(pl.col("symbol_id") % _PARTS == part)
    prints = store.catalog.decode(store.prints(known["series"], start, end))
    kept = store.bars(known["symbol_id"].unique(), start // NS_PER_MINUTE, end // NS_PER_MINUTE)
    kept = kept.cast(pl.Int64)
    made = merge(bars_of(prints).cast(pl.Int64), BAR_KEY).select(kept.columns)
    wrong = pl.concat([made, kept]).group_by(kept.columns).len().filter(pl.col("len") == 1)
    return wrong.select(BAR_KEY).unique().height, kept.height
