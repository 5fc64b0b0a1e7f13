"""Signed prints → minute bars. A bar is one minute of one (asset, symbol, expiry, right, family).

Buy, sell and mid are kept apart in volume and in notional, so that any filter is a sum over bars and nothing
is ever un-mixed. Volumes are contracts (shares for stocks); notionals are price x size in 1/10,000 USD,
without the contract multiplier. Bars merge by sum, max and min, in any order, to the same integers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.cancels import standing
from flowtape.conditions import Family, family
from flowtape.errors import UsageError
from flowtape.prints import Asset, Right, Side, Timestamp

NS_PER_MINUTE = 60_000_000_000
SUMS = ("buy_volume", "sell_volume", "mid_volume", "buy_notional", "sell_notional", "mid_notional", "trades")
VALUES = (*SUMS, "high", "low", "biggest", "last_ts")
"""What a bar holds; `trades` counts prints, `biggest` is the largest size, `last_ts` the newest print's time."""
KEY = ("asset", "symbol", "expiry", "right", "family", "minute")
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "asset": Asset,
    "symbol": pl.Categorical,
    "expiry": pl.Date,
    "right": Right,
    "family": Family,
    "minute": Timestamp,
    **dict.fromkeys((*SUMS, "high", "low", "biggest"), pl.Int64),
    "last_ts": Timestamp,
}

PIECE = 250_000
"""Rows summed at a time: what fits a processor's cache is sorted several times faster than what does not."""

Ints = npt.NDArray[np.int64]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="minutes")


def minutes(signed: pl.DataFrame) -> pl.DataFrame:
    """Minute bars of a frame of signed prints, in `SCHEMA`, one a key, in no particular order.

    Repeated rows count once; cancels remove what they name before anything is summed. Raises `UsageError`
    where the frame carries no `side`.
    """
    if "side" not in signed.columns:
        raise UsageError("prints carry no column side; call sign(prints) first")
    by = ("asset", "symbol", "expiry", "right", "family")
    bars = aggregate(standing(signed, ("ts", "price", "size", "side", *by[:-1], family())), by)
    instants = (_instant("minute", NS_PER_MINUTE), _instant("last_ts", 1))
    return merge(bars, KEY).with_columns(instants).select(*SCHEMA)


def _instant(name: str, scale: int) -> pl.Expr:
    return (pl.col(name) * scale).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").alias(name)


