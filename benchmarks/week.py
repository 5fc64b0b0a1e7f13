"""A store with a full week of minutes, up to now, put in through the store's own interface."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from flowtape.cache.cache import MINUTES
from flowtape.model.conditions import FAMILIES, family
from flowtape.model.exact import product
from flowtape.model.prints import conform
from flowtape.orderflow.classify import sign
from flowtape.orderflow.minute_bars import EDGES, FIELDS, NOTIONALS, NS_PER_MINUTE
from flowtape.storage import Store, open_store
from flowtape.storage.catalog import SERIES_KEY

FRESH_SECONDS = 900
BATCH = 500_000
SYMBOL = "FULL"
"""The symbol that has a print in every minute, in each of its series."""
EXPIRIES = 4
_BUSY = FAMILIES.index("regular")


def week_store(path: Path, rows: int, symbols: int) -> int:
    """Make the store unless there is a fresh one; gives the minute its week ends with."""
    mark = path.with_suffix(".minute")
    if mark.exists() and path.exists():
        minute = int(mark.read_text())
        if time.time() - minute * 60 < FRESH_SECONDS:
            return minute
    for old in (mark, *path.parent.glob(f"{path.name}*")):
        old.unlink(missing_ok=True)
    minute = time.time_ns() // NS_PER_MINUTE
    store = open_store(path)
    _fill(store, minute, rows, symbols)
    store.close()
    mark.write_text(str(minute))
    return minute


def _fill(store: Store, minute: int, rows: int, symbols: int) -> None:
    _, rows_of_series = store.catalog.encode(sign(_one_print_each(symbols)).with_columns(family()))
    series = rows_of_series["series"].to_numpy()
    with store.transaction():
        # Keeps the series; the prints behind the bars play no part in a start.
        store.append_prints(rows_of_series.head(0))
    per_symbol = EXPIRIES * 2
    busy, others = series[:per_symbol], series[per_symbol:]
    rng = np.random.default_rng(1)
    # Some are drawn twice.
    keys = [np.repeat(busy, MINUTES), rng.choice(others, max(0, rows + rows // 20 - per_symbol * MINUTES))]
    minutes = [np.tile(np.arange(MINUTES), per_symbol), rng.integers(0, MINUTES, len(keys[1]))]
    bars = _bars(np.concatenate(keys), minute - MINUTES + 1 + np.concatenate(minutes), rng)
    # A key stands once, as after a day's ingest; in order of time, as a tape brings it.
    once = bars.unique(["series", "family", "minute"], keep="first", maintain_order=True).head(rows)
    bars = once.sort("minute")
    for start in range(0, bars.height, BATCH):
        with store.transaction():
            store.append_bars(bars.slice(start, BATCH))


def _one_print_each(symbols: int) -> pl.DataFrame:
    """A print of every (symbol, expiry, right), the busy symbol's first."""
    names = [SYMBOL, *(f"Z{number:05d}" for number in range(symbols - 1))]
    friday = date.today() + timedelta(days=30)  # noqa: DTZ011 - any expiry to come will do
    expiries = [friday + timedelta(days=7 * week) for week in range(EXPIRIES)]
    series = (
        pl.DataFrame({"symbol": names})
        .join(pl.DataFrame({"expiry": expiries}), how="cross")
        .join(pl.DataFrame({"right": ["C", "P"]}), how="cross")
    )
    return conform(
        series.with_columns(
            ts=pl.lit(datetime.now(UTC)), asset=pl.lit("option"), root="symbol", strike=1_000_000, price=10_000,
            size=1, condition=pl.lit("AUTO"), venue=pl.lit("XCBO"), seq=pl.int_range(pl.len()),
        ).sort(pl.col("symbol") != SYMBOL, *SERIES_KEY[1:])
    )  # fmt: skip


def _bars(series: np.ndarray, minute: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Bars of plausible numbers: a few prints a minute at some price."""
    count = len(series)
    buy, sell, mid = (rng.integers(0, 200, count) for _ in range(3))
    price = rng.integers(100, 500_000, count)
    bars = {
        "series": series, "family": np.full(count, _BUSY), "minute": minute,
        "buy_volume": buy, "sell_volume": sell, "mid_volume": mid + 1,
        **{
            name: part
            for side, volume in (("buy", buy), ("sell", sell), ("mid", mid + 1))
            for name, part in zip(NOTIONALS[side], product(volume, price), strict=True)
        },
        "trades": rng.integers(1, 30, count), "high": price + 100, "low": price - 50,
        "biggest": rng.integers(1, 200, count), "biggest_ts": minute * NS_PER_MINUTE + 3 * 10**9,
        "last_ts": minute * NS_PER_MINUTE + 59 * 10**9,
    }  # fmt: skip
    edges = [pl.lit(None, pl.Int64).alias(name) for name in EDGES]
    return pl.DataFrame(bars).with_columns(edges).select("series", "family", "minute", *FIELDS)
