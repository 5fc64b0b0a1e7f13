"""What an answer is asked of: one symbol's prints or all symbols', a span of time, and what is left out.

Plain values, equal when they mean the same, so that a query is also the name its answer is kept under.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec

DateRange = tuple[date, date]
"""First and last date, both included."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which prints count, besides those the contract leaves out for everyone. `None` and `()` let all pass.

    `expiries` are ranges of dates, sorted, not overlapping. `dte` is days from a print's trading day to its
    expiry, `strike` 1/10,000 USD; first and last are included in both. `exclude` holds names of condition
    families, sorted.
    """

    right: Literal["C", "P"] | None = None
    expiries: tuple[DateRange, ...] = ()
    dte: tuple[int, int] | None = None
    strike: tuple[int, int] | None = None
    exclude: tuple[str, ...] = ()
    side: Literal["buy", "sell"] | None = None

    @property
    def by_print(self) -> bool:
        """Whether minute bars do not tell: they keep only rights apart, so all else is answered from prints."""
        return self != Filter(right=self.right)


EVERYTHING = Filter()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A request to one route; each route uses a part. Instants are ns since 1970, UTC.

    `echo` is the filters as asked, (name, text) in the order expiry, right, dte, strike, exclude, side; what
    they mean is in `filter`. `minutes` is the window's length, `limit` the most rows of an answer (`n` of a
    leaderboard). `since` and `until` are the bounds asked for by `from` and `to` in place of `minutes`, and
    `cursor` is the minute since 1970 such an answer goes on from. `measure` None is the route's own, `split` says that
    calls and puts are shown apart. `lookback` is the minutes of a slope, `days` the
    trading days of an answer.
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
