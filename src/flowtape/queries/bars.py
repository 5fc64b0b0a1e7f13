"""`…/bars`: a stock's prices and flow at several resolutions."""

from __future__ import annotations

import msgspec
import numpy as np

from flowtape.cache.view import Totals
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, combined
from flowtape.queries.flow import flow_columns, flow_fields
from flowtape.queries.flow_data import FlowData, Span
from flowtape.queries.render.bodies import Head, Made, Rows, echo
from flowtape.queries.render.numbers import stamp, stamps
from flowtape.queries.spans import minutes_of

RESOLUTIONS = {"1s": 1, "1m": 60, "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "4h": 14_400}
"""Seconds of one bar, by the name of the resolution."""
_NS = 10**9


class Bar(msgspec.Struct, rename="camel", kw_only=True):
    """One bar. `ts` is its start. `closed` is true once the clock has passed its end. Prices are in USD, volumes in
    shares."""

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
    """Bars, oldest first, without bars that have no print. `data_start_utc` is the time of the oldest stored print."""

    resolution: str
    minutes: int
    count: int
    data_start_utc: str | None
    bars: list[Bar]


def bars(data: FlowData, query: Query) -> Made:
    """Return the body of `…/bars`.

    The first bar is complete: it begins at a multiple of the resolution in UTC.
    """
    length = RESOLUTIONS[query.resolution] * _NS
    start, end = (minute * NS_PER_MINUTE for minute in minutes_of(data, query))
    span = Span(start - start % length, end)
    found = (
        data.bars(query, span, flow_fields(query.asset), length)
        if length < NS_PER_MINUTE
        else _of_minutes(data, query, span, length)
    )
    begins = found.minute * length
    speaking = data.now if query.at is None else query.at
    oldest = data.oldest(query)
    rows = Rows(
        Bar,
        {
            "ts": stamps(begins, "s"),
            "closed": (begins + length <= speaking).tolist(),
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


def _of_minutes(data: FlowData, query: Query, span: Span, length: int) -> Totals:
    """Return bars of `length` ns, summed from minute bars; `minute` of the result counts bars since 1970."""
    names = flow_fields(query.asset)
    totals = data.totals(query, span.start // NS_PER_MINUTE, span.end // NS_PER_MINUTE, names)
    if not len(totals.minute):
        return totals
    bar = totals.minute * NS_PER_MINUTE // length
    starts = np.flatnonzero(np.diff(bar, prepend=bar[0] - 1))
    return Totals(
        bar[starts], combined(lambda name: totals.values[name], starts, names, edges=True), totals.as_of
    )
