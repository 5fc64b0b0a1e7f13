"""Minutes as they stood at a past instant, from the store."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from flowtape.engine import bars_of
from flowtape.minutes import NS_PER_MINUTE
from flowtape.store import Store
from flowtape.window import Totals, columns_of, totals


def totals_at(
    store: Store,
    asset: str,
    symbol: str,
    bounds: tuple[int, int],
    at: int,
    names: tuple[str, ...],
    expiry: date | None = None,
    max_quote_age: timedelta | None = None,
) -> Totals:
    """A symbol's minutes in [start, end) as someone would have had them at `at` (ns).

    A cancel that came at `at` or later had not happened: what it removed is put back.
    """
    start, end = bounds
    series = store.catalog.find(asset, symbol, expiry)
    bars = store.bars(series, start, end)
    missed = store.removed_since(series, start * NS_PER_MINUTE, end * NS_PER_MINUTE, at)
    if missed.height:
        bars = pl.concat(
            [frame.cast(pl.Int64) for frame in (bars, bars_of(store.catalog.decode(missed), max_quote_age))]
        )
    return totals(columns_of(bars), names)
