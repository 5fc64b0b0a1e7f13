"""Signed prints → minute bars. A bar is one minute of one (asset, symbol, expiry, right, family).

Buy, sell and mid are kept apart in volume and in notional, so that any filter is a sum over bars and nothing
is ever un-mixed. Volumes are contracts (shares for stocks); notionals are price x size in 1/10,000 USD,
without the contract multiplier. Bars merge by sum, max and min, in any order, to the same integers. Bars of stocks
hold their first and last price too; of an underlying's options these would mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
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
VALUES = (*SUMS, "high", "low", "biggest", "biggest_ts", "last_ts")
"""What every bar holds; `trades` counts prints, `biggest` is the largest size and `biggest_ts` when it first came,
`last_ts` the newest print's time."""
EDGES = ("open", "close", "first_ts", "first_seq", "last_seq")
"""What bars of stocks hold besides, null for options: the first and last price by (`ts`, `seq`), and where those stood.
Of prints alike in both, the lowest price opens and the highest closes."""
FIELDS = (*VALUES, *EDGES)
KEY = ("asset", "symbol", "expiry", "right", "family", "minute")
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "asset": Asset,
    "symbol": pl.Categorical,
    "expiry": pl.Date,
    "right": Right,
    "family": Family,
    "minute": Timestamp,
    **dict.fromkeys((*SUMS, "high", "low", "biggest"), pl.Int64),
    **dict.fromkeys(("biggest_ts", "last_ts"), Timestamp),
    **dict.fromkeys(EDGES, pl.Int64),
    "first_ts": Timestamp,
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
    bars = aggregate(standing(signed, ("ts", "seq", "price", "size", "side", *by[:-1], family())), by)
    instants = [_instant(name, 1) for name in ("biggest_ts", "last_ts", "first_ts")]
    return merge(bars, KEY).with_columns(_instant("minute", NS_PER_MINUTE), *instants).select(*SCHEMA)


def _instant(name: str, scale: int) -> pl.Expr:
    return (pl.col(name) * scale).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").alias(name)


