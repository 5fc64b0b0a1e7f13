"""One tape, one result, several ways to make it: minute bars of the contract's rules.

Every way reads the same file and gives the same bars: buy, sell and mid volume and notional, trades, high, low,
largest size and newest time, by `KEYS`. Each is written as one who knows its library well would write it for
this file: a day in one file, options only, no row twice. Only flowtape checks that these hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pandas as pd
import polars as pl

import flowtape
from benchmarks.scale import DAY
from flowtape.model.conditions import CANCEL, FAMILIES, FAMILY_OF, UNSIDED
from flowtape.model.prints import Timestamp, day_bounds
from flowtape.orderflow.minute_bars import NS_PER_MINUTE

KEYS = {
    "contract": ("asset", "symbol", "expiry", "right", "family"),
    "symbol": ("asset", "symbol", "right"),
}
"""What bars are kept by, beside the minute: the finest key, and the one that answers most requests."""
GROUP = ["root", "expiry", "right", "strike", "size", "price"]
"""What a cancel names of the print it removes."""
COLUMNS = ["ts", "asset", "symbol", *GROUP, "bid", "ask", "quote_ts", "condition", "venue", "seq"]
"""The columns of the file that the rules need."""
CANCELS = [name for name, family in FAMILY_OF.items() if family == CANCEL]
SILENT = [name for name in UNSIDED if FAMILY_OF[name] != CANCEL]
MIDNIGHT = day_bounds(DAY)[0]


def by_flowtape(path: str, key: str) -> pl.DataFrame:
    return flowtape.read_minutes(path, by=KEYS[key])


def by_decode(path: str, key: str) -> pl.DataFrame:
    """The limit: the columns in memory, and nothing done with them."""
    return pl.read_parquet(path, columns=COLUMNS)


def removed(events: Iterable[tuple[int, bool, object]]) -> list[int]:
    """Which rows cancels remove, of (row, is a cancel, group) in order of events."""
    standing: dict[object, list[int]] = defaultdict(list)
    gone = []
    for row, cancel, group in events:
        if not cancel:
            standing[group].append(row)
        elif standing[group]:
            gone.append(standing[group].pop())
    return gone


def by_polars(path: str, key: str) -> pl.DataFrame:
    prints = pl.read_parquet(path, columns=COLUMNS)
    gone = _removed_polars(prints)
    price, bid, ask = ((pl.col(name) * 10_000).round().cast(pl.Int64) for name in ("price", "bid", "ask"))
    quote_ts = pl.col("quote_ts")
    spread = (pl.col("bid") >= 0) & (pl.col("ask") > 0) & (pl.col("ask") >= pl.col("bid"))
    fresh = quote_ts.is_null() | ((quote_ts <= pl.col("ts")) & (quote_ts >= pl.lit(MIDNIGHT, Timestamp)))
    told = spread & fresh & ~pl.col("condition").is_in(SILENT)
    size, notional = pl.col("size"), pl.col("notional")
    by = KEYS[key]
    family = {
        "family": pl.col("condition")
        .cast(pl.String)
        .replace_strict(FAMILY_OF, return_dtype=pl.Enum(FAMILIES))
    }
    bars = (
        prints.lazy()
        .filter(~gone, ~pl.col("condition").is_in(CANCELS))
        .select(
            *(name for name in by if name != "family"), "size", "ts", price, bid, ask, told=told,
            minute=pl.col("ts").dt.truncate("1m"), **(family if "family" in by else {}),
        )
        .with_columns(
            notional=pl.col("price") * size,
            buy=(pl.col("told") & (2 * pl.col("price") > pl.col("bid") + pl.col("ask"))).fill_null(False),
            sell=(pl.col("told") & (2 * pl.col("price") < pl.col("bid") + pl.col("ask"))).fill_null(False),
        )
        .with_columns(
            buy_volume=size * pl.col("buy"), sell_volume=size * pl.col("sell"),
            buy_notional=notional * pl.col("buy"), sell_notional=notional * pl.col("sell"),
        )
        .group_by(*by, "minute")
        .agg(
            pl.col("buy_volume", "sell_volume", "buy_notional", "sell_notional").sum(),
            size.sum().alias("volume"), notional.sum(), trades=pl.len(),
            high=pl.col("price").max(), low=pl.col("price").min(), biggest=size.max(), last_ts=pl.col("ts").max(),
        )
    )  # fmt: skip
    return bars.with_columns(
        mid_volume=pl.col("volume") - pl.col("buy_volume") - pl.col("sell_volume"),
        mid_notional=notional - pl.col("buy_notional") - pl.col("sell_notional"),
    ).collect(engine="streaming")


def _removed_polars(prints: pl.DataFrame) -> pl.Series:
    """Whether each print is removed."""
    cancel = pl.col("condition").is_in(CANCELS)
    groups = prints.lazy().filter(cancel).select(GROUP).unique()
    involved = (
        prints.lazy()
        .select(*GROUP, "ts", "seq", "venue", cancel=cancel)
        .with_row_index("row")
        .join(groups, on=GROUP, how="semi")
        .sort("ts", "seq", "venue")
        .select("row", "cancel", group=pl.struct(GROUP).rank("dense"))
        .collect(engine="streaming")
    )
    mask = np.zeros(prints.height, bool)
    mask[removed(involved.iter_rows())] = True
    return pl.Series(mask)


def by_pandas(path: str, key: str) -> pd.DataFrame:
    prints = pd.read_parquet(path, columns=COLUMNS)
    for name in ("price", "strike", "bid", "ask"):
        prints[name] = (prints[name] * 10_000).round()
    prints["price"] = prints["price"].astype("int64")
    conditions = prints["condition"].cat.categories
    code = prints["condition"].cat.codes.to_numpy()
    family = np.array([FAMILIES.index(FAMILY_OF[name]) for name in conditions], np.int8)[code]
    cancel = conditions.isin(CANCELS)[code]
    side = _side_pandas(prints, conditions.isin(SILENT)[code])
    counted = ~cancel
    counted[_removed_pandas(prints, cancel)] = False

    size, notional = prints["size"], prints["price"] * prints["size"]
    buy, sell = side > 0, side < 0
    table = prints[["asset", "symbol", "expiry", "right", "ts"]].assign(
        family=family, minute=prints["ts"].astype("int64") // NS_PER_MINUTE,
        buy_volume=size.where(buy, 0), sell_volume=size.where(sell, 0), mid_volume=size.where(side == 0, 0),
        buy_notional=notional.where(buy, 0), sell_notional=notional.where(sell, 0),
        mid_notional=notional.where(side == 0, 0), price=prints["price"], size=size,
    )[counted]  # fmt: skip
    grouped = table.groupby([*KEYS[key], "minute"], observed=True, sort=False)
    sums = grouped[
        ["buy_volume", "sell_volume", "mid_volume", "buy_notional", "sell_notional", "mid_notional"]
    ].sum()
    return sums.assign(
        trades=grouped.size(), high=grouped["price"].max(), low=grouped["price"].min(),
        biggest=grouped["size"].max(), last_ts=grouped["ts"].max(),
    ).reset_index()  # fmt: skip


def _side_pandas(prints: pd.DataFrame, silent: np.ndarray) -> np.ndarray:
    """1 buy, −1 sell, 0 mid."""
    bid, ask, quote_ts = prints["bid"], prints["ask"], prints["quote_ts"]
    fresh = quote_ts.isna() | ((quote_ts <= prints["ts"]) & (quote_ts >= pd.Timestamp(MIDNIGHT)))
    told = (bid >= 0) & (ask > 0) & (ask >= bid) & fresh & ~silent
    return np.where(told, np.sign(2 * prints["price"] - (bid + ask)), 0)


def _removed_pandas(prints: pd.DataFrame, cancel: np.ndarray) -> list[int]:
    """The rows that are removed."""
    named = prints.loc[cancel, GROUP].drop_duplicates()
    # A merge of all rows on six columns costs seconds; numbers that no cancel names rule most rows out first.
    likely = np.logical_and.reduce([prints[name].isin(named[name]) for name in ("strike", "size", "price")])
    rows = prints.loc[likely, [*GROUP, "ts", "seq", "venue"]].assign(cancel=cancel[likely])
    rows = rows.reset_index(names="row").merge(named, on=GROUP).sort_values(["ts", "seq", "venue"])
    group = rows.groupby(GROUP, observed=True).ngroup()
    return removed(zip(rows["row"], rows["cancel"], group, strict=True))
