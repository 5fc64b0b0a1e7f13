"""The simulated market as a feed: `simulate:?seed=1&underlyings=40`."""

from __future__ import annotations

import polars as pl

from flowtape.errors import UsageError
from flowtape.feeds.live import Delivery, Outlet
from flowtape.feeds.simulate import Clock, LiveFeed, Market
from flowtape.feeds.specs import Spec
from flowtape.prints import conform

DAYS = 7
_NS_PER_DAY = 86_400 * 10**9
_OPTIONS = ("seed", "underlyings", "prints_per_day", "stock_prints_per_day")


class SimulatedFeed:
    """Seven past days of a simulated market first, then its prints as they come. Its market never closes."""

    source = name = LiveFeed.source
    assets = frozenset({"option", "stock"})
    symbols: tuple[str, ...] = ()
    always_open = True
    ends = False

    def __init__(self, market: Market, clock: Clock) -> None:
        self._market, self._clock = market, clock

    def restore(self, standing: pl.DataFrame) -> None:
        """Nothing: its prints carry their quotes."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """See `live.Feed.run`; the cursor is the instant (ns UTC) up to which all was delivered."""
        since = self._clock.now_ns() - DAYS * _NS_PER_DAY
        start = since if cursor is None else max(int(cursor), since)
        for delivery in LiveFeed(self._market, self._clock, start, stop=outlet.stop):
            outlet.heard()
            if delivery.prints.height:
                outlet.put(Delivery(conform(delivery.prints), str(delivery.cursor)))


def simulated(spec: Spec, clock: Clock) -> SimulatedFeed:
    """The feed of a spec. Raises `UsageError`."""
    spec.refuse_others(*_OPTIONS)
    if spec.target:
        raise UsageError(f"--feed {spec.text}: {spec.target!r} after simulate: means nothing")
    seed, underlyings, options, stocks = (
        int(spec.number(name, default, 0, 10**9))
        for name, default in zip(_OPTIONS, (1, 40, 400_000, 100_000), strict=True)
    )
    market = Market(seed, underlyings, options, hours="always", stock_prints_per_day=stocks)
    return SimulatedFeed(market, clock)
