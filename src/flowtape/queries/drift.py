"""`…/drift`: how far the flow of each symbol is from zero. The formula is in `orderflow.signals.drift`."""

from __future__ import annotations

from datetime import datetime

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from flowtape.cache.cache import MINUTES
from flowtape.cache.columns import look_up
from flowtape.model.calendar import sessions
from flowtape.model.prints import NEW_YORK
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE, SUMS, net
from flowtape.orderflow.signals import drift
from flowtape.queries.all_symbols import AllSymbols
from flowtape.queries.flow_data import FlowData
from flowtape.queries.leaders import asked_at, cross_section_minutes
from flowtape.queries.measures import MEASURES, Measure
from flowtape.queries.render.bodies import Made, Rows, Text
from flowtape.queries.render.numbers import NOTIONAL_SCALE, Ints, Numbers, decimals, stamp, stamps, whole

_DAY = 1440


class Drifter(msgspec.Struct, rename="camel", kw_only=True):
    """One symbol over the window. `z` compares with the same minutes of the day in `sessions` earlier sessions; it is
    absent when there are too few. `volume_z` is the net divided by the root of the sum of squared minute nets. `basis`
    names the one that ranks the symbol: `history` or `volume`."""

    symbol: str
    net_volume: int
    net_premium: float
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    trade_count: int
    z: float | UnsetType = UNSET
    sessions: int
    volume_z: float
    basis: str
    stretched: bool
    last_trade_utc: str


class Drifts(msgspec.Struct, rename="camel", kw_only=True):
    """Symbols ranked by the distance of their flow from zero, in net volume or the measure asked for. `tracked`
    symbols had a print in the window, `qualified` symbols had at least the least number of prints."""

    generated_utc: str
    right: Text = UNSET
    measure: Text = UNSET
    window_minutes: int
    tracked: int
    qualified: int
    limit: int
    drift: list[Drifter]


def drift_answer(data: FlowData, query: Query) -> Made:
    """Return the body of `…/drift`: the largest score first, equal scores in order of symbol."""
    start, end = cross_section_minutes(data, query)
    measure = MEASURES[query.measure or "volume"]
    section = data.all_symbols(query, start, end, SUMS, measure.kind, directional=measure.directional)
    signed, trades = measure.of_all(section, query.filter.right), section.sums["trades"]
    past_net, past_squares = _past(data, query, section, start, end)
    measured = drift(signed, _squares(section, measure), past_net, past_squares)
    qualified = trades >= query.min_trades
    places = np.flatnonzero(qualified)
    places = places[np.argsort(-np.abs(measured.score[places]), kind="stable")][: query.limit]
    own = measured.has_z[places].tolist()
    z = decimals(measured.z[places], 100)
    columns = {
        "symbol": [section.symbols[place] for place in places.tolist()],
        "net_volume": whole(net(section.sums, "volume")[places], query.asset).tolist(),
        "net_premium": decimals(net(section.sums, "notional")[places], NOTIONAL_SCALE[query.asset]),
        measure.field: measure.shown(signed[places], query.asset),
        "trade_count": trades[places].tolist(),
        "z": [value if known else UNSET for value, known in zip(z, own, strict=True)],
        "sessions": [len(past_net)] * len(own),
        "volume_z": decimals(measured.volume_z[places], 100),
        "basis": ["history" if known else "volume" for known in own],
        "stretched": measured.stretched[places].tolist(),
        "last_trade_utc": stamps(section.details(places).last_ts, "s"),
    }
    body = Drifts(
        generated_utc=stamp(asked_at(data, query), "s"),
        right=query.filter.right or UNSET,
        measure=query.measure or UNSET,
        window_minutes=query.minutes,
        tracked=len(section.numbers),
        qualified=int(qualified.sum()),
        limit=query.limit,
        drift=Rows(Drifter, columns),
    )
    return Made(body, section.as_of)


def _past(data: FlowData, query: Query, section: AllSymbols, start: int, end: int) -> tuple[Ints, Numbers]:
    """Return each symbol's net, and its sum of squares, over the same minutes of the day in earlier sessions.

    Both have the shape (sessions, symbols). A session without any print is left out. A symbol without a print has 0.
    """
    measure = MEASURES[query.measure or "volume"]
    by_number = np.argsort(section.numbers)
    numbers = section.numbers[by_number]
    nets: list[Numbers] = []
    squares: list[Numbers] = []
    for shift in _shifts(start, end) if len(numbers) else ():
        past = data.all_symbols(
            query,
            start + shift,
            end + shift,
            (*measure.sums, "trades"),
            measure.kind,
            directional=measure.directional,
        )
        if len(past.numbers):
            take, place = look_up(past.numbers, numbers)
            put = by_number[place]
            for rows, values in (
                (nets, measure.of_all(past, query.filter.right)),
                (squares, _squares(past, measure)),
            ):
                row = np.zeros(len(numbers), values.dtype)
                row[put] = values[take]
                rows.append(row)
    none = np.empty((0, len(numbers)), np.int64)
    return (np.stack(nets), np.stack(squares)) if nets else (none, none)


def _squares(section: AllSymbols, measure: Measure) -> Numbers:
    return section.squares(measure.kind, directional=measure.directional)


def _shifts(start: int, end: int) -> list[int]:
    """Return the shifts in minutes from a window to the same New York clock times of the earlier sessions of the last
    seven days.

    A window longer than a day has none, since it would overlap itself.
    """
    if end - start > _DAY:
        return []
    last = datetime.fromtimestamp((end - 1) * 60, NEW_YORK)
    known = sessions("stock", "", (end - MINUTES) * NS_PER_MINUTE, (end - 1) * NS_PER_MINUTE)
    same = [
        int(datetime.combine(one.day, last.time(), NEW_YORK).timestamp()) // 60
        for one in known
        if one.day < last.date()
    ]
    return [minute - (end - 1) for minute in same if minute - (end - 1) + start >= end - MINUTES]
