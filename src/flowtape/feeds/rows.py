"""What the rows of all vendors have in common: messages that cannot be read, rows left out, option trades alike."""

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
ALIKE = 2 * 10**9
"""Event time (ns) over which option trades are remembered, to be numbered among those alike; a trade later than that
and alike another is taken for the same."""
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)

Row = TypeVar("Row")


class Rows(NamedTuple):
    """Trades and quotes that are to be joined, and cancels, which need no quote."""

    trades: pl.DataFrame
    quotes: pl.DataFrame
    cancels: pl.DataFrame | None = None


def rows_of(kind: type[Row], data: Any, read: Callable[..., Any], outlet: Outlet) -> list[Row]:
    """The elements of an array as objects of a kind; an element that is none of the kind is counted.

    Args:
        kind: a `msgspec.Struct`.
        data: the array: encoded, or a list where `read` is `msgspec.convert`.
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
    """The good ones of source rows. What is left out is counted with its reason."""
    rejects = Rejects(keep=0)
    good = common.parse(raw.with_row_index(ROW, 1), fields, rejects, "").drop(ROW)
    for reason, many in rejects.reasons.items():
        outlet.count(f"rows left out: {reason}", many)
    return timely(good, outlet)


def tell(notes: Counter[str], outlet: Outlet) -> None:
    """Count what was noted."""
    for what, many in notes.items():
        if many:
            outlet.count(what, many)


class Alike:
    """Numbers option trades that are alike: `copy` is the same whether a trade comes by websocket or from REST, and
    however often."""

    _KEY = ("instrument", "venue", "ts", "price", "size", "condition")

    def __init__(self) -> None:
        self._seen: pl.DataFrame | None = None

    def number(self, trades: pl.DataFrame) -> pl.DataFrame:
        """Trades with `copy`, without those whose `q` has been seen (a null `q` is none)."""
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
        # A time ahead of the clock must not make what is real be forgotten.
        newest = pl.min_horizontal(pl.col("ts").to_physical().max(), pl.lit(time.time_ns()))
        self._seen = seen.filter(pl.col("ts").to_physical() > newest - ALIKE)
        return trades.select(pl.exclude("#before"))
