"""Signed prints → minute bars. A bar is one minute of one (asset, symbol, expiry, right, family).

Buy, sell and mid are kept apart in volume and in notional, so that any filter is a sum over bars and nothing
is ever un-mixed. Volumes are in the unit of a print's size: contracts, or 1/10,000 share for stocks. Notionals are
price x size in these units, without the contract multiplier: 1/10,000 USD, or 1e-8 USD for stocks. They are sums of
128 bits in two columns, upper·2^32 + lower (`exact`). Bars merge by sum, max and min, in any order, to the same
integers. Bars of stocks hold their first and last price too; of an underlying's options these would mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cache

import numpy as np
import polars as pl

from flowtape.errors import UsageError
from flowtape.model.conditions import Family, family
from flowtape.model.exact import BITS, Ints, Numbers, carried, joined, product
from flowtape.model.prints import SETS_ENDS, SETS_RANGE, SIZE_SCALE, Asset, Right, Side, Timestamp
from flowtape.orderflow.cancels import standing

NS_PER_MINUTE = 60_000_000_000
VOLUMES = tuple(f"{side}_volume" for side in Side.categories)
NOTIONALS = {side: (f"{side}_notional_upper", f"{side}_notional_lower") for side in Side.categories}
"""By side, the two columns that hold Σ price x size as upper·2^32 + lower."""
SUMS = (*VOLUMES, *(name for pair in NOTIONALS.values() for name in pair), "trades")
VALUES = (*SUMS, "high", "low", "biggest", "biggest_ts", "last_ts")
"""What every bar holds; `trades` counts prints, `biggest` is the largest size and `biggest_ts` when it first came,
`last_ts` the newest print's time."""
_OPEN = ("open_ts", "open_seq", "open_venue", "open")
_CLOSE = ("close_ts", "close_seq", "close_venue", "close")
EDGES = (*_OPEN, *_CLOSE, "first_ts", "sets_range", "sets_ends")
"""What bars of stocks hold besides, null for options. `open` and `close` are the first and last price in event order,
which `*_ts`, `*_seq` and `*_venue` (`venue_key`) place; of prints alike in these the lowest price opens and the highest
closes. `first_ts` is the oldest print's time. `sets_range` is 1 if the bar has a print that may set the high and low,
`sets_ends` if it has one that may set open and close, else 0. Only such prints set these prices; in a bar without one,
all prints do."""
FIELDS = (*VALUES, *EDGES)
KEY = ("asset", "symbol", "expiry", "right", "family", "minute")
INSTANTS = ("biggest_ts", "last_ts", "open_ts", "close_ts", "first_ts")
"""Those of `FIELDS` that are times, in ns."""
Notional = pl.Decimal(38, 4)
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "asset": Asset,
    "symbol": pl.Categorical,
    "expiry": pl.Date,
    "right": Right,
    "family": Family,
    "minute": Timestamp,
    **dict.fromkeys(VOLUMES, pl.Int64),
    **dict.fromkeys((f"{side}_notional" for side in NOTIONALS), Notional),
    **{name: Timestamp if name in INSTANTS else pl.Int64 for name in (*VALUES[len(SUMS) - 1 :], *EDGES)},
}
"""Of bars as people read them: notionals in 1/10,000 USD for both assets."""

PIECE = 250_000
"""Rows summed at a time: what fits a processor's cache is sorted several times faster than what does not."""


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="minutes")


def minutes(signed: pl.DataFrame) -> pl.DataFrame:
    """Minute bars of a frame of signed prints, in `SCHEMA`, one a key, in no particular order.

    Volumes are in the unit of the prints' sizes. Repeated rows count once; cancels remove what they name before
    anything is summed. Raises `UsageError` where the frame carries no `side`.
    """
    if "side" not in signed.columns:
        raise UsageError("prints carry no column side; call sign(prints) first")
    by = ("asset", "symbol", "expiry", "right", "family")
    bars = aggregate(standing(signed, (*_READ, *by[:-1], family())), by)
    return _shown(merge(bars, KEY))


