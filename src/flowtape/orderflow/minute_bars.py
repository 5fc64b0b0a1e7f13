"""Aggregate classified prints into minute bars. A bar is one minute of one (asset, symbol, expiry, right, family).

Buy, sell and mid have separate volumes and notionals, so every filter is a sum over bars. Volumes are in the unit of a
print's size: contracts, or 1/10,000 share for stocks. Notionals are price x size in these units, without the contract
multiplier: 1/10,000 USD, or 1e-8 USD for stocks. They are 128-bit sums in two columns, upper·2^32 + lower (`exact`).
Bars merge by sum, max and min; the order does not affect the result. Bars of stocks also hold their first and last
price, which would mean nothing for all options of an underlying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
import polars as pl

from flowtape.errors import UsageError
from flowtape.model.conditions import Family, family
from flowtape.model.exact import BITS, Ints, Numbers, carried, joined
from flowtape.model.prints import SETS_ENDS, SETS_RANGE, SIZE_SCALE, Asset, Right, Side, Timestamp
from flowtape.orderflow.cancels import counted
from flowtape.orderflow.identity import unique
from flowtape.orderflow.packed_key import NULL, PackedKey, restored

NS_PER_MINUTE = 60_000_000_000
VOLUMES = tuple(f"{side}_volume" for side in Side.categories)
NOTIONALS = {side: (f"{side}_notional_upper", f"{side}_notional_lower") for side in Side.categories}
"""For each side, the two columns that hold Σ price x size as upper·2^32 + lower."""
SUMS = (*VOLUMES, *(name for pair in NOTIONALS.values() for name in pair), "trades")
VALUES = (*SUMS, "high", "low", "biggest", "biggest_ts", "last_ts")
"""The columns of every bar. `trades` counts prints, `biggest` is the largest size, `biggest_ts` the time of the first
print of that size, and `last_ts` the time of the newest print."""
_OPEN = ("open_ts", "open_seq", "open_venue", "open")
_CLOSE = ("close_ts", "close_seq", "close_venue", "close")
EDGES = (*_OPEN, *_CLOSE, "first_ts", "sets_range", "sets_ends")
"""The further columns of stocks' bars, null for options. `open` and `close` are the first and last price in event
order, which `*_ts`, `*_seq` and `*_venue` (`venue_key`) give; among prints equal in these, the lowest price opens and
the highest closes. `first_ts` is the time of the oldest print. `sets_range` is 1 if the bar has a print that may set
the high and low, `sets_ends` if it has one that may set open and close, else 0. Only such prints set these prices. In a
bar without one, all prints do."""
FIELDS = (*VALUES, *EDGES)
BY = ("asset", "symbol", "expiry", "right", "family")
"""The key columns of bars, besides the minute."""
INSTANTS = ("biggest_ts", "last_ts", "open_ts", "close_ts", "first_ts")
"""The columns of `FIELDS` that are times, in ns."""
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
"""The schema of bars for users. Notionals are in 1/10,000 USD for both assets."""

STREAMED = 50_000
"""From this number of rows, the streaming engine and a packed key are faster in spite of their start-up time."""
_SIDES = {name: place for place, name in enumerate(Side.categories)}
_TS, _SIDE = pl.col("ts").to_physical(), pl.col("side").to_physical()
_PRICE, _SIZE = pl.col("price"), pl.col("size")
_ROWS = 2**40
"""More rows than a frame has."""
_DEARER = 2**40
"""More than the largest price (`prices.MAX_PRICE`)."""
_SETS_RANGE = (pl.col("price_flags").cast(pl.Int64) & SETS_RANGE) // SETS_RANGE
_SETS_ENDS = (pl.col("price_flags").cast(pl.Int64) & SETS_ENDS) // SETS_ENDS
_ROW = pl.int_range(pl.len(), dtype=pl.Int64)
_EDGE_COLUMNS = {
    "sets_range": _SETS_RANGE,
    "sets_ends": _SETS_ENDS,
    "open": _ROW + (1 - _SETS_ENDS) * _ROWS,
    "close": _ROW + _SETS_ENDS * _ROWS,
    "high": _PRICE + _SETS_RANGE * _DEARER,
    "low": _PRICE + (1 - _SETS_RANGE) * _DEARER,
}
"""The columns that the edges of a bar are reduced from, for prints in event order. A print that may set a price comes
before all others. `open` and `close` are row numbers."""
_EDGE_REDUCED = [
    pl.col("sets_range", "sets_ends", "close", "high").max(),
    pl.col("open", "low").min(),
    pl.col("ts").min().alias("first_ts"),
]
_EDGE_FIELDS = {
    **dict.fromkeys((*_OPEN, *_CLOSE), pl.lit(None)),
    **{name: pl.col(name) & (_ROWS - 1) for name in ("open", "close")},
    **{name: pl.col(name) & (_DEARER - 1) for name in ("high", "low")},
}


def minutes(signed: pl.DataFrame, by: Sequence[str] = BY) -> pl.DataFrame:
    """Return the minute bars of classified prints, one row a key, in no particular order.

    Duplicates count once. Cancels remove their prints before the sums. Volumes are in the unit of the prints' sizes.

    Args:
        signed: prints with `side`, as `sign` returns them.
        by: the key columns, a part of `BY` that includes `asset` and `symbol`. The minute is always a key.

    Returns:
        Bars in `SCHEMA`, without the columns of `BY` that are not in `by`.

    Raises:
        UsageError: the frame has no column `side`, or `by` is invalid.

    Example:
        >>> bars = minutes(sign(prints), by=["asset", "symbol"])
    """
    if "side" not in signed.columns:
        raise UsageError("prints carry no column side; call sign(prints) first")
    check_by(by)
    columns = [family() if name == "family" else name for name in by if name not in READ]
    prints = unique(signed)
    return to_schema(aggregate(prints.select(*READ, *columns), by, counted=counted(prints)), by)


def check_by(by: Sequence[str]) -> None:
    """Raise `UsageError` unless `by` is valid for `minutes`."""
    if not {"asset", "symbol"} <= set(by) <= set(BY) or len(set(by)) < len(by):
        raise UsageError(
            f"by: {', '.join(by)!r} is not asset, symbol and others of {', '.join(BY)}, each once"
        )


def to_schema(bars: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return bars from `aggregate` in the schema for users, with the key columns `by`."""
    instants = [_instant("minute", NS_PER_MINUTE), *(_instant(name, 1) for name in INSTANTS)]
    unit = pl.when(pl.col("asset") == "stock").then(_unit("stock")).otherwise(_unit("option"))
    notionals = [
        ((pl.col(upper).cast(pl.Int128) * 2**BITS + pl.col(lower)).cast(pl.Decimal(38, 0)) * unit)
        .cast(Notional)
        .alias(f"{side}_notional")
        for side, (upper, lower) in NOTIONALS.items()
    ]
    names = [name for name in SCHEMA if name in by or name not in BY]
    return bars.with_columns(*instants, *notionals).select(names)