def aggregate(prints: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Sum prints that count into bars by the columns `by` and the minute.

    `by` names columns of integers, dates, Enums or Categoricals that tell options from stocks; `prints` also has
    `asset`, `ts`, `seq`, `price`, `size` and `side`. Gives `by`, `minute` (whole minutes since 1970, Int64), `VALUES`
    and `EDGES` (instants in ns), in no particular order; of a large frame a key may come more than once, for `merge`.
    """
    stock = prints["asset"] == "stock"
    if not stock.any():
        return _in_pieces(prints, by, edges=False)
    # In this order the first row of a group opens it and the last one closes it.
    stocks = prints.filter(stock).sort("ts", "seq", "price")
    made = _in_pieces(stocks, by, edges=True)
    return made if stock.all() else pl.concat([_in_pieces(prints.filter(~stock), by, edges=False), made])


def _in_pieces(prints: pl.DataFrame, by: Sequence[str], edges: bool) -> pl.DataFrame:
    pieces = [prints.slice(start, PIECE) for start in range(0, max(prints.height, 1), PIECE)]
    if len(pieces) == 1:
        return _aggregate(prints, by, edges)
    return pl.concat(_pool().map(lambda piece: _aggregate(piece, by, edges), pieces))


def _aggregate(prints: pl.DataFrame, by: Sequence[str], edges: bool) -> pl.DataFrame:
    # In one query: each costs more than what it does to a small batch.
    ints = _ints(prints.select(*by, "ts", "price", "size", "side"))
    order, starts, keys = _grouped([*(ints[name] for name in by), ints["ts"] // NS_PER_MINUTE])
    columns = {name: _like(prints[name], values) for name, values in zip(by, keys[:-1], strict=True)}
    columns["minute"] = pl.Series(keys[-1])
    made = _reduced(ints, order, starts) if len(starts) else dict.fromkeys(VALUES, ints["ts"])
    columns |= {name: pl.Series(name, made[name], dtype=pl.Int64) for name in VALUES}
    if edges:
        ends = np.append(starts[1:], len(order)) - 1
        columns |= _edges(prints, order[starts], order[ends])
    else:
        none = pl.Series(dtype=pl.Int64).clear(len(starts))
        columns |= {name: none.alias(name) for name in EDGES}
    return pl.DataFrame(columns)


def _edges(prints: pl.DataFrame, first: Ints, last: Ints) -> dict[str, pl.Series]:
    found = {
        "open": prints["price"][first], "close": prints["price"][last],
        "first_ts": prints["ts"].to_physical()[first],
        "first_seq": prints["seq"][first], "last_seq": prints["seq"][last],
    }  # fmt: skip
    return {name: found[name].cast(pl.Int64).alias(name) for name in EDGES}


def _reduced(ints: Mapping[str, Ints], order: Ints, starts: Ints) -> dict[str, Ints]:
    size, price, side, ts = (ints[name][order] for name in ("size", "price", "side", "ts"))
    notional = price * size
    buy, sell = side == _SIDES["buy"], side == _SIDES["sell"]
    total = np.add.reduceat
    biggest, biggest_ts = latest(starts, size, ~ts)
    bars = {
        "buy_volume": total(size * buy, starts),
        "sell_volume": total(size * sell, starts),
        "buy_notional": total(notional * buy, starts),
        "sell_notional": total(notional * sell, starts),
        "trades": np.diff(starts, append=len(order)),
        "high": np.maximum.reduceat(price, starts),
        "low": np.minimum.reduceat(price, starts),
        "biggest": biggest,
        "biggest_ts": ~biggest_ts,
        "last_ts": np.maximum.reduceat(ts, starts),
    }
    bars["mid_volume"] = total(size, starts) - bars["buy_volume"] - bars["sell_volume"]
    bars["mid_notional"] = total(notional, starts) - bars["buy_notional"] - bars["sell_notional"]
    return bars


def latest(starts: Ints, *keys: Ints) -> list[Ints]:
    """Of each group, which begins at one of `starts`, the greatest row by the first key, then the next, and so
    on; gives its keys. Inverted bits (`~`) turn an order round, without a limit that negation would have."""
    counts = np.diff(starts, append=len(keys[0]))
    found: list[Ints] = []
    standing = None
    for key in keys:
        masked = key if standing is None else np.where(standing, key, np.iinfo(np.int64).min)
        found.append(np.maximum.reduceat(masked, starts))
        if len(found) < len(keys):
            same = masked == np.repeat(found[-1], counts)
            standing = same if standing is None else standing & same
    return found


def combined(column: Callable[[str], Ints], starts: Ints, names: Sequence[str]) -> dict[str, Ints]:
    """Values of bars put together: `column` gives those of a name in order of group, each group begins at one of
    `starts`. `names` are of `VALUES` and `EDGES`."""
    made: dict[str, Ints] = {}
    for name in names:
        if name in SUMS:
            made[name] = np.add.reduceat(column(name), starts)
        elif name in ("high", "biggest", "last_ts"):
            made[name] = np.maximum.reduceat(column(name), starts)
        elif name == "low":
            made[name] = np.minimum.reduceat(column(name), starts)
    if "biggest_ts" in names:
        made["biggest_ts"] = ~latest(starts, column("biggest"), ~column("biggest_ts"))[1]
    if "open" in names:
        opened = latest(starts, *(~column(name) for name in ("first_ts", "first_seq", "open")))
        made |= dict(zip(("first_ts", "first_seq", "open"), (~key for key in opened), strict=True))
    if "close" in names:
        closed = latest(starts, *(column(name) for name in ("last_ts", "last_seq", "close")))
        made |= dict(zip(("last_ts", "last_seq", "close"), closed, strict=True))
    return {name: made[name] for name in names}


def merge(bars: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Bars with the same key made one; `by` is the key, `minute` among it. In no particular order."""
    repeated = bars.select(by).is_duplicated()
    if not repeated.any():
        return bars
    few = bars.filter(repeated)
    ints = _ints(few.select(*by, *FIELDS))
    order, starts, keys = _grouped([ints[name] for name in by])
    columns = {name: _like(few[name], values) for name, values in zip(by, keys, strict=True)}
    made = combined(lambda name: ints[name][order], starts, FIELDS)
    frame = pl.DataFrame(columns | made).with_columns(
        pl.when(pl.col("open") != _NULL).then(pl.col(EDGES)),
    )
    return pl.concat([bars.filter(~repeated), frame.cast(bars.schema).select(bars.columns)])


_SIDES = {name: place for place, name in enumerate(Side.categories)}
_NULL = -1


def _ints(frame: pl.DataFrame) -> dict[str, Ints]:
    whole = frame.select(pl.all().to_physical().cast(pl.Int64).fill_null(_NULL))
    return {column.name: column.to_numpy() for column in whole.get_columns()}


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
