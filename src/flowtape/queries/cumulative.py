"""`…/cumulative`: net flow per minute and its running sum."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from flowtape.cache.view import Totals
from flowtape.model.calendar import anchors
from flowtape.model.exact import total
from flowtape.model.prints import PRICE_SCALE
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import SUMS, gross, net
from flowtape.queries.flow_data import FlowData
from flowtape.queries.measures import line_measure
from flowtape.queries.quality import quality
from flowtape.queries.render.bodies import Head, Made, Rows, Text, echo
from flowtape.queries.render.numbers import Numbers, decimals, instants, vwap, whole
from flowtape.queries.spans import Page, minutes_of, read, read_page, span_fields

CUMULATIVE = SUMS
"""The fields of minute bars that a cumulative answer needs."""


class CumulativePoint(msgspec.Struct, rename="camel", kw_only=True):
    """One minute. `ts` is its start, `trade_count` its counted prints, `vwap` the price in USD per share over all of
    them. `net_volume` is buy − sell volume, `net_premium` the same in USD; `net_directional` and
    `net_directional_premium` count puts with the opposite sign. `calls` and `puts` are the parts of the net.
    `cumulative` is the running sum since the first point, or since the open of `session` (a date in New York) where
    asked. The other fields come with `include=quality`."""

    ts: str
    session: Text = UNSET
    net_volume: int | UnsetType = UNSET
    net_premium: float | UnsetType = UNSET
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    calls: int | float | UnsetType = UNSET
    puts: int | float | UnsetType = UNSET
    cumulative: int | float
    vwap: float
    trade_count: int
    nbbo_share: float | UnsetType = UNSET
    sided_share: float | UnsetType = UNSET
    families: dict[str, float] | UnsetType = UNSET
    median_quote_age_ms: float | UnsetType = UNSET


class Cumulative(Head, rename="camel", kw_only=True):
    """Net flow per minute and its running sum. Minutes without a print are left out, so `count` ≤ `minutes`."""

    measure: Text = UNSET
    split: Text = UNSET
    anchor: Text = UNSET
    minutes: int | UnsetType = UNSET
    since: Text = msgspec.field(name="from", default=UNSET)
    until: Text = msgspec.field(name="to", default=UNSET)
    count: int
    next_cursor: Text = UNSET
    points: list[CumulativePoint]


def cumulative(data: FlowData, query: Query) -> Made:
    """Return the body of `…/cumulative`, oldest minute first."""
    measure = line_measure(query)
    names = tuple(dict.fromkeys((*CUMULATIVE, *measure.names(split=query.split))))
    page = read_page(data, query, names, newest_first=False)
    columns = _columns(data, query, page)
    if query.quality:
        columns |= quality(data, query, page.totals.minute)
    body = Cumulative(
        **echo(query),
        measure=UNSET if measure.name == "volume" else measure.name,
        split="right" if query.split else UNSET,
        anchor=UNSET if query.anchor == "window" else query.anchor,
        **span_fields(query, page),
        points=Rows(CumulativePoint, columns),
    )
    return Made(body, page.totals.as_of)


def cumulative_columns(totals: Totals, asset: str) -> dict[str, Numbers]:
    """Return the columns of a cumulative answer as arrays.

    `net_volume` and `cumulative` are in whole contracts or shares, each rounded half to even from its own exact sum.
    `vwap` is in 1/10,000 USD.
    """
    signed = net(totals.values, "volume")
    return {
        "net_volume": whole(signed, asset),
        "cumulative": whole(np.cumsum(signed), asset),
        "vwap": vwap(gross(totals.values, "notional"), gross(totals.values, "volume")),
        "trade_count": totals.values["trades"],
    }


def _columns(data: FlowData, query: Query, page: Page) -> dict[str, Any]:
    totals = page.totals
    numbers = cumulative_columns(totals, query.asset)
    columns: dict[str, Any] = {
        "ts": instants(totals.minute),
        "vwap": decimals(numbers["vwap"], PRICE_SCALE),
        "trade_count": numbers["trade_count"].tolist(),
    }
    measure = line_measure(query)
    running = _running(data, query, page, columns)
    columns[measure.field] = measure.shown(measure.net(totals.values), query.asset)
    if query.split:
        calls, puts = measure.by_right(totals.values)
        columns |= {
            "calls": measure.shown(calls, query.asset),
            "puts": measure.shown(puts, query.asset),
        }
    return columns | {"cumulative": measure.shown(running, query.asset)}


def _running(data: FlowData, query: Query, page: Page, columns: dict[str, Any]) -> Numbers:
    """Return the running sum in the units of minute bars. With a session anchor, add the column `session` to
    `columns`."""
    minute = page.totals.minute
    measure = line_measure(query)
    signed = measure.net(page.totals.values)
    if measure.kind == "notional":
        # Python integers: a sum of notionals may exceed 64 bits.
        signed = signed.astype(object)
    running = np.cumsum(signed)
    if query.anchor == "window":
        start, _ = minutes_of(data, query)
        return running + _before(data, query, page, start)
    if not len(minute):
        columns["session"] = []
        return running
    opens, days = anchors(query.asset, query.symbol, minute)
    columns["session"] = np.datetime_as_string(days).tolist()
    starts = np.flatnonzero(np.diff(opens, prepend=opens[0] - 1))
    begun = (running - signed)[starts]
    begun[0] -= _before(data, query, page, int(opens[0]))
    line: Numbers = running - np.repeat(begun, np.diff(starts, append=len(minute)))
    return line


def _before(data: FlowData, query: Query, page: Page, begin: int) -> int:
    """Return the sum from minute `begin` up to the start of the page."""
    measure = line_measure(query)
    parts = read(data, query, begin, page.start, measure.names()) if begin < page.start else ()
    return sum(total(measure.net(part.values)) for part in parts)
