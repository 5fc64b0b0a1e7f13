"""Trade classification: each rule finds the aggressor side by one expression over a frame of prints.

A rule is a list of layers. The first layer that finds a side wins, and its name is stored with the print. A print for
which no layer finds a side is `mid`; it never gets a random side. All comparisons are of integers, so "at the ask" and
"exactly mid" are exact: `price > (bid + ask) / 2` is computed as `2·price > bid + ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import polars as pl

from flowtape.errors import UsageError
from flowtape.model.conditions import UNSIDED, is_cancel
from flowtape.model.prints import CONTRACT, SCHEMA, Side, Timestamp, day_bounds, trading_days

DecidedBy = pl.Enum(["quote", "tick", "rtick", "depth", "tsize"])
"""The layers that can determine a side."""

RULES: dict[str, tuple[str, ...]] = {
    "quote": ("quote",),
    "tick": ("tick",),
    "rtick": ("rtick",),
    "lr": ("quote", "tick"),
    "emo": ("at_quote", "tick"),
    "clnv": ("near_quote", "tick"),
    "depth": ("depth",),
    "tsize": ("tsize",),
}
"""The layers of each rule, in their order.

Sources: `quote` Savickas & Wilson 2003; `tick`, `rtick`, `lr` Lee & Ready 1991; `emo` Ellis, Michaely & O'Hara 2000;
`clnv` Chakrabarty et al. 2007; `depth`, `tsize` Grauer, Schuster & Uhrig-Homburg.
"""
LIVE_RULES = ("quote", "depth", "tsize")
"""Rules that use only the print itself. They give the same sides for prints in batches as for all prints in one frame.
"""
FUTURE_RULES = ("rtick",)
"""Rules that use later prints. They work on whole files, but not on a live tape."""


class _Layer(NamedTuple):
    """The conditions for buy and for sell; null counts as false. `quoted` layers need a valid NBBO."""

    name: str
    quoted: bool
    buy: pl.Expr
    sell: pl.Expr


_PRICE, _BID, _ASK, _SIZE = pl.col("price"), pl.col("bid"), pl.col("ask"), pl.col("size")
_BID_SIZE, _ASK_SIZE = pl.col("bid_size"), pl.col("ask_size")
_FROM_MID = 2 * _PRICE - (_BID + _ASK)
_OPEN = _ASK > _BID
_LAYERS = {
    "quote": _Layer("quote", True, _FROM_MID > 0, _FROM_MID < 0),
    "at_quote": _Layer("quote", True, (_PRICE == _ASK) & _OPEN, (_PRICE == _BID) & _OPEN),
    "near_quote": _Layer(
        "quote",
        True,
        (10 * _PRICE >= 7 * _ASK + 3 * _BID) & (_PRICE <= _ASK) & _OPEN,
        (10 * _PRICE <= 3 * _ASK + 7 * _BID) & (_PRICE >= _BID) & _OPEN,
    ),
    "depth": _Layer(
        "depth", True, (_FROM_MID == 0) & (_ASK_SIZE > _BID_SIZE), (_FROM_MID == 0) & (_ASK_SIZE < _BID_SIZE)
    ),
    "tsize": _Layer(
        "tsize",
        True,
        (_SIZE == _BID_SIZE) & (_SIZE != _ASK_SIZE),
        (_SIZE == _ASK_SIZE) & (_SIZE != _BID_SIZE),
    ),
    "tick": _Layer("tick", False, pl.col("tick") > 0, pl.col("tick") < 0),
    "rtick": _Layer("rtick", False, pl.col("rtick") > 0, pl.col("rtick") < 0),
}
_SIDED = ~pl.col("condition").is_in(UNSIDED)
_BUY, _SELL, _MID = (pl.lit(number, pl.UInt8) for number in range(len(Side.categories)))
_NUMBERS = {name: pl.lit(number, pl.UInt8) for number, name in enumerate(DecidedBy.categories)}
_EVENT = ("ts", "seq", "venue", "price")
"""The columns of event order (`identity.EVENT_ORDER`) within a contract that can affect a comparison of prices."""
_READ = ("condition", "size", "bid", "ask", "bid_size", "ask_size", "quote_ts", *CONTRACT, *_EVENT)


def sign(
    prints: pl.DataFrame, rule: str | Sequence[str] = "quote", max_quote_age: timedelta | None = None
) -> pl.DataFrame:
    """Return prints with their aggressor side, in the same order.

    Two columns are added: `side` (`prints.Side`), and `decided_by` (`DecidedBy`), the layer that found the side, which
    is null where the side is `mid`. A quoted layer finds no side if the NBBO is missing or crossed, if `ask` ≤ 0 or
    `bid` < 0, or if the quote is later than the print, of an earlier trading day, or older than `max_quote_age`. A
    quote of unknown time passes these last three tests. Prints with a condition in `conditions.UNSIDED` are `mid` under
    every rule.

    Args:
        prints: prints in `prints.SCHEMA`. `tick` and `rtick` compare prints of this frame only.
        rule: a name in `RULES`, or several names; the first that finds a side wins. `RULES` names their sources, such
            as Lee & Ready 1991 for `lr`.
        max_quote_age: the oldest quote to use, relative to its print; None for no limit within the trading day.

    Raises:
        UsageError: the rule is unknown, the age is negative, or the frame does not hold prints.

    Example:
        >>> signed = sign(prints, rule=["quote", "depth"])
    """
    return prints.with_columns(_decided(prints, rule, max_quote_age, (_side, _decided_by)))


def sides(
    prints: pl.DataFrame, rule: str | Sequence[str] = "quote", max_quote_age: timedelta | None = None
) -> pl.Series:
    """Return the column `side` that `sign` adds to prints, for the same arguments."""
    return _decided(prints, rule, max_quote_age, (_side,))[0]


def _decided(
    prints: pl.DataFrame,
    rule: str | Sequence[str],
    max_quote_age: timedelta | None,
    made: Sequence[Callable[[tuple[str, ...]], pl.Expr]],
) -> list[pl.Series]:
    """Return columns computed from the votes of a rule's layers."""
    layers = _layers(rule)
    if max_quote_age is not None and max_quote_age < timedelta(0):
        raise UsageError(f"max_quote_age: {max_quote_age} is negative")
    _check(prints)
    ticks = {name: _ticks(prints, name) for name in ("tick", "rtick") if name in layers}
    work = prints.lazy().select(
        "price", "size", "bid", "ask", "bid_size", "ask_size",
        sided=_SIDED, quoted=_SIDED & in_force(prints, max_quote_age), **ticks,
    )  # fmt: skip
    votes = [vote.alias(f"{layer} {word}") for layer in layers for word, vote in _votes(_LAYERS[layer])]
    return work.select(votes).select(column(layers) for column in made).collect().get_columns()


