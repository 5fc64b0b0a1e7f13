"""Rows of all vendors: messages that cannot be read, rows left out, and the numbering of equal option trades."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
import polars as pl

from flowtape.feeds.base import Outlet
from flowtape.feeds.quote_join import timely
from flowtape.readers import Rejects, common
from flowtape.readers.common import ROW, Field

NOT_UNDERSTOOD = "messages not understood"
REMEMBERED_TRADES = 2 * 10**9
"""The event time (ns) over which option trades are remembered to number equal ones. A later trade that equals another
is taken for a repeat of it."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)

Row = TypeVar("Row")


class Rows(NamedTuple):
    """Trades and quotes to be joined, and cancels, which need no quote."""

    trades: pl.DataFrame
    quotes: pl.DataFrame
    cancels: pl.DataFrame | None = None


def rows_of(kind: type[Row], data: Any, read: Callable[..., Any], outlet: Outlet) -> list[Row]:
    """Return the elements of an array as objects of a kind. Elements of another form are counted.

    Args:
        kind: a `msgspec.Struct`.
        data: the array: encoded, or a list if `read` is `msgspec.convert`.
        read: `msgspec.json.decode`, `msgspec.msgpack.decode` or `msgspec.convert`.
        outlet: counts `NOT_UNDERSTOOD`.
    """
    try:
        return list(read(data, type=list[kind]))  # type: ignore[valid-type]
    except _UNREADABLE:
        pass
    good: list[Row] = []
    try:
        parts = data if isinstance(data, list) else read(data, type=list[msgspec.Raw])
    except _UNREADABLE:
        outlet.count(NOT_UNDERSTOOD)
        return good
    for part in parts:
        try:
            good.append(read(part, type=kind))
        except _UNREADABLE:
            outlet.count(NOT_UNDERSTOOD)
    return good


def parsed(raw: pl.DataFrame, fields: Sequence[Field], outlet: Outlet) -> pl.DataFrame:
    """Return the good source rows. The others are counted by reason."""
    rejects = Rejects(keep=0)
    good = common.parse(raw.with_row_index(ROW, 1), fields, rejects, "").drop(ROW)
    for reason, many in rejects.reasons.items():
        outlet.count(f"rows left out: {reason}", many)
    return timely(good, outlet)


def tell(notes: Counter[str], outlet: Outlet) -> None:
    """Count the notes of a reader."""
    for what, many in notes.items():
        if many:
            outlet.count(what, many)


class EqualTrades:
    """Numbers equal option trades, so that `copy` does not depend on whether a trade arrives by websocket or REST, nor
    on how often it arrives."""

    _KEY = ("instrument", "venue", "ts", "price", "size", "condition")

    def __init__(self) -> None:
        self._seen: pl.DataFrame | None = None

    def number(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Return trades with `copy`, without those whose `q` has been seen (a null `q` is not a sequence number)."""
        row = [*self._KEY, "q"]
        trades = trades.filter(pl.struct(row).is_first_distinct() | pl.col("q").is_null())
        before = pl.lit(0)
        if self._seen is not None:
            trades = trades.join(self._seen, on=row, how="anti", maintain_order="left")
            counts = self._seen.group_by(self._KEY).agg(pl.len().alias("#before"))
            trades = trades.join(counts, on=list(self._KEY), how="left", maintain_order="left")
            before = pl.col("#before").fill_null(0)
        place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(self._KEY) + before
        trades = trades.with_columns(place.alias("copy"))
        seen = trades.select(row) if self._seen is None else pl.concat([self._seen, trades.select(row)])
        # A time ahead of the clock must not displace valid trades from memory.
        newest = pl.min_horizontal(pl.col("ts").to_physical().max(), pl.lit(time.time_ns()))
        self._seen = seen.filter(pl.col("ts").to_physical() > newest - REMEMBERED_TRADES)
        return trades.select(pl.exclude("#before"))
