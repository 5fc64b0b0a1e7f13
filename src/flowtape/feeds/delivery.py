"""The name, the cursor and the deliveries of a vendor's feed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import polars as pl

from flowtape.errors import FeedError
from flowtape.feeds.base import Delivery, Outlet
from flowtape.feeds.limits import Limits
from flowtape.feeds.quote_join import LiveJoin
from flowtape.feeds.rows import Rows
from flowtape.model.prints import SCHEMA


def name_of(prefix: str, wanted: Sequence[str]) -> str:
    """Return the name of a feed: the first symbol, and a digest of all symbols if there are more."""
    digest = hashlib.sha256(",".join(sorted(wanted)).encode()).hexdigest()[:8]
    more = f"+{len(wanted) - 1}-{digest}" if wanted[1:] else ""
    return f"{prefix}:{wanted[0]}{more}"


def place_of(cursor: str | None, title: str) -> int | None:
    """Return the time (ns) that a vendor's cursor means. Raises `FeedError` if it is not a time."""
    if cursor is not None and not cursor.isdecimal():
        raise FeedError(f"the stored cursor {cursor!r} is not one of {title}")
    return None if cursor is None else int(cursor)


def begin(outlet: Outlet, place: int) -> None:
    """Deliver the time (ns) at which a feed without a cursor begins, so that a gap before the first print is fetched
    after a break too."""
    outlet.put(Delivery(pl.DataFrame(schema=SCHEMA), str(place)))


class Joined:
    """Joins trades with their quotes and delivers the prints. The cursor is the floor of the join."""

    def __init__(self, finish: Callable[[pl.DataFrame, Outlet], pl.DataFrame], limits: Limits) -> None:
        """Take `finish`, which makes prints (`prints.SCHEMA`) from trades with quotes."""
        self._join = LiveJoin(limits.horizon, limits.advance_every)
        self._finish, self._told = finish, (0, 0)

    def restore(self, standing: pl.DataFrame) -> None:
        """Restore the quotes that were stored with the cursor (`quotes.STANDING`)."""
        self._join.restore(standing)

    def put(self, rows: Rows, outlet: Outlet) -> None:
        """Add rows, and deliver the prints that are new or have a later quote."""
        self._join.add_quotes(rows.quotes)
        self._join.add_trades(rows.trades)
        due, standing = self._join.due(), self._join.advance()
        told = (self._join.late, self._join.late_trades)
        for what, now, before in zip(("late quotes", "late trades"), told, self._told, strict=True):
            if now > before:
                outlet.count(what, now - before)
        self._told = told
        cancels = rows.cancels if rows.cancels is not None else due.clear()
        if due.height or cancels.height or standing is not None:
            # The join learns its columns from the first trade.
            found = [self._finish(frame, outlet) for frame in (due, cancels) if frame.height]
            prints = pl.concat(found) if found else pl.DataFrame(schema=SCHEMA)
            # A cancel can precede all trades. Then the join has no floor yet.
            place = cancels["ts"].to_physical().min() if self._join.floor is None else self._join.floor
            outlet.put(Delivery(prints, str(place), standing))
