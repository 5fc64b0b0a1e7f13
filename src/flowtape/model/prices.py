"""Prices as integers: the one rounding rule of all readers, feeds and frames.

A source's price is read as a whole number of 1e-9 USD ("nanos"), the finest unit of any source. The binary noise of a
float (`40.480000000000004`) is smaller than that and is removed. A print holds whole units of 1/10,000 USD. Nanos are
rounded half to even to units, so the text `1.25005`, the float 1.25005 and the integer 1250050000 give the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import polars as pl

PRICE_SCALE = 10_000
"""Integer price units per USD."""
NANOS = 100_000
"""Nanos (1e-9 USD) per price unit."""
MAX_PRICE = 10**11
"""The largest valid price in price units: ten million USD a share."""
MAX_NANOS = MAX_PRICE * NANOS

ROUNDED = "prices rounded to 1/10,000 USD"
QUOTES_ROUNDED = "quotes rounded to 1/10,000 USD"
UNDERLYING_ROUNDED = "underlying prices rounded to 1/10,000 USD"
SIDE_WRONG = "quotes left out: rounded to 1/10,000 USD, they would give a wrong side"
SIDE_LOST = "prints at the middle of the quote once rounded to 1/10,000 USD: side unknown"

_NOISE = 5e-6
"""Half a nano, in price units."""
_FLOAT_ERROR = 2.0**-50
"""The relative error of a float after a multiplication, with a margin. It exceeds half a nano above 560,000 USD."""
_EXACT = 5e9
"""Up to this many price units, the error of a float is far below half a nano."""
_QUOTE = ("bid", "ask", "bid_size", "ask_size", "quote_ts", "quote_seq")
_COUNTED = {ROUNDED: ("price",), QUOTES_ROUNDED: ("bid", "ask"), UNDERLYING_ROUNDED: ("underlying",)}

Note = Callable[[str, int], None]
"""A function that receives the name of a finding and how often it occurred."""


def nanos(usd: pl.Expr, unit: float = 1.0) -> pl.Expr:
    """Return amounts in whole nanos (1e-9 USD).

    Args:
        usd: floats, in `unit`.
        unit: USD per unit of the source.

    Returns:
        Int64, rounded to the nearest; null where the amount is not finite or does not fit 64 bits. The result is exact
        for decimals of up to nine places up to 560,000 USD. Above it, decimals of up to four places are exact.
    """
    amount = usd.cast(pl.Float64, strict=False)
    in_units = amount * (unit * PRICE_SCALE)
    whole = in_units.round()
    noise = (in_units - whole).abs() <= _NOISE + whole.abs() * _FLOAT_ERROR
    exact = pl.when(noise).then(whole * NANOS).otherwise((amount * (unit * PRICE_SCALE * NANOS)).round())
    return exact.cast(pl.Int64, strict=False)


def whole_units(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame | None:
    """Return amounts in price units, if all of them are whole numbers of units.

    Args:
        frame: has the columns `names`, in USD, Float64.
        names: the columns to convert.

    Returns:
        These columns as Int64, equal to the result of `nanos` and `units`. None where an amount is finer, is not
        finite, or is so large that its float is not exact to half a nano.
    """
    made = [_whole_units(frame[name]) for name in names]
    whole = [values for values in made if values is not None]
    return pl.DataFrame(whole) if len(whole) == len(made) else None


def _whole_units(amounts: pl.Series) -> pl.Series | None:
    """Return one column as `whole_units` does. `floor` costs a fifth of `round`."""
    in_units = amounts * PRICE_SCALE
    whole = (in_units + 0.5).floor()
    rest = in_units - whole
    # A NaN makes the sum NaN. The minimum and the maximum ignore it.
    proofs = (
        (in_units.min(), -_EXACT, in_units.max(), _EXACT),
        (rest.min(), -_NOISE, rest.max(), _NOISE),
        (rest.sum(), -math.inf, rest.sum(), math.inf),
    )
    for low, least, high, most in proofs:
        if (
            low is not None
            and high is not None
            and not (least <= cast(float, low) and cast(float, high) <= most)
        ):
            return None
    return whole.cast(pl.Int64, wrap_numerical=True)


def shortest_floats(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with every Float32 and Float16 column as Float64.

    Each value becomes the shortest decimal that rounds to it: the Float32 5012.35009765625 becomes 5012.35.
    """
    short = [name for name, dtype in frame.schema.items() if dtype == pl.Float32]
    # Polars writes a Float16 with the digits of a Float32; NumPy writes the shortest text.
    half = [
        pl.Series(name, frame[name].to_numpy().astype(str)).cast(pl.Float64).fill_nan(None)
        for name, dtype in frame.schema.items()
        if dtype == pl.Float16
    ]
    return (
        frame.with_columns(pl.col(short).cast(pl.String).cast(pl.Float64), *half) if short or half else frame
    )


