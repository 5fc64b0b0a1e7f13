"""The parameters of a query: the symbol, the span of time and the filter.

They are plain values. Queries with the same meaning are equal, so a query is also the cache key of its answer.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec

DateRange = tuple[date, date]
"""First and last date, both included."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """The prints that a query includes, of those that the contract includes. `None` and `()` include all.

    `expiries` are sorted date ranges that do not overlap. `dte` is the days from a print's trading day to its expiry,
    `strike` is in 1/10,000 USD; both ends are included. `exclude` holds the names of condition families, sorted.
    """

    right: Literal["C", "P"] | None = None
    expiries: tuple[DateRange, ...] = ()
    dte: tuple[int, int] | None = None
    strike: tuple[int, int] | None = None
    exclude: tuple[str, ...] = ()
    side: Literal["buy", "sell"] | None = None

    @property
    def by_print(self) -> bool:
        """Return whether the filter needs prints. Minute bars can only be filtered by right."""
        return self != Filter(right=self.right)


EVERYTHING = Filter()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A request to one route; each route uses some of the fields. Instants are ns since 1970, UTC.

    `echo` holds the filters as the client wrote them, (name, text), in the order expiry, right, dte, strike, exclude,
    side; `filter` holds their meaning. `minutes` is the length of the window. `limit` is the largest number of rows of
    an answer (`n` of a leaderboard). `since` and `until` are the bounds `from` and `to`, which replace `minutes`;
    `cursor` is the minute since 1970 at which the next part of such an answer begins. With `measure` None the route
    uses its own. `split` shows calls and puts apart. `lookback` is the minutes of a slope, `days` the number of trading
    days in an answer.
    """

    asset: Literal["option", "stock"] = "option"
    symbol: str = ""
    filter: Filter = EVERYTHING
    echo: tuple[tuple[str, str], ...] = ()
    minutes: int = 0
    at: int | None = None
    since: int | None = None
    until: int | None = None
    cursor: int | None = None
    measure: Literal["volume", "premium", "directional", "directional_premium"] | None = None
    split: bool = False
    anchor: Literal["window", "session"] = "window"
    quality: bool = False
    limit: int = 0
    min_size: int = 0
    min_trades: int = 0
    resolution: str = ""
    lookback: int = 0
    days: int = 0
