"""`…/bars`: a stock's prices and flow at several resolutions."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, aggregate, combined, merge
from flowtape.queries.flow import flow_columns, flow_fields
from flowtape.queries.render.bodies import Head, Made, Rows, echo
from flowtape.queries.render.numbers import Ints, stamp, stamps
from flowtape.queries.source import Desk, Span
from flowtape.queries.spans import minutes_of

RESOLUTIONS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "4h": 14_400}
"""Seconds a bar, by name."""
_NS = 10**9


class Bar(msgspec.Struct, rename="camel", kw_only=True):
    """A bar: `ts` its start; `closed` once the clock has passed its end; prices in USD, volumes in shares."""

    ts: str
    closed: bool
    open: float
    high: float
    low: float
    close: float
    vwap: float
    buy_volume: int
    sell_volume: int
    mid_volume: int
    net_volume: int
    trade_count: int
    biggest_trade: int


class Bars(Head, rename="camel", kw_only=True):
    """Bars, oldest first; those without a print are left out. `data_start_utc` is the oldest print kept."""

    resolution: str
    minutes: int
    count: int
    data_start_utc: str | None
    bars: list[Bar]


class _Bars(NamedTuple):
    """When bars start (ns), what they hold by `flow.flow_fields`, and the newest print's time."""

    start: Ints
    values: dict[str, Ints]
    as_of: int | None


def bars(desk: Desk, query: Query) -> Made:
    """The body of `…/bars`. The leftmost bar is whole: its start is a multiple of the resolution, in UTC."""
    length = RESOLUTIONS[query.resolution] * _NS
    start, end = (minute * NS_PER_MINUTE for minute in minutes_of(desk, query))
    span = Span(start - start % length, end)
    found = (
        _of_seconds(desk, query, span) if length < NS_PER_MINUTE else _of_minutes(desk, query, span, length)
    )
    speaking = desk.now if query.at is None else query.at
    oldest = desk.oldest(query)
    rows = Rows(
        Bar,
        {
            "ts": stamps(found.start, "s"),
            "closed": (found.start + length <= speaking).tolist(),
            **flow_columns(found.values, query.asset),
        },
    )
    body = Bars(
        **echo(query),
        resolution=query.resolution,
        minutes=query.minutes,
        count=len(rows),
        data_start_utc=None if oldest is None or oldest >= speaking else stamp(oldest, "s"),
        bars=rows,
    )
    return Made(body, found.as_of)


def _of_minutes(desk: Desk, query: Query, span: Span, length: int) -> _Bars:
    names = flow_fields(query.asset)
    totals = desk.totals(query, span.start // NS_PER_MINUTE, span.end // NS_PER_MINUTE, names)
    if not len(totals.minute):
        return _Bars(totals.minute, totals.values, None)
    bar = totals.minute * NS_PER_MINUTE // length
    starts = np.flatnonzero(np.diff(bar, prepend=bar[0] - 1))
    values = combined(lambda name: totals.values[name], starts, names, edges=True)
    return _Bars(bar[starts] * length, values, totals.as_of)


def _of_seconds(desk: Desk, query: Query, span: Span) -> _Bars:
    found = aggregate(desk.signed(query, span), ("series",), _NS)
    # A symbol's stock is one series, and that many prints of one second may still be in pieces.
    bars = merge(found.with_columns(pl.lit(0).alias("series")), ("series", "minute")).sort("minute")
    values = {name: bars[name].to_numpy() for name in flow_fields(query.asset)}
    newest = bars["last_ts"].max()
    return _Bars(bars["minute"].to_numpy() * _NS, values, newest if isinstance(newest, int) else None)
