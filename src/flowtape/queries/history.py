"""`…/history`: the minutes of a symbol, newest first."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from flowtape.model.query import Query
from flowtape.queries.flow import flow_columns, flow_fields
from flowtape.queries.flow_data import FlowData
from flowtape.queries.measures import line_measure
from flowtape.queries.quality import quality
from flowtape.queries.render.bodies import Head, Made, Rows, Text, echo
from flowtape.queries.render.numbers import instants
from flowtape.queries.spans import read_page, span_fields


class Bucket(msgspec.Struct, rename="camel", kw_only=True):
    """One minute. `ts` is its start, volumes are in contracts or shares, prices in USD over all counted prints. Only
    stocks have `open` and `close`. The quality fields come with `include=quality`."""

    ts: str
    buy_volume: int
    sell_volume: int
    mid_volume: int
    net_volume: int
    net_premium: float | UnsetType = UNSET
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    trade_count: int
    biggest_trade: int
    vwap: float
    open: float | UnsetType = UNSET
    close: float | UnsetType = UNSET
    high: float
    low: float
    nbbo_share: float | UnsetType = UNSET
    sided_share: float | UnsetType = UNSET
    families: dict[str, float] | UnsetType = UNSET
    median_quote_age_ms: float | UnsetType = UNSET


class History(Head, rename="camel", kw_only=True):
    """The minutes of a symbol, newest first, without minutes that have no print. `measure` adds its net to each
    minute."""

    measure: Text = UNSET
    minutes: int | UnsetType = UNSET
    since: Text = msgspec.field(name="from", default=UNSET)
    until: Text = msgspec.field(name="to", default=UNSET)
    count: int
    next_cursor: Text = UNSET
    buckets: list[Bucket]


def history(data: FlowData, query: Query) -> Made:
    """Return the body of `…/history`."""
    measure = line_measure(query)
    names = tuple(dict.fromkeys((*flow_fields(query.asset), *measure.names())))
    page = read_page(data, query, names, newest_first=True)
    totals = page.totals
    columns: dict[str, list[Any]] = {
        "ts": instants(totals.minute),
        **flow_columns(totals.values, query.asset),
    }
    if measure.name != "volume":
        columns[measure.field] = measure.shown(measure.net(totals.values), query.asset)
    if query.quality:
        columns |= quality(data, query, totals.minute)
    newest_first = {name: column[::-1] for name, column in columns.items()}
    asked = UNSET if measure.name == "volume" else measure.name
    body = History(
        **echo(query), measure=asked, **span_fields(query, page), buckets=Rows(Bucket, newest_first)
    )
    return Made(body, totals.as_of)
