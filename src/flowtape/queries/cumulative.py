"""`…/cumulative`: net flow a minute and its running sum."""

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
from flowtape.orderflow.minute_bars import NOTIONALS, SUMS, VOLUMES, gross, net
from flowtape.queries.quality import quality
from flowtape.queries.render.bodies import Head, Made, Rows, Text, echo
from flowtape.queries.render.numbers import NOTIONAL_SCALE, Numbers, decimals, instants, vwap, whole
from flowtape.queries.source import Desk
from flowtape.queries.spans import Page, minutes_of, read, read_page, span_fields

CUMULATIVE = SUMS
"""The sums a cumulative answer is made of."""


class CumulativePoint(msgspec.Struct, rename="camel", kw_only=True):
    """One minute: `ts` its start, `net_volume` buy − sell volume or `net_premium` the same in USD, `cumulative` its
    running sum from the window's first point, or from the open of `session` (the exchange's date) where that is
    asked, `vwap` USD a share over all counted prints, `trade_count` counted prints. The others by `include=quality`.
    """

    ts: str
    session: Text = UNSET
    net_volume: int | UnsetType = UNSET
    net_premium: float | UnsetType = UNSET
    cumulative: int | float
    vwap: float
    trade_count: int
    nbbo_share: float | UnsetType = UNSET
    sided_share: float | UnsetType = UNSET
    families: dict[str, float] | UnsetType = UNSET
    median_quote_age_ms: float | UnsetType = UNSET


class Cumulative(Head, rename="camel", kw_only=True):
    """Net flow a minute and its running sum. Minutes without a print are left out: `count` ≤ `minutes`."""

    measure: Text = UNSET
    anchor: Text = UNSET
    minutes: int | UnsetType = UNSET
    since: Text = msgspec.field(name="from", default=UNSET)
    until: Text = msgspec.field(name="to", default=UNSET)
    count: int
    next_cursor: Text = UNSET
    points: list[CumulativePoint]


def cumulative(desk: Desk, query: Query) -> Made:
    """The body of `…/cumulative`, oldest first."""
    page = read_page(desk, query, CUMULATIVE, newest_first=False)
    columns = _columns(desk, query, page)
    if query.quality:
        columns |= quality(desk, query, page.totals.minute)
    body = Cumulative(
        **echo(query),
        measure=UNSET if query.measure == "volume" else query.measure,
        anchor=UNSET if query.anchor == "window" else query.anchor,
        **span_fields(query, page),
        points=Rows(CumulativePoint, columns),
    )
    return Made(body, page.totals.as_of)


def cumulative_columns(totals: Totals, asset: str) -> dict[str, Numbers]:
    """The numbers of a cumulative answer: net_volume and cumulative in whole contracts or shares, each rounded half to
    even from its own exact sum, vwap (1/10,000 USD), trade_count."""
    signed = net(totals.values, "volume")
    return {
        "net_volume": whole(signed, asset),
        "cumulative": whole(np.cumsum(signed), asset),
        "vwap": vwap(gross(totals.values, "notional"), gross(totals.values, "volume")),
        "trade_count": totals.values["trades"],
    }


def _columns(desk: Desk, query: Query, page: Page) -> dict[str, Any]:
    totals = page.totals
    numbers = cumulative_columns(totals, query.asset)
    columns: dict[str, Any] = {
        "ts": instants(totals.minute),
        "vwap": decimals(numbers["vwap"], PRICE_SCALE),
        "trade_count": numbers["trade_count"].tolist(),
    }
    running = _running(desk, query, page, columns)
    if query.measure == "volume":
        shown = whole(running, query.asset)
        return columns | {"net_volume": numbers["net_volume"].tolist(), "cumulative": shown.tolist()}
    scale = NOTIONAL_SCALE[query.asset]
    premium = decimals(net(totals.values, "notional"), scale)
    return columns | {"net_premium": premium, "cumulative": decimals(running, scale)}


def _running(desk: Desk, query: Query, page: Page, columns: dict[str, Any]) -> Numbers:
    """The running sum in the units of bars; adds the column `session` where it is the session that begins it."""
    minute = page.totals.minute
    kind = "volume" if query.measure == "volume" else "notional"
    signed = net(page.totals.values, kind)
    if kind == "notional":
        # Sums of notionals may leave 64 bits where each of them does not.
        signed = signed.astype(object)
    running = np.cumsum(signed)
    if query.anchor == "window":
        start, _ = minutes_of(desk, query)
        return running + _before(desk, query, page, start, kind)
    if not len(minute):
        columns["session"] = []
        return running
    opens, days = anchors(query.asset, query.symbol, minute)
    columns["session"] = np.datetime_as_string(days).tolist()
    starts = np.flatnonzero(np.diff(opens, prepend=opens[0] - 1))
    begun = (running - signed)[starts]
    begun[0] -= _before(desk, query, page, int(opens[0]), kind)
    line: Numbers = running - np.repeat(begun, np.diff(starts, append=len(minute)))
    return line


def _before(desk: Desk, query: Query, page: Page, begin: int, kind: str) -> int:
    """What the sum since minute `begin` comes to where the page starts."""
    names = VOLUMES[:2] if kind == "volume" else (*NOTIONALS["buy"], *NOTIONALS["sell"])
    parts = read(desk, query, begin, page.start, names) if begin < page.start else ()
    return sum(total(net(part.values, kind)) for part in parts)
