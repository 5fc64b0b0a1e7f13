"""The simulated market as a live feed: `simulate:?seed=1&underlyings=40`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.backlog import FOREVER, Backlog
from flowtape.feeds.base import Delivery, Outlet
from flowtape.feeds.specs import Spec
from flowtape.model.clock import Clock
from flowtape.model.prints import arranged, day_bounds
from flowtape.simulation import tape
from flowtape.simulation.market import date_of, to_ns
from flowtape.simulation.rows import SLICE_NS, Rows, between
from flowtape.simulation.tape import LiveFeed, Market

DAYS = 7
BATCH_ROWS = 125_000
"""Past prints of one delivery. Fewer cost more processor time, more cost more memory."""
_NS_PER_DAY = 86_400 * 10**9
_OPTIONS = ("seed", "underlyings", "prints_per_day", "stock_prints_per_day")
Stretch = tuple[int, int]
"""Instants [start, end) in ns UTC."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The cursor of a simulated feed: everything reported up to `until` (ns UTC, inclusive) is delivered, except the
    stretches that are `missing`, newest first."""

    until: int
    missing: tuple[Stretch, ...] = ()

    @classmethod
    def of(cls, cursor: str) -> Reached:
        """Return a parsed cursor. Raises `FeedError`."""
        until, *stretches = cursor.split()
        try:
            pairs = [stretch.split("-") for stretch in stretches]
            return cls(int(until), tuple((int(start), int(end)) for start, end in pairs))
        except ValueError:
            raise FeedError(f"the stored cursor {cursor!r} is not one of a simulated market") from None

    def __str__(self) -> str:
        return " ".join([str(self.until), *(f"{start}-{end}" for start, end in self.missing)])


class SimulatedFeed:
    """A simulated market: seven past New York dates, the newest first, and new prints as they are reported. The market
    is always open."""

    source = name = LiveFeed.source
    assets = frozenset({"option", "stock"})
    symbols: tuple[str, ...] = ()
    always_open = True
    ends = False

    def __init__(self, market: Market, clock: Clock, batch_rows: int = BATCH_ROWS) -> None:
        self._market, self._clock, self._batch_rows = market, clock, batch_rows

    def restore(self, standing: pl.DataFrame) -> None:
        """Do nothing: the prints have their quotes."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Deliver prints, as `feeds.base.Feed.run` defines; the cursor is a `Reached`.

        The present date is delivered first, then older ones, newest first, with new prints in between.
        """
        now = self._clock.now_ns()
        reached = None if cursor is None else Reached.of(cursor)
        pieces = _by_date(_missing(reached, now))
        until = now if reached is None else max(now, reached.until)
        live = LiveFeed(self._market, self._clock, until, stop=outlet.stop)
        total = sum(end - start for start, end in pieces)
        for prints, missing in self._past(pieces):
            if outlet.stop.is_set():
                return
            backlog = _backlog(missing, total, now)
            if backlog.end == FOREVER:
                outlet.put(Delivery(prints, str(Reached(live.cursor, missing)), backlog=backlog))
            else:
                # The present date is complete once the prints reported meanwhile are delivered too.
                outlet.put(Delivery(prints, str(Reached(live.cursor, missing))))
                self._deliver(outlet, live.due(), missing, backlog)
        self._deliver(outlet, live)

    def _past(self, pieces: list[Stretch]) -> Iterator[tuple[pl.DataFrame, tuple[Stretch, ...]]]:
        """Yield the prints reported in some stretches, with the stretches still missing after each; at least once."""
        left = tuple(pieces)
        if not left:
            yield arranged(self._market.frame([])), ()
        while left:
            (start, end), rest = left[0], left[1:]
            rows, upto = self._rows(start, end)
            left = ((upto, end), *rest) if upto < end else rest
            yield arranged(self._market.frame(rows)), left

    def _rows(self, start: int, end: int) -> tuple[list[Rows], int]:
        """Return slices from a stretch's start on, of about `batch_rows` rows, and the instant at which they end."""
        held, count = list[Rows](), 0
        number = start // SLICE_NS
        while number * SLICE_NS < end and count < self._batch_rows:
            made = self._market.slice(number)
            if made is not None:
                held.append(between(made, start, end))
                count += len(held[-1]["reported"])
            number += 1
        return held, min(number * SLICE_NS, end)

    @staticmethod
    def _deliver(
        outlet: Outlet,
        deliveries: Iterable[tape.Delivery],
        missing: tuple[Stretch, ...] = (),
        backlog: Backlog | None = None,
    ) -> None:
        for delivery in deliveries:
            outlet.heard()
            if delivery.prints.height or backlog is not None:
                cursor = str(Reached(delivery.cursor, missing))
                outlet.put(Delivery(arranged(delivery.prints), cursor, backlog=backlog))


def _missing(reached: Reached | None, now: int) -> list[Stretch]:
    """Return the stretches to deliver, newest first, up to `now` (ns UTC, inclusive)."""
    first = _start_of(now - DAYS * _NS_PER_DAY)
    if reached is None:
        return [(first, now + 1)]
    # The date of the cursor is completed, whatever its age. Later dates that have left the window are not delivered.
    begun = min(_start_of(reached.until, 1), now + 1)
    gap = [(reached.until + 1, begun), (max(begun, first), now + 1)]
    return [*((start, end) for start, end in reversed(gap) if start < end), *reached.missing]


def _by_date(stretches: list[Stretch]) -> list[Stretch]:
    """Return the same stretches split by New York dates, newest first."""
    parted: list[Stretch] = []
    for start, end in stretches:
        at = start
        while at < end:
            stop = min(_start_of(at, 1), end)
            parted.append((at, stop))
            at = stop
    return sorted(parted, reverse=True)


def _start_of(ns: int, later: int = 0) -> int:
    """Return the instant (ns UTC) at which the New York date of an instant begins, or, with `later` 1, ends."""
    return to_ns(day_bounds(date_of(ns))[later])


def _backlog(missing: tuple[Stretch, ...], total: int, now: int) -> Backlog:
    if not missing:
        return Backlog(1.0)
    # A print happens in the slice in which it is reported.
    start = min(start for start, _ in missing) // SLICE_NS * SLICE_NS
    end = max(end for _, end in missing)
    left = sum(end - start for start, end in missing)
    return Backlog(1 - left / max(total, 1), start, FOREVER if end > now else end)


def simulated(spec: Spec, clock: Clock) -> SimulatedFeed:
    """Return the feed of a spec. Raises `UsageError`."""
    spec.refuse_others(*_OPTIONS)
    if spec.target:
        raise UsageError(f"--feed {spec.text}: {spec.target!r} after simulate: means nothing")
    seed, underlyings, options, stocks = (
        int(spec.number(name, default, 0, 10**9))
        for name, default in zip(_OPTIONS, (1, 40, 400_000, 100_000), strict=True)
    )
    market = Market(seed, underlyings, options, hours="always", stock_prints_per_day=stocks)
    return SimulatedFeed(market, clock)
