"""`…/divergence`, `…/turning-points` and `…/sessions`: signals from the minutes of one symbol.

The formulas are in `orderflow.signals`.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from flowtape.cache.view import Totals
from flowtape.model.calendar import anchors, regular_sessions, sessions
from flowtape.model.exact import numbers
from flowtape.model.prints import DAY_NS, PRICE_SCALE, day_bounds, minute_days
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NOTIONALS, NS_PER_MINUTE, net
from flowtape.orderflow.signals import STATES, Day, Hours, days, divergence, turning_points
from flowtape.queries.flow_data import FlowData
from flowtape.queries.measures import Measure, measure_of
from flowtape.queries.render.bodies import Head, Made, Rows, Text, echo
from flowtape.queries.render.numbers import (
    NOTIONAL_SCALE,
    Ints,
    Numbers,
    decimals,
    half_even,
    instants,
    whole,
)
from flowtape.queries.spans import minutes_of

_VOLUME = ("buy_volume", "sell_volume")
_PREMIUM = (*NOTIONALS["buy"], *NOTIONALS["sell"])
PriceSource = Literal["stock", "underlying", "none"]


class DivergencePoint(msgspec.Struct, rename="camel", kw_only=True):
    """One minute. `price` is of the underlying in USD, `n` counts the minutes in the look-back, `flow_t` and `price_t`
    are the t-statistics of the two slopes, `state` is what they say together."""

    ts: str
    net_volume: int | UnsetType = UNSET
    net_premium: float | UnsetType = UNSET
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    cumulative: int | float
    price: float
    n: int
    flow_t: float
    price_t: float
    state: str


class Divergence(Head, rename="camel", kw_only=True):
    """The slopes of flow and price over a look-back. Minutes without a print or a price are left out; `without_price`
    counts those without a price. `price_source` is `stock` (its minutes), `underlying` (mids on the prints) or `none`.
    """

    measure: Text = UNSET
    minutes: int
    lookback: int
    price_source: PriceSource
    without_price: int
    count: int
    points: list[DivergencePoint]


class TurningPoint(msgspec.Struct, rename="camel", kw_only=True):
    """A high or low of the line. `cumulative` is its value there. `prominence` is how far the line came back on both
    sides."""

    ts: str
    kind: str
    cumulative: int | float
    prominence: int | float


class TurningPoints(Head, rename="camel", kw_only=True):
    """The largest reversals of the cumulative line, by prominence."""

    measure: Text = UNSET
    minutes: int
    limit: int
    count: int
    points: list[TurningPoint]


class SessionPart(msgspec.Struct, rename="camel", kw_only=True):
    """The minutes [`from`, `to`) of a day. `mean_cumulative` is the line's mean over clock time, absent outside the
    session. `absolute_share` is the part's share of the day's Σ |net of a minute|."""

    part: str
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    net_volume: int
    net_premium: float
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    mean_cumulative: float | UnsetType = UNSET
    absolute_share: float


class SessionDay(msgspec.Struct, rename="camel", kw_only=True):
    """A trading day (New York date). `open` and `close` are of the regular session, absent on a day without one.
    `high` and `low` are of the line since the open, absent without a print since then."""

    date: str
    open: Text = UNSET
    close: Text = UNSET
    net_volume: int
    net_premium: float
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    high: int | float | UnsetType = UNSET
    high_ts: Text = UNSET
    low: int | float | UnsetType = UNSET
    low_ts: Text = UNSET
    parts: list[SessionPart]


class Sessions(Head, rename="camel", kw_only=True):
    """The newest trading days with prints, newest first, and their parts. `high`, `low`, `mean_cumulative` and
    `absolute_share` are of the measure's line."""

    measure: Text = UNSET
    days: int
    count: int
    sessions: list[SessionDay]


