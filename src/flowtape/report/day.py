"""The data of a report: the API's own answers for a symbol's day, at the end of that day."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any, Literal

import msgspec
import polars as pl

from flowtape import queries
from flowtape.errors import UsageError
from flowtape.model.prints import PRICE_SCALE, SIZE_SCALE, day_bounds
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.pipeline.provenance import SIMULATED
from flowtape.queries import Cumulative, Divergence, Sessions, Summary, TurningPoints
from flowtape.queries.flow_data import FlowData, Span
from flowtape.storage import Store

TURNS = 6
LARGEST = 12


class Large(msgspec.Struct):
    """A large print. Strike and price are in USD, size in whole contracts or shares; `contract` is None for stocks."""

    ts: datetime
    contract: tuple[date, float, str] | None
    price: float
    size: int
    side: str


class Day(msgspec.Struct):
    """The answers for a symbol's trading day, and its largest prints, largest first."""

    symbol: str
    asset: str
    day: date
    simulated: bool
    line: Cumulative
    divergence: Divergence
    turns: TurningPoints
    sessions: Sessions
    summary: Summary
    largest: list[Large]


def read_day(
    store: Store, symbol: str, asset: Literal["option", "stock"], day: date, max_quote_age: timedelta | None
) -> Day:
    """Return a symbol's trading day (New York date) from a store. Raises `UsageError` if the day is not stored."""
    kept = store.sources().filter(pl.col("asset") == asset, pl.col("symbol") == symbol)
    mine = kept.filter(pl.col("day") == day)
    if mine.is_empty():
        days = ", ".join(str(one) for one in kept["day"].sort(descending=True).head(5)) or "no day"
        raise UsageError(f"day: of {symbol} ({asset}) {day} is not kept; newest are {days}")
    start, end = (int(bound.timestamp()) * 10**9 for bound in day_bounds(day))
    data = FlowData(store, None, end, max_quote_age)
    query = Query(asset=asset, symbol=symbol, at=end, minutes=(end - start) // NS_PER_MINUTE, lookback=30)

    def body(made: queries.Made) -> Any:
        return made.body

    return Day(
        symbol=symbol,
        asset=asset,
        day=day,
        simulated=SIMULATED in mine["source"],
        line=body(queries.cumulative(data, query)),
        divergence=body(queries.divergence_answer(data, query)),
        turns=body(queries.turning_points_answer(data, _with(query, limit=TURNS))),
        sessions=body(queries.sessions_answer(data, _with(query, days=1))),
        summary=body(queries.summary(data, query)),
        largest=_largest(data, query, start, end),
    )


def _with(query: Query, **changes: Any) -> Query:
    return msgspec.structs.replace(query, **changes)


def _largest(data: FlowData, query: Query, start: int, end: int) -> list[Large]:
    return [
        Large(
            row["ts"],
            (row["expiry"], row["strike"] / PRICE_SCALE, row["right"]) if query.asset == "option" else None,
            row["price"] / PRICE_SCALE,
            round(Fraction(row["size"], SIZE_SCALE[query.asset])),
            row["side"],
        )
        for row in data.largest(query, Span(start, end), LARGEST).iter_rows(named=True)
    ]