def _unit(asset: str) -> pl.Expr:
    """Return one unit of a notional in 1/10,000 USD."""
    return pl.lit(Decimal(1) / SIZE_SCALE[asset])


def from_schema(bars: pl.DataFrame, asset: str) -> pl.DataFrame:
    """Return the columns `FIELDS` of bars in `SCHEMA`, of one asset, as integers, with `minute` since 1970."""
    columns = [pl.col("minute").cast(Timestamp).to_physical() // NS_PER_MINUTE]
    columns += [pl.col(name).cast(Timestamp).to_physical() for name in INSTANTS]
    for side, (upper, lower) in NOTIONALS.items():
        units = (pl.col(f"{side}_notional").cast(Notional) * SIZE_SCALE[asset]).cast(pl.Int128)
        columns += [(units // 2**BITS).alias(upper), (units % 2**BITS).alias(lower)]
    return bars.with_columns(columns).select("minute", pl.col(FIELDS).cast(pl.Int64))


def _instant(name: str, scale: int) -> pl.Expr:
    return (pl.col(name) * scale).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC").alias(name)


READ = ("ts", "asset", "seq", "venue", "price", "size", "side", "price_flags")
"""The columns of prints that bars need, besides their key columns."""


def aggregate(
    prints: pl.DataFrame,
    by: Sequence[str],
    length: int = NS_PER_MINUTE,
    counted: pl.Series | None = None,
) -> pl.DataFrame:
    """Return bars of prints, by the columns `by` and the minute.

    Args:
        prints: has the columns `by`, `side`, `ts`, `asset`, `price` and `size`, and for stocks `seq`, `venue` and
            `price_flags`.
        by: columns of integers, dates, Enums or Categoricals that distinguish options from stocks.
        length: the length of a bar in ns.
        counted: a mask of the prints that count; by default all do.

    Returns:
        One row a key, in no particular order: `by`, `minute` (bar number since 1970, Int64), `VALUES` and `EDGES`
        (times in ns).
    """
    stock = prints["asset"] == "stock"
    if not stock.any():
        return _aggregate(prints, by, length, counted, edges=False)
    if counted is not None:
        prints, stock = prints.filter(counted), stock.filter(counted)
    made = _aggregate(prints.filter(stock), by, length, edges=True)
    if stock.all():
        return made
    return pl.concat([_aggregate(prints.filter(~stock), by, length, edges=False), made])


def _aggregate(
    prints: pl.DataFrame, by: Sequence[str], length: int, counted: pl.Series | None = None, *, edges: bool
) -> pl.DataFrame:
    """Return bars of prints of one asset, with `edges` for stocks."""
    if prints.is_empty():
        empty = dict.fromkeys(("minute", *FIELDS), pl.Series(dtype=pl.Int64))
        return pl.DataFrame({name: prints[name] for name in by} | empty)
    if edges:
        prints = _in_event_order(prints)
    sums = _sums(length, edges=edges, **_widths(prints, length))
    large = prints.height >= STREAMED
    packed = PackedKey.of([*(prints[name] for name in by), _minute(prints, length)]) if large else None
    keys = [*by, "minute"]
    # The filter is part of the query, so that no second frame of all prints is made.
    rows = prints.lazy() if counted is None else prints.lazy().filter(counted)
    work = rows.select(*by, *sums.columns).with_columns(sums.products)
    if packed is None:
        found = work.group_by(keys).agg(sums.reduced)
    else:
        work = work.with_columns(packed.packed)
        found = work.group_by("#key").agg(sums.reduced).with_columns(packed.unpacked)
    # The streaming engine groups faster but takes longer to start.
    made = found.select(*keys, *sums.fields).collect(engine="streaming" if large else "in-memory")
    return _with_ends(made, prints) if edges else made


def _minute(prints: pl.DataFrame, length: int) -> pl.Series:
    """Return the first and last bar number of some prints, which `PackedKey.of` needs for the column `minute`."""
    ts = prints["ts"].to_physical()
    return pl.Series("minute", [ts.min(), ts.max()], pl.Int64) // length


def _widths(prints: pl.DataFrame, length: int) -> dict[str, type[pl.Int64] | type[pl.Int128]]:
    """Return the integer types that hold the notional of any bar, and a size packed with a time within a bar."""
    size, price = prints["size"], prints["price"]
    largest, dearest = cast(int, size.max()), cast(int, price.max())
    fits = largest * dearest * prints.height < 2**63
    # The error of a sum of floats is much smaller than the factor of two left here.
    fits = fits or prints.select((_PRICE.cast(pl.Float64) * _SIZE).sum()).item() < 2**62
    ranked = largest < 2 ** (63 - _offset_bits(length))
    return {"notional": pl.Int64 if fits else pl.Int128, "ranked": pl.Int64 if ranked else pl.Int128}


def _offset_bits(length: int) -> int:
    return (length - 1).bit_length()


class _Sums(NamedTuple):
    """How prints become bars: columns of a print, their products, the reductions of a group, and `FIELDS`."""

    columns: list[pl.Expr]
    products: list[pl.Expr]
    reduced: list[pl.Expr]
    fields: list[pl.Expr]


@lru_cache
def _sums(
    length: int,
    *,
    edges: bool,
    notional: type[pl.Int64] | type[pl.Int128],
    ranked: type[pl.Int64] | type[pl.Int128],
) -> _Sums:
    """Return the expressions for bars of a length, with integer types from `_widths`."""
    place = 2 ** _offset_bits(length)
    columns = {
        "minute": _TS // length, "size": _SIZE.cast(pl.Int64), "price": _PRICE.cast(pl.Int64), "ts": _TS,
        "notional": _PRICE.cast(notional) * _SIZE,
        "buy": _SIDE.eq(_SIDES["buy"]).cast(pl.Int64),
        "sell": _SIDE.eq(_SIDES["sell"]).cast(pl.Int64),
        # Among prints of the largest size, the earliest has the greatest number.
        "largest": _SIZE.cast(ranked) * place + (length - 1 - _TS % length),
    }  # fmt: skip
    # A product with 0 or 1 costs less than a sum over filtered rows.
    products = [
        (pl.col(of) * pl.col(side)).alias(f"{side}_{name}")
        for side in ("buy", "sell")
        for of, name in (("size", "volume"), ("notional", "notional"))
    ]
    summed = pl.col("size", "notional", "buy_volume", "sell_volume", "buy_notional", "sell_notional").sum()
    reduced = [summed, pl.len().alias("trades"), pl.col("largest").max(), pl.col("ts").max().alias("last_ts")]
    reduced += _EDGE_REDUCED if edges else [_PRICE.max().alias("high"), _PRICE.min().alias("low")]
    biggest = pl.col("largest") // place
    fields = {
        "mid_volume": pl.col("size") - pl.col("buy_volume") - pl.col("sell_volume"),
        "biggest": biggest,
        "biggest_ts": (pl.col("minute") + 1) * length - 1 - (pl.col("largest") - biggest * place),
        **(_EDGE_FIELDS if edges else dict.fromkeys(EDGES, pl.lit(None))),
    }
    mid = pl.col("notional") - pl.col("buy_notional") - pl.col("sell_notional")
    for side, total in {"buy": pl.col("buy_notional"), "sell": pl.col("sell_notional"), "mid": mid}.items():
        upper, lower = NOTIONALS[side]
        fields |= {upper: total // 2**BITS, lower: total - total // 2**BITS * 2**BITS}
    return _Sums(
        [value.alias(name) for name, value in (columns | (_EDGE_COLUMNS if edges else {})).items()],
        products,
        reduced,
        [fields.get(name, pl.col(name)).cast(pl.Int64).alias(name) for name in FIELDS],
    )


def _in_event_order(prints: pl.DataFrame) -> pl.DataFrame:
    """Return prints of stocks sorted by time, sequence, venue and price, with the column `#venue` (`venue_key`)."""
    keyed = prints.with_columns(venue_key(prints["venue"]).alias("#venue"))
    return keyed.sort("ts", "seq", "#venue", "price")


def _with_ends(bars: pl.DataFrame, prints: pl.DataFrame) -> pl.DataFrame:
    """Return bars with the values of their first and last print in place of its row number."""
    columns = ("ts", "seq", "#venue", "price")
    found = [
        prints[source].to_physical().gather(bars[which[-1]]).cast(pl.Int64).alias(name)
        for which in (_OPEN, _CLOSE)
        for name, source in zip(which, columns, strict=True)
    ]
    return bars.with_columns(found)


def venue_key(venues: pl.Series) -> pl.Series:
    """Return integers in the order of the venues' names, from their first 8 bytes."""
    names = venues.unique()
    keys = [int.from_bytes(name.encode()[:8].ljust(8, b"\0")) - 2**63 for name in names.cast(pl.String)]
    return venues.replace_strict(names, pl.Series(keys, dtype=pl.Int64), return_dtype=pl.Int64)


def latest(starts: Ints, *keys: Ints) -> list[Ints]:
    """Return the keys of the greatest row of each group, compared by the first key, then the next, and so on.

    `starts` holds the first row of each group. Pass a key with inverted bits (`~`) to reverse its order; negation would
    overflow at the least integer.
    """
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
    """Return the values of merged bars.

    `column` returns the values of a named column, sorted by group; `starts` holds the first row of each group. `names`
    are of `VALUES`, and of `EDGES` if bars have `edges`. Without edges, all prints of a bar set its high and low.
    """
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
    """Return the sums of one side; `kind` is volume or notional. `values` has the sums by their names in `SUMS`."""
    if kind == "volume":
        return values[f"{side}_volume"]
    upper, lower = NOTIONALS[side]
    return joined(values[upper], values[lower])


def net(values: Mapping[str, Ints], kind: str) -> Numbers:
    """Return buy minus sell, of the `kind` volume or notional."""
    return of_side(values, "buy", kind) - of_side(values, "sell", kind)


def gross(values: Mapping[str, Ints], kind: str) -> Numbers:
    """Return the sum of buy, sell and mid, of the `kind` volume or notional."""
    return of_side(values, "buy", kind) + of_side(values, "sell", kind) + of_side(values, "mid", kind)


def merge(bars: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Return bars with equal keys merged, in no particular order. `by` is the key and includes `minute`."""
    repeated = bars.select(by).is_duplicated()
    if not repeated.any():
        return bars
    few = bars.filter(repeated)
    ints = _ints(few.select(*by, *FIELDS))
    order, starts, keys = _grouped([ints[name] for name in by])
    columns = {
        name: few.select(restored(few[name], pl.lit(pl.Series(values)))).to_series()
        for name, values in zip(by, keys, strict=True)
    }
    made = combined(lambda name: ints[name][order], starts, FIELDS, edges=True)
    frame = pl.DataFrame(columns | made).with_columns(
        pl.when(pl.col("open") != NULL).then(pl.col(EDGES)),
    )
    return pl.concat([bars.filter(~repeated), frame.cast(bars.schema).select(bars.columns)])


def _ints(frame: pl.DataFrame) -> dict[str, Ints]:
    whole = frame.select(pl.all().to_physical().cast(pl.Int64).fill_null(NULL))
    return {column.name: column.to_numpy() for column in whole.get_columns()}


def _grouped(keys: Sequence[Ints]) -> tuple[Ints, Ints, list[Ints]]:
    """Return a row order that puts equal keys together, the first position of each group in it, and the groups' keys.

    The key columns and the row number are packed into one integer. A sort of integers is several times faster than a
    hash of rows or a sort of an index.
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
    """Return the same as `_grouped`, for keys that do not fit one integer."""
    order = np.lexsort(keys[::-1])
    changed = np.zeros(len(order), bool)
    changed[0] = True
    for key in keys:
        ordered = key[order]
        changed[1:] |= ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(changed)
    first = order[starts]
    return order, starts, [key[first] for key in keys]