def divergence_answer(data: FlowData, query: Query) -> Made:
    """Return the body of `…/divergence`, oldest minute first."""
    start, end = minutes_of(data, query)
    measure = measure_of(query)
    totals, opens = data.totals(query, start, end, measure.names()), np.empty(0, np.int64)
    begin = start
    if len(totals.minute):
        # Read from the first session's open: a look-back starts there, and the last price may be older than the
        # window.
        begin = min(start, int(anchors(query.asset, query.symbol, totals.minute[:1])[0][0]))
        totals = data.totals(query, begin, end, measure.names())
        opens, _ = anchors(query.asset, query.symbol, totals.minute)
    source, price_minute, price = _price(data, query, begin, end)
    signed = _exact(measure.net(totals.values))
    found = divergence(totals.minute, signed, opens, price_minute, price, query.lookback)
    shown = totals.minute >= start
    line = np.cumsum(np.where(shown, signed, 0))
    mine = shown[found.place]
    place = found.place[mine]
    columns = {
        "ts": instants(totals.minute[place]),
        measure.field: measure.shown(signed[place], query.asset),
        "cumulative": measure.shown(line[place], query.asset),
        "price": decimals(found.price[mine], PRICE_SCALE),
        "n": found.n[mine].tolist(),
        "flow_t": decimals(found.flow_t[mine], 100),
        "price_t": decimals(found.price_t[mine], 100),
        "state": [STATES[state] for state in found.state[mine].tolist()],
    }
    body = Divergence(
        **echo(query),
        measure=_told(measure),
        minutes=query.minutes,
        lookback=query.lookback,
        price_source=source,
        without_price=int(shown.sum()) - len(place),
        count=len(place),
        points=Rows(DivergencePoint, columns),
    )
    return Made(body, totals.as_of)


def _price(data: FlowData, query: Query, start: int, end: int) -> tuple[PriceSource, Ints, Ints]:
    """Return the underlying's last price of each minute: from its stock's prints, else from the mids on the option
    prints."""
    stock = Query(asset="stock", symbol=query.symbol, at=query.at)
    closes = data.totals(stock, start, end, ("close",))
    if len(closes.minute):
        return "stock", closes.minute, closes.values["close"]
    minute, price = data.underlying(query, start, end)
    return "underlying" if len(minute) else "none", minute, price


def turning_points_answer(data: FlowData, query: Query) -> Made:
    """Return the body of `…/turning-points`, the largest prominence first."""
    measure = measure_of(query)
    totals = data.totals(query, *minutes_of(data, query), measure.names())
    line = np.cumsum(_exact(measure.net(totals.values)))
    turns = turning_points(line, query.limit)
    columns = {
        "ts": instants(totals.minute[turns.place]),
        "kind": ["high" if high else "low" for high in turns.high.tolist()],
        "cumulative": measure.shown(line[turns.place], query.asset),
        "prominence": measure.shown(turns.prominence, query.asset),
    }
    body = TurningPoints(
        **echo(query),
        measure=_told(measure),
        minutes=query.minutes,
        limit=query.limit,
        count=len(turns.place),
        points=Rows(TurningPoint, columns),
    )
    return Made(body, totals.as_of)


def sessions_answer(data: FlowData, query: Query) -> Made:
    """Return the body of `…/sessions`, newest day first."""
    totals, end = _newest_days(data, query)
    number = minute_days(totals.minute)
    chosen = np.unique(number)[::-1][: query.days]
    hours = _hours(query, [date(1970, 1, 1) + timedelta(days=one) for one in chosen.tolist()])
    measure = measure_of(query)
    volume, premium = net(totals.values, "volume"), net(totals.values, "notional")
    found = days(totals.minute, number, volume, premium, hours, end)
    measured = days(totals.minute, number, _exact(measure.net(totals.values)), premium, hours, end)
    shown = [_day(one, by, measure, query.asset) for one, by in zip(found, measured, strict=True)]
    body = Sessions(**echo(query), measure=_told(measure), days=query.days, count=len(found), sessions=shown)
    return Made(body, totals.as_of)


def _told(measure: Measure) -> Text:
    """Return the name of a measure as a body shows it, unset for `volume`."""
    return UNSET if measure.name == "volume" else measure.name


def _exact(values: Numbers) -> Numbers:
    """Return numbers whose sums stay exact: a sum of premiums may exceed 64 bits."""
    return values if np.abs(values).sum(dtype=np.float64) < 2**62 else values.astype(object)