def units(amount: pl.Expr, unit: int = NANOS) -> pl.Expr:
    """Return nanos (1e-9 USD, Int64) rounded half to even to price units; `unit` is the nanos of one unit, even."""
    whole, rest = amount // unit, amount % unit
    up = (rest > unit // 2) | ((rest == unit // 2) & (whole % 2 == 1))
    return whole + up.cast(pl.Int64)


def beyond(price: pl.Series, size: pl.Series, limit: int) -> pl.Series | None:
    """Return a mask of the rows whose price x size is greater than a limit, or None where there is no such row."""
    dearest, largest = price.max(), size.max()
    if not isinstance(dearest, int) or not isinstance(largest, int) or dearest * largest <= limit:
        return None
    found = price.cast(pl.Float64) * size > float(limit)
    return found if found.any() else None


def rounded(prints: pl.DataFrame, note: Note) -> pl.DataFrame:
    """Return prints with the prices of trades and quotes rounded from nanos to price units.

    Rounding never gives a print a side that its exact price does not have. Where it would, the quote is removed and the
    print is `mid`. Where rounding moves a print to the middle of its quote, the print is `mid` and is counted.

    Args:
        prints: those of the columns `price`, `bid`, `ask` and `underlying` that it has are Int64 nanos.
        note: is called for each kind of price finer than a unit.

    Returns:
        The same rows and columns, with prices in units of 1/10,000 USD.
    """
    names = [name for name in ("price", "bid", "ask", "underlying") if name in prints.columns]
    finer = prints.select((pl.col(name) % NANOS != 0).fill_null(value=False) for name in names)
    if not any(finer.select(pl.all().any()).row(0)):
        return prints.with_columns(pl.col(name) // NANOS for name in names)
    for what, columns in _COUNTED.items():
        counted = [name for name in columns if name in names]
        if counted and (many := finer.select(pl.any_horizontal(counted).sum()).item()):
            note(what, many)
    whole = prints.with_columns(units(pl.col(name)) for name in names)
    if not {"price", "bid", "ask"} <= set(names):
        return whole
    exact, now = (frame.select(_side()).to_series() for frame in (prints, whole))
    if lost := int(((exact != 0) & (now == 0)).sum()):
        note(SIDE_LOST, lost)
    wrong = (exact != now) & (now != 0)
    if not wrong.any():
        return whole
    note(SIDE_WRONG, int(wrong.sum()))
    quote = [pl.when(~wrong).then(pl.col(name)).alias(name) for name in _QUOTE if name in prints.columns]
    return whole.with_columns(quote)


def _side() -> pl.Expr:
    """Return +1 above the middle of the quote, −1 below it, and 0 at the middle or without a valid quote."""
    price, bid, ask = pl.col("price"), pl.col("bid"), pl.col("ask")
    valid = ((bid >= 0) & (ask > 0) & (ask >= bid)).fill_null(value=False)
    return pl.when(valid).then(((price - bid) - (ask - price)).sign()).otherwise(0)
