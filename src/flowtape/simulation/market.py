"""A simulated market of options and their stocks: prints like those of OPRA and the stock exchanges, as a pure function
of a seed and time.

Time is divided into slices of ten minutes. The prints of a slice depend only on the market's settings and the slice's
number. Any stretch of any day can therefore be generated at any time, in any order, and is always the same. A print
reported late, and the cancel of an earlier print, stay within the slice of their print.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal

import numpy as np
import polars as pl

from flowtape.errors import UsageError
from flowtape.model.prints import NEW_YORK, day_bounds
from flowtape.simulation.chains import MAX_UNDERLYINGS, Chains, Ints, chains, underlyings
from flowtape.simulation.injected import EVERY, Effect
from flowtape.simulation.paths import prices_at
from flowtape.simulation.rows import SLICE_NS, Rows, between, frame, merged
from flowtape.simulation.slices import Slice
from flowtape.simulation.stocks import StockSlice

BATCH_ROWS = 250_000
MAX_PRINTS_PER_DAY = 1_000_000_000


def _day_shape(x: float) -> float:
    """Return the share of a day's prints reported by the share x of its session. The open and the close are busiest."""
    return (0.6 * x + 1.8 * (1 - (1 - x) ** 7) / 7 + x**9 / 9) / (0.6 + 1.8 / 7 + 1 / 9)


def to_ns(instant: datetime) -> int:
    """Return an instant with a time zone in ns UTC."""
    return int(instant.replace(microsecond=0).timestamp()) * 10**9 + instant.microsecond * 1000