def _newest_days(data: FlowData, query: Query) -> tuple[Totals, int]:
    """Return the minutes of the newest trading days with prints, at least as many days as are asked for where there
    are, and the minute at which the answer ends."""
    now = data.now + NS_PER_MINUTE if query.at is None else query.at
    names = tuple(dict.fromkeys((*_VOLUME, *_PREMIUM, *measure_of(query).names())))
    newest = data.day(query)
    if newest is None:
        return data.totals(query, 0, 0, names), now // NS_PER_MINUTE
    last = newest.end
    back = last
    for _ in range(query.days):
        earlier = sessions("stock", query.symbol, back - 1, back)
        # The calendar has no session that early or late: count trading days instead.
        back = earlier[0].open if earlier else back - DAY_NS
    opened = date.fromisoformat(str(np.datetime64(back, "ns").astype("datetime64[D]")))
    start = int(day_bounds(opened)[0].timestamp()) // 60
    return data.totals(query, start, min(last, now) // NS_PER_MINUTE, names), now // NS_PER_MINUTE


def _hours(query: Query, dates: list[date]) -> list[Hours]:
    """Return the regular sessions of some dates, newest first."""
    if not dates:
        return []
    bounds = [int(bound.timestamp()) * 10**9 for bound in (day_bounds(dates[-1])[0], day_bounds(dates[0])[1])]
    known = {one.day: one for one in regular_sessions(query.asset, query.symbol, *bounds)}
    found = [known.get(day) for day in dates]
    return [
        Hours(day, None, None)
        if one is None
        else Hours(day, one.open // NS_PER_MINUTE, one.close // NS_PER_MINUTE)
        for day, one in zip(dates, found, strict=True)
    ]


def _day(day: Day, by: Day, measure: Measure, asset: str) -> SessionDay:
    """Return a day of the answer; `by` is the same day with the measure in place of volume."""
    scale = NOTIONAL_SCALE[asset]

    def net_fields(volume: int, premium: int, measured: int) -> dict[str, Any]:
        fields = {"net_volume": _whole(volume, asset), "net_premium": _usd(premium, scale)}
        return fields | {measure.field: measure.shown(numbers([measured]), asset)[0]}

    return SessionDay(
        date=str(day.hours.day),
        open=UNSET if day.hours.open is None else _instant(day.hours.open),
        close=UNSET if day.hours.close is None else _instant(day.hours.close),
        **net_fields(day.net, day.premium, by.net),
        high=measure.shown(numbers([by.high[0]]), asset)[0] if by.high else UNSET,
        high_ts=_instant(by.high[1]) if by.high else UNSET,
        low=measure.shown(numbers([by.low[0]]), asset)[0] if by.low else UNSET,
        low_ts=_instant(by.low[1]) if by.low else UNSET,
        parts=[
            SessionPart(
                part=part.name,
                since=_instant(part.start),
                until=_instant(part.end),
                **net_fields(part.net, part.premium, mine.net),
                mean_cumulative=UNSET if mine.mean is None else _mean(*mine.mean, measure.scale(asset)),
                absolute_share=_quotient(mine.absolute, max(by.absolute, 1), 10_000),
            )
            for part, mine in zip(day.parts, by.parts, strict=True)
        ],
    )


def _instant(minute: int) -> str:
    return instants(np.array([minute]))[0]


def _whole(volume: int, asset: str) -> int:
    return int(whole(numbers([volume]), asset)[0])


def _usd(value: int, scale: int) -> float:
    return decimals(numbers([value]), scale)[0]


def _mean(line: int, count: int, scale: int) -> float:
    """Return the mean of a line in contracts, shares or USD, to 2 decimals; `line` is the sum in the units of minute
    bars."""
    return _quotient(line, count * scale, 100)


def _quotient(numerator: int, denominator: int, scale: int) -> float:
    """Return the quotient rounded half to even to a decimal fraction of `scale`."""
    rounded = half_even(numbers([numerator * scale]), denominator)
    return decimals(rounded, scale)[0]