def aggregate(prints: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Sum prints that count into bars by the columns `by` and the minute.

    `by` names columns of integers, dates, Enums or Categoricals; `prints` also has `ts`, `price`, `size` and
    `side`. Gives `by`, `minute` (whole minutes since 1970, Int64) and `VALUES` (`last_ts` in ns), in no
    particular order; of a large frame a key may come more than once, for `merge`.
    """
    pieces = [prints.slice(start, PIECE) for start in range(0, max(prints.height, 1), PIECE)]
    if len(pieces) == 1:
        return _aggregate(prints, by)
    return pl.concat(_pool().map(lambda piece: _aggregate(piece, by), pieces))


def _aggregate(prints: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    ts = _ints(prints["ts"])
    order, starts, keys = _grouped([*(_ints(prints[name]) for name in by), ts // NS_PER_MINUTE])
    columns = {name: _like(prints[name], values) for name, values in zip(by, keys[:-1], strict=True)}
    columns["minute"] = pl.Series(keys[-1])
    if len(starts):
        columns |= _reduced(prints, ts, order, starts)
    else:
        columns |= {name: pl.Series(name, [], pl.Int64) for name in VALUES}
    return pl.DataFrame(columns)


def _reduced(prints: pl.DataFrame, ts: Ints, order: Ints, starts: Ints) -> dict[str, pl.Series]:
    size = _ints(prints["size"])[order]
    price = _ints(prints["price"])[order]
    side = prints["side"].to_physical().to_numpy()[order]
    notional = price * size
    buy, sell = side == _SIDES["buy"], side == _SIDES["sell"]
    total = np.add.reduceat
    bars = {
        "buy_volume": total(size * buy, starts),
        "sell_volume": total(size * sell, starts),
        "buy_notional": total(notional * buy, starts),
        "sell_notional": total(notional * sell, starts),
        "trades": np.diff(starts, append=len(order)),
        "high": np.maximum.reduceat(price, starts),
        "low": np.minimum.reduceat(price, starts),
        "biggest": np.maximum.reduceat(size, starts),
        "last_ts": np.maximum.reduceat(ts[order], starts),
    }
    bars["mid_volume"] = total(size, starts) - bars["buy_volume"] - bars["sell_volume"]
    bars["mid_notional"] = total(notional, starts) - bars["buy_notional"] - bars["sell_notional"]
    return {name: pl.Series(name, bars[name], dtype=pl.Int64) for name in VALUES}


def merge(bars: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Bars with the same key made one; `by` is the key, `minute` among it. In no particular order."""
    repeated = bars.select(by).is_duplicated()
    if not repeated.any():
        return bars
    few = bars.filter(repeated)
    order, starts, keys = _grouped([_ints(few[name]) for name in by])
    columns = {name: _like(few[name], values) for name, values in zip(by, keys, strict=True)}
    for name in VALUES:
        columns[name] = pl.Series(name, _MERGE.get(name, np.add).reduceat(_ints(few[name])[order], starts))
    made = pl.DataFrame(columns).select(pl.col(name).cast(dtype) for name, dtype in bars.schema.items())
    return pl.concat([bars.filter(~repeated), made])


_SIDES = {name: place for place, name in enumerate(Side.categories)}
_MERGE: dict[str, np.ufunc] = {
    "high": np.maximum, "low": np.minimum, "biggest": np.maximum, "last_ts": np.maximum
}  # fmt: skip
_NULL = -1


def _ints(column: pl.Series) -> Ints:
    return column.to_physical().cast(pl.Int64).fill_null(_NULL).to_numpy()


def _like(column: pl.Series, values: Ints) -> pl.Series:
    """Integers as made by `_ints`, back in the type of the column they came from."""
    ints = pl.Series(column.name, values)
    if column.null_count():
        ints = ints.set(ints == _NULL, None)
    if isinstance(column.dtype, pl.Enum | pl.Categorical):
        return ints.cast(column.to_physical().dtype).cat.to(column.dtype)
    return ints.cast(column.to_physical().dtype).cast(column.dtype)


def _grouped(keys: Sequence[Ints]) -> tuple[Ints, Ints, list[Ints]]:
    """An order of rows that brings equal keys together, where each group starts in it, and its keys.

    Key columns are packed into one integer with the row number in its low bits: sorting those plain
    integers is several times faster than hashing rows or sorting an index.
    """
    rows = len(keys[0])
    if rows == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), [key[:0] for key in keys]
    lows = [int(key.min()) for key in keys]
    widths = [int(key.max() - low).bit_length() for key, low in zip(keys, lows, strict=True)]
    row_bits = (rows - 1).bit_length()
    if sum(widths) + row_bits > 63:
        return _grouped_wide(keys)
    packed = np.zeros(rows, np.int64)
    for key, low, width in zip(keys, lows, widths, strict=True):
        packed <<= width
        packed |= key - low
    packed <<= row_bits
    packed |= np.arange(rows)
    packed.sort()
    order = packed & ((1 << row_bits) - 1)
    packed >>= row_bits
    starts = np.flatnonzero(np.concatenate(([True], packed[1:] != packed[:-1])))
    first = order[starts]
    return order, starts, [key[first] for key in keys]


def _grouped_wide(keys: Sequence[Ints]) -> tuple[Ints, Ints, list[Ints]]:
    """`_grouped` for keys that do not fit one integer."""
    order = np.lexsort(keys[::-1])
    changed = np.zeros(len(order), bool)
    changed[0] = True
    for key in keys:
        ordered = key[order]
        changed[1:] |= ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(changed)
    first = order[starts]
    return order, starts, [key[first] for key in keys]