def date_of(ns: int) -> date:
    """Return the New York date of an instant in ns UTC."""
    return datetime.fromtimestamp(ns // 10**9, NEW_YORK).date()


@dataclass(frozen=True, slots=True)
class Market:
    """A simulated market. Equal settings give equal prints, whenever and in whatever pieces they are generated.

    `prints_per_day` rows of options and `stock_prints_per_day` rows of stocks are reported in each session, with
    cancels. Neither number affects the rows of the other asset. `hours` is `session` (09:30–16:00 in New York, Monday
    to Friday) or `always` (each New York date is one session, midnight to midnight). `effects` are injected effects of
    known size.

    Raises:
        UsageError: a setting is out of range.
    """

    seed: int = 1
    """The seed of the random numbers."""
    underlyings: int = 40
    """The number of underlyings."""
    prints_per_day: int = 400_000
    """Rows of options in each session."""
    hours: Literal["session", "always"] = "session"
    """`session` (09:30–16:00 in New York, Monday to Friday) or `always`."""
    stock_prints_per_day: int = 400_000
    """Rows of stocks in each session."""
    effects: tuple[Effect, ...] = ()
    """Injected effects of known size."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed: {self.seed} is not in 0..{2**63 - 1}")
        if not 1 <= self.underlyings <= MAX_UNDERLYINGS:
            raise UsageError(f"underlyings: {self.underlyings} is not in 1..{MAX_UNDERLYINGS}")
        for name in ("prints_per_day", "stock_prints_per_day"):
            if not 0 <= getattr(self, name) <= MAX_PRINTS_PER_DAY:
                raise UsageError(f"{name}: {getattr(self, name)} is not in 0..{MAX_PRINTS_PER_DAY}")
        known = {EVERY, *underlyings(self.seed, self.underlyings).names} if self.effects else set()
        for effect in self.effects:
            if effect.symbol not in known:
                raise UsageError(
                    f"effect: {effect.symbol} is not one of the market's {self.underlyings} underlyings"
                )
        if self.hours not in ("session", "always"):
            raise UsageError(f"hours: {self.hours!r} is neither 'session' nor 'always'")

    def session(self, day: date) -> tuple[datetime, datetime] | None:
        """Return the UTC instants between which a New York date's prints are reported; None if it has no session."""
        if self.hours == "always":
            return day_bounds(day)
        if day.weekday() >= 5:
            return None
        opens, closes = (datetime.combine(day, at, NEW_YORK) for at in (time(9, 30), time(16)))
        return opens.astimezone(UTC), closes.astimezone(UTC)

    def prints(self, start: datetime, end: datetime, batch_rows: int = BATCH_ROWS) -> Iterator[pl.DataFrame]:
        """Yield the prints reported in [start, end), in order of report, in frames of `TAPE_SCHEMA`.

        Each frame has at most `batch_rows` rows, of one New York date. A print reported late has an earlier `ts` than
        its neighbours. Raises `UsageError` for an instant without a time zone or before 1970.
        """
        for name, instant in (("start", start), ("end", end)):
            if instant.tzinfo is None or instant.year < 1970:
                raise UsageError(f"{name}: {instant} must have a time zone and not lie before 1970")
        if batch_rows < 1:
            raise UsageError(f"batch_rows: {batch_rows} is less than 1")
        for pieces in batches(self.rows(to_ns(start), to_ns(end)), batch_rows):
            yield self.frame(pieces)

    def rows(self, start: int, end: int) -> Iterator[Rows]:
        """Yield the prints reported in [start, end) (ns UTC), as rows of one slice after another."""
        for number in range(start // SLICE_NS, -(-end // SLICE_NS)):
            made = self.slice(number)
            if made is not None:
                yield between(made, start, end)

    def slice(self, number: int) -> Rows | None:
        """Return all prints reported in the slice of a number, `ns // SLICE_NS`; None if there are none."""
        day = date_of(number * SLICE_NS)
        session = self.session(day)
        if session is None:
            return None
        opens, closes = map(to_ns, session)
        shares = [((number + ahead) * SLICE_NS - opens) / (closes - opens) for ahead in (0, 1)]
        low, high = (_day_shape(min(max(share, 0.0), 1.0)) for share in shares)
        listed = underlyings(self.seed, self.underlyings)
        parts: list[Rows] = []
        first, last = (int(self.prints_per_day * share) for share in (low, high))
        if last > first:
            listing, expires = _listing(self, day)
            part = Slice(self.seed, listed, number, first, last - first, self.effects, listing, expires)
            parts.append(part.rows())
        first, last = (int(self.stock_prints_per_day * share) for share in (low, high))
        if last > first:
            parts.append(StockSlice(self.seed, listed, number, first, last - first, self.effects).rows())
        return merged(parts) if parts else None

    def frame(self, pieces: Sequence[Rows]) -> pl.DataFrame:
        """Return rows of this market as one frame of `TAPE_SCHEMA`."""
        return frame(underlyings(self.seed, self.underlyings), pieces)


def batches(slices: Iterable[Rows], limit: int) -> Iterator[list[Rows]]:
    """Yield the same rows in groups of at most `limit`, each within one New York date."""
    held: list[Rows] = []
    count, until = 0, 0
    for rows in slices:
        reported = rows["reported"]
        for first in range(0, len(reported), limit):
            piece = {name: values[first : first + limit] for name, values in rows.items()}
            size = len(piece["reported"])
            start = int(reported[first])
            if held and (count + size > limit or start >= until):
                yield held
                held, count = [], 0
            if start >= until:
                until = to_ns(day_bounds(date_of(start))[1])
            held.append(piece)
            count += size
    if held:
        yield held


@lru_cache(maxsize=16)
def _listing(market: Market, day: date) -> tuple[Chains, Ints]:
    """Return a day's contracts, and the end of each expiry in ns UTC, shape (kinds, slots)."""
    listed = underlyings(market.seed, market.underlyings)
    listing = chains(listed, day, prices_at(market.seed, listed, _bounds(market, day)[0] // SLICE_NS))
    days, place = np.unique(listing.expiry, return_inverse=True)
    ends = [_bounds(market, date(1970, 1, 1) + timedelta(days=found))[1] for found in days.tolist()]
    return listing, np.array(ends, dtype=np.int64)[place]


def _bounds(market: Market, day: date) -> tuple[int, int]:
    """Return open and close in ns UTC of a day with a session. Days with prints and expiries have one, as no expiry is
    on a weekend."""
    session = market.session(day)
    assert session is not None  # noqa: S101
    return to_ns(session[0]), to_ns(session[1])