def _layers(rule: str | Sequence[str]) -> tuple[str, ...]:
    """Return the layers of a rule or of several rules, each once."""
    names = [rule] if isinstance(rule, str) else list(rule)
    unknown = [repr(name) for name in names if name not in RULES]
    if unknown or not names:
        raise UsageError(f"rule: {', '.join(unknown) or 'an empty stack'} is not one of {', '.join(RULES)}")
    return tuple(dict.fromkeys(layer for name in names for layer in RULES[name]))


def _check(prints: pl.DataFrame) -> None:
    """Check that a frame has prints in whole price units."""
    schema = prints.schema
    for name in _READ:
        if name not in schema:
            raise UsageError(f"prints lack the column {name}")
        if schema[name] != SCHEMA[name]:
            raise UsageError(f"prints have {name} as {schema[name]}, not {SCHEMA[name]}: see prints.conform")


def in_force(prints: pl.DataFrame, max_quote_age: timedelta | None = None) -> pl.Expr:
    """Return true where the quote is valid and, if its time is known, in force at the print; null is false."""
    valid = (_BID >= 0) & (_ASK > 0) & (_ASK >= _BID)
    if prints["quote_ts"].null_count() == len(prints):
        return valid
    ts, quote_ts = pl.col("ts"), pl.col("quote_ts")
    fresh = (quote_ts <= ts) & (quote_ts >= _day_starts(prints["ts"]))
    if max_quote_age is not None:
        # No quote of the same trading day is older than two days. Nanoseconds cannot hold every timedelta.
        limit = min(max_quote_age, timedelta(days=2))
        fresh &= ts - quote_ts <= pl.lit(limit, dtype=pl.Duration("ns"))
    return valid & (quote_ts.is_null() | fresh)


def _day_starts(ts: pl.Series) -> pl.Expr:
    """Return the first instant of each print's trading day: midnight in New York."""
    days = trading_days(ts)
    first = days.min()
    if isinstance(first, date) and first == days.max():
        return pl.lit(day_bounds(first)[0], dtype=Timestamp)
    starts = {day: day_bounds(day)[0] for day in days.unique().drop_nulls()}
    return pl.lit(days.replace_strict(starts, default=None, return_dtype=Timestamp))


def _ticks(prints: pl.DataFrame, name: str) -> pl.Series:
    """Return each price against the last (`tick`) or next (`rtick`) different price of its contract.

    The values are +1 above it, −1 below it, and 0 where there is none (Int8, in the frame's row order). A contract's
    prints are compared in event order (`identity.EVENT_ORDER`) through the whole frame, across nights. Cancels are
    left out.
    """
    step = 1 if name == "tick" else -1
    events = (
        prints.select(*CONTRACT, *_EVENT, cancel=is_cancel())
        .with_row_index("row")
        .filter(~pl.col("cancel"))
        .sort(*_EVENT)
        # Grouping hashes the six columns of a contract. A sort by them costs ten times as much.
        .group_by(CONTRACT)
        .agg("row", "price")
        .with_row_index("contract")
        .explode("row", "price")
    )
    contract = pl.col("contract")
    change = (_PRICE - _PRICE.shift(step)).sign().cast(pl.Int8)
    # Consecutive prints of one price have the same result as the first of them.
    runs = pl.when(contract.ne_missing(contract.shift(step))).then(0).when(change != 0).then(change)
    answers = events.select("row", tick=runs.forward_fill() if step == 1 else runs.backward_fill())
    return pl.zeros(len(prints), pl.Int8, eager=True).scatter(answers["row"], answers["tick"])


def _votes(layer: _Layer) -> tuple[tuple[str, pl.Expr], tuple[str, pl.Expr]]:
    """Return a layer's conditions for buy and sell, limited to prints that the layer may classify."""
    may = pl.col("quoted") if layer.quoted else pl.col("sided")
    return ("buy", may & layer.buy), ("sell", may & layer.sell)


def _side(layers: tuple[str, ...]) -> pl.Expr:
    side = _MID
    for layer in reversed(layers):
        side = pl.when(f"{layer} buy").then(_BUY).when(f"{layer} sell").then(_SELL).otherwise(side)
    return side.cat.to(Side).alias("side")


def _decided_by(layers: tuple[str, ...]) -> pl.Expr:
    decided = pl.lit(None, pl.UInt8)
    for layer in reversed(layers):
        spoke = pl.col(f"{layer} buy") | pl.col(f"{layer} sell")
        decided = pl.when(spoke).then(_NUMBERS[_LAYERS[layer].name]).otherwise(decided)
    return decided.cat.to(DecidedBy).alias("decided_by")
