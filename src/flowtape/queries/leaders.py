"""`…/leaderboard` and `…/outliers`: all symbols of an asset ranked by net flow."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from flowtape.model.exact import times
from flowtape.model.prints import PRICE_SCALE
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import gross, net
from flowtape.queries.all_symbols import AllSymbols
from flowtape.queries.flow import volume_columns
from flowtape.queries.flow_data import FlowData
from flowtape.queries.measures import MEASURES
from flowtape.queries.render.bodies import Made, Rows, Text
from flowtape.queries.render.numbers import (
    NOTIONAL_SCALE,
    Ints,
    Numbers,
    decimals,
    half_even,
    past_minutes,
    stamp,
    stamps,
    vwap,
    whole,
    window_minutes,
)

_NS = 10**9
_SKEWS = ((6000, "STRONG_"), (3000, ""), (1000, "MILD_"))
"""The least imbalance, in hundredths of a per cent, of each grade, and the prefix of its name."""


class Leader(msgspec.Struct, rename="camel", kw_only=True):
    """One symbol over the window. `net_notional` is in USD. The volume-weighted average price in USD per share is
    called `avg_premium` for options and `vwap` for stocks."""

    symbol: str
    net_volume: int
    net_notional: float
    net_premium: float | UnsetType = UNSET
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    buy_volume: int
    sell_volume: int
    avg_premium: float | UnsetType = UNSET
    vwap: float | UnsetType = UNSET
    trade_count: int
    last_trade_utc: str


class Leaderboard(msgspec.Struct, rename="camel", kw_only=True):
    """The symbols with the largest net buying and net selling, by net notional or by the measure asked for."""

    generated_utc: str
    right: Text = UNSET
    measure: Text = UNSET
    n: int
    window_minutes: int
    buyers: list[Leader]
    sellers: list[Leader]


class Outlier(msgspec.Struct, rename="camel", kw_only=True):
    """One symbol over the window. Notionals and prices are in USD, ages in whole seconds. `last_vwap` is of the last
    minute with a print."""

    symbol: str
    trade_count: int
    buy_volume: int
    sell_volume: int
    mid_volume: int
    net_volume: int
    imbalance_pct: float
    skew: str
    notional: float
    net_notional: float
    net_premium: float | UnsetType = UNSET
    net_directional: int | UnsetType = UNSET
    net_directional_premium: float | UnsetType = UNSET
    biggest_trade: int
    biggest_trade_utc: str
    biggest_age_sec: int
    last_vwap: float
    last_trade_utc: str
    last_trade_age_sec: int


class Outliers(msgspec.Struct, rename="camel", kw_only=True):
    """Symbols by the size of their net notional, or of the measure asked for. `tracked` symbols had a print in the
    window, `qualified` symbols had at least the least number of prints."""

    generated_utc: str
    right: Text = UNSET
    measure: Text = UNSET
    window_minutes: int
    tracked: int
    qualified: int
    limit: int
    outliers: list[Outlier]


def leaderboard(data: FlowData, query: Query) -> Made:
    """Return the body of `…/leaderboard`."""
    section = data.all_symbols(query, *cross_section_minutes(data, query))
    signed = _measured(query, section)
    body = Leaderboard(
        generated_utc=stamp(asked_at(data, query), "s"),
        right=query.filter.right or UNSET,
        measure=query.measure or UNSET,
        n=query.limit,
        window_minutes=query.minutes,
        buyers=_leaders(query, section, signed, _largest(signed, signed > 0, query.limit)),
        sellers=_leaders(query, section, signed, _largest(-signed, signed < 0, query.limit)),
    )
    return Made(body, section.as_of)


def outliers(data: FlowData, query: Query) -> Made:
    """Return the body of `…/outliers`."""
    section = data.all_symbols(query, *cross_section_minutes(data, query))
    qualified = (section.sums["trades"] >= query.min_trades) & (gross(section.sums, "volume") > 0)
    signed = _measured(query, section)
    chosen = _largest(np.abs(signed), qualified, query.limit)
    body = Outliers(
        generated_utc=stamp(asked_at(data, query), "s"),
        right=query.filter.right or UNSET,
        measure=query.measure or UNSET,
        window_minutes=query.minutes,
        tracked=len(section.symbols),
        qualified=int(qualified.sum()),
        limit=query.limit,
        outliers=_outliers(query, section, signed, chosen, asked_at(data, query)),
    )
    return Made(body, section.as_of)


def _measured(query: Query, section: AllSymbols) -> Numbers:
    """Return the number that ranks each symbol: the net of the measure asked for, else net notional."""
    return MEASURES[query.measure or "premium"].of_all(section, query.filter.right)


def _shown(query: Query, signed: Numbers) -> dict[str, list[Any]]:
    """Return the column of the measure asked for, nothing without one."""
    if query.measure is None:
        return {}
    measure = MEASURES[query.measure]
    return {measure.field: measure.shown(signed, query.asset)}


def asked_at(data: FlowData, query: Query) -> int:
    """Return the instant of an answer in ns UTC: `at`, or now."""
    return data.now if query.at is None else query.at


def cross_section_minutes(data: FlowData, query: Query) -> tuple[int, int]:
    """Return the window [start, end) of a cross-section in minutes since 1970 UTC."""
    if query.at is None:
        return window_minutes(data.now, query.minutes)
    return past_minutes(query.at, query.minutes)


def _largest(by: Numbers, among: np.ndarray[tuple[int], np.dtype[np.bool_]], most: int) -> Ints:
    """Return the indices of the `most` largest values, largest first, equal values in order of symbol."""
    places = np.flatnonzero(among)
    order: Ints = places[np.argsort(-by[places], kind="stable")][:most]
    return order


def _leaders(query: Query, section: AllSymbols, signed: Numbers, places: Ints) -> Rows[Leader]:
    sums = {name: values[places] for name, values in section.sums.items()}
    average = decimals(vwap(gross(sums, "notional"), gross(sums, "volume")), PRICE_SCALE)
    columns = {
        "symbol": [section.symbols[place] for place in places.tolist()],
        **volume_columns(sums, query.asset),
        "net_notional": decimals(net(sums, "notional"), NOTIONAL_SCALE[query.asset]),
        **_shown(query, signed[places]),
        "avg_premium" if query.asset == "option" else "vwap": average,
        "trade_count": sums["trades"].tolist(),
        "last_trade_utc": stamps(section.details(places).last_ts, "s"),
    }
    return Rows(Leader, columns)


def _outliers(query: Query, section: AllSymbols, signed: Numbers, places: Ints, now: int) -> Rows[Outlier]:
    sums = {name: values[places] for name, values in section.sums.items()}
    details, scale = section.details(places), NOTIONAL_SCALE[query.asset]
    imbalance = signed_imbalance(sums["buy_volume"], sums["sell_volume"])
    columns = {
        "symbol": [section.symbols[place] for place in places.tolist()],
        "trade_count": sums["trades"].tolist(),
        **volume_columns(sums, query.asset),
        "imbalance_pct": decimals(np.abs(imbalance), 100),
        "skew": [skew(hundredths) for hundredths in imbalance.tolist()],
        "notional": decimals(gross(sums, "notional"), scale),
        "net_notional": decimals(net(sums, "notional"), scale),
        **_shown(query, signed[places]),
        "biggest_trade": whole(details.biggest, query.asset).tolist(),
        "biggest_trade_utc": stamps(details.biggest_ts, "s"),
        "biggest_age_sec": _ages(now, details.biggest_ts),
        "last_vwap": decimals(vwap(details.last_notional, details.last_volume), PRICE_SCALE),
        "last_trade_utc": stamps(details.last_ts, "s"),
        "last_trade_age_sec": _ages(now, details.last_ts),
    }
    return Rows(Outlier, columns)


def signed_imbalance(buy: Ints, sell: Ints) -> Ints:
    """Return 100·(buy − sell)/(buy + sell) in hundredths of a per cent, rounded half to even; 0 where both are 0."""
    return half_even(times(buy - sell, 10_000), np.maximum(buy + sell, 1)).astype(np.int64)


def skew(imbalance: int) -> str:
    """Return the name of an imbalance given in hundredths of a per cent; positive imbalances are buys."""
    for least, name in _SKEWS:
        if abs(imbalance) >= least:
            return name + ("BUY" if imbalance > 0 else "SELL")
    return "FLAT"


def _ages(now: int, ts: Ints) -> list[int]:
    """Return the whole seconds since each instant; 0 for an instant after `now`, since −1 stands for "none"."""
    ages: list[int] = np.maximum((now - ts) // _NS, 0).tolist()
    return ages