def _shown(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars by `KEY` in `SCHEMA`."""
    instants = [_instant("minute", NS_PER_MINUTE), *(_instant(name, 1) for name in INSTANTS)]
    unit = pl.when(pl.col("asset") == "stock").then(_unit("stock")).otherwise(_unit("option"))
    notionals = [
        ((pl.col(upper).cast(pl.Int128) * 2**BITS + pl.col(lower)).cast(pl.Decimal(38, 0)) * unit)
        .cast(Notional)
        .alias(f"{side}_notional")
        for side, (upper, lower) in NOTIONALS.items()
    ]
    return bars.with_columns(*instants, *notionals).select(*SCHEMA)


def _unit(asset: str) -> pl.Expr:
    """What one unit of a notional is in 1/10,000 USD."""
    return pl.lit(Decimal(1) / SIZE_SCALE[asset])


def unshown(bars: pl.DataFrame, asset: str) -> pl.DataFrame:
    """The fields (`FIELDS`) of bars of one asset that are in `SCHEMA`, as integers, with `minute` since 1970."""
    columns = [pl.col("minute").cast(Timestamp).to_physical() // NS_PER_MINUTE]
    columns += [pl.col(name).cast(Timestamp).to_physical() for name in INSTANTS]
    for side, (upper, lower) in NOTIONALS.items():
        units = (pl.col(f"{side}_notional").cast(Notional) * SIZE_SCALE[asset]).cast(pl.Int128)
        columns += [(units // 2**BITS).alias(upper), (units % 2**BITS).alias(lower)]
    return bars.with_columns(columns).select("family", "minute", pl.col(FIELDS).cast(pl.Int64))


def _instant(name: str, scale: int) -> pl.Expr:
    return (pl.col(name) * scale).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").alias(name)


_READ = ("ts", "seq", "venue", "price", "size", "side", "price_flags")
"""The columns of prints that bars are made of, beside those they are made by."""


def aggregate(prints: pl.DataFrame, by: Sequence[str], length: int = NS_PER_MINUTE) -> pl.DataFrame:
    """Sum prints that count into bars by the columns `by` and the minute.

    `by` names columns of integers, dates, Enums or Categoricals that tell options from stocks; `prints` also has
    `asset`, `side`, and the columns of `prints.SCHEMA` that bars are made of. `length` is that of a bar in ns. Gives
    `by`, `minute` (whole bars since 1970, Int64), `VALUES` and `EDGES` (times in ns), in no particular order. A key may
    come more than once, for `merge`.
    """
    stock = prints["asset"] == "stock"
    if not stock.any():
        return _in_pieces(prints, by, length, edges=False)
    made = _in_pieces(prints.filter(stock), by, length, edges=True)
    if stock.all():
        return made
    return pl.concat([_in_pieces(prints.filter(~stock), by, length, edges=False), made])


def _in_pieces(prints: pl.DataFrame, by: Sequence[str], length: int, edges: bool) -> pl.DataFrame:
    pieces = [prints.slice(start, PIECE) for start in range(0, max(prints.height, 1), PIECE)]
    if len(pieces) == 1:
        return _aggregate(prints, by, length, edges)
    return pl.concat(_pool().map(lambda piece: _aggregate(piece, by, length, edges), pieces))


def _aggregate(prints: pl.DataFrame, by: Sequence[str], length: int, edges: bool) -> pl.DataFrame:
    # In one query: each costs more than what it does to a small batch.
    ints = _ints(
        prints.select(*by, "ts", "price", "size", "side", *(("seq", "price_flags") if edges else ()))
    )
    order, starts, keys = _grouped([*(ints[name] for name in by), ints["ts"] // length])
    columns = {name: _like(prints[name], values) for name, values in zip(by, keys[:-1], strict=True)}
    columns["minute"] = pl.Series(keys[-1])
    made: Mapping[str, Ints] = dict.fromkeys(FIELDS, ints["ts"])
    if len(starts):
        made = _reduced(ints, order, starts)
        if edges:
            made |= _edges(ints, venue_key(prints["venue"]), order, starts)
    columns |= {name: pl.Series(name, made[name], dtype=pl.Int64) for name in VALUES}
    none = pl.Series(dtype=pl.Int64).clear(len(starts))
    columns |= {name: pl.Series(made[name]).alias(name) if edges else none.alias(name) for name in EDGES}
    return pl.DataFrame(columns)


def venue_key(venues: pl.Series) -> Ints:
    """Integers that stand in the order of the venues' names, by their first 8 bytes."""
    names = venues.unique()
    keys = [int.from_bytes(name.encode()[:8].ljust(8, b"\0")) - 2**63 for name in names.cast(pl.String)]
    return venues.replace_strict(names, pl.Series(keys, dtype=pl.Int64)).to_numpy()


def _edges(ints: Mapping[str, Ints], venue: Ints, order: Ints, starts: Ints) -> dict[str, Ints]:
    """What bars of stocks hold besides, and their high and low, of prints taken for bars of one print each."""
    flags = ints["price_flags"]
    columns = {
        **dict.fromkeys(("open_ts", "close_ts", "first_ts"), ints["ts"]),
        **dict.fromkeys(("open_seq", "close_seq"), ints["seq"]),
        **dict.fromkeys(("open", "close", "high", "low"), ints["price"]),
        **dict.fromkeys(("open_venue", "close_venue"), venue),
        "sets_range": (flags & SETS_RANGE) // SETS_RANGE,
        "sets_ends": (flags & SETS_ENDS) // SETS_ENDS,
    }
    return combined(lambda name: columns[name][order], starts, (*EDGES, "high", "low"), edges=True)


def _reduced(ints: Mapping[str, Ints], order: Ints, starts: Ints) -> dict[str, Ints]:
    size, price, side, ts = (ints[name][order] for name in ("size", "price", "side", "ts"))
    upper, lower = product(price, size)
    total = np.add.reduceat
    biggest, biggest_ts = latest(starts, size, ~ts)
    bars = {
        "trades": np.diff(starts, append=len(order)),
        "high": np.maximum.reduceat(price, starts),
        "low": np.minimum.reduceat(price, starts),
        "biggest": biggest,
        "biggest_ts": ~biggest_ts,
        "last_ts": np.maximum.reduceat(ts, starts),
    }
    for name, number in _SIDES.items():
        mine = side == number
        bars[f"{name}_volume"] = total(size * mine, starts)
        sums = (total(part * mine, starts) for part in (upper, lower))
        bars |= dict(zip(NOTIONALS[name], carried(*sums), strict=True))
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


def combined(
    column: Callable[[str], Ints], starts: Ints, names: Sequence[str], *, edges: bool
) -> dict[str, Ints]:
    """Values of bars put together: `column` gives those of a name in order of group, each group begins at one of
    `starts`. `names` are of `VALUES`, and of `EDGES` where bars have `edges`; without these all prints of a bar set its
    high and low."""
    made: dict[str, Ints] = {}
    for name in names:
        if name in SUMS:
            made[name] = np.add.reduceat(column(name), starts)
        elif name in ("biggest", "last_ts", "sets_range", "sets_ends"):
            made[name] = np.maximum.reduceat(column(name), starts)
        elif name == "first_ts":
            made[name] = np.minimum.reduceat(column(name), starts)
        elif name in ("high", "low"):
            flip = _flipped if name == "low" else _kept
            may = (column("sets_range"),) if edges else ()
            made[name] = flip(latest(starts, *may, flip(column(name)))[-1])
    for upper, lower in NOTIONALS.values():
        if upper in made:
            made[upper], made[lower] = carried(made[upper], made[lower])
    if "biggest_ts" in names:
        made["biggest_ts"] = ~latest(starts, column("biggest"), ~column("biggest_ts"))[1]
    for which, flip in ((_OPEN, _flipped), (_CLOSE, _kept)):
        if which[-1] in names:
            found = latest(starts, column("sets_ends"), *(flip(column(name)) for name in which))
            made |= {name: flip(key) for name, key in zip(which, found[1:], strict=True)}
    return {name: made[name] for name in names}


def _kept(values: Ints) -> Ints:
    return values


def _flipped(values: Ints) -> Ints:
    return ~values


def of_side(values: Mapping[str, Ints], side: str, kind: str) -> Numbers:
    """The sums of one side; `kind` is volume or notional. `values` has the sums by their names in `SUMS`."""
    if kind == "volume":
        return values[f"{side}_volume"]
    upper, lower = NOTIONALS[side]
    return joined(values[upper], values[lower])


def net(values: Mapping[str, Ints], kind: str) -> Numbers:
    """Bought less sold; see `of_side`."""
    return of_side(values, "buy", kind) - of_side(values, "sell", kind)


def gross(values: Mapping[str, Ints], kind: str) -> Numbers:
    """Bought, sold and of neither side; see `of_side`."""
    return of_side(values, "buy", kind) + of_side(values, "sell", kind) + of_side(values, "mid", kind)


def merge(bars: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Bars with the same key made one; `by` is the key, `minute` among it. In no particular order."""
    repeated = bars.select(by).is_duplicated()
    if not repeated.any():
        return bars
    few = bars.filter(repeated)
    ints = _ints(few.select(*by, *FIELDS))
    order, starts, keys = _grouped([ints[name] for name in by])
    columns = {name: _like(few[name], values) for name, values in zip(by, keys, strict=True)}
    made = combined(lambda name: ints[name][order], starts, FIELDS, edges=True)
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
