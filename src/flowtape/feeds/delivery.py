"""How a feed of any vendor is named, where it goes on, and how it delivers joined prints."""

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
    """The name of a feed: the first symbol, and a digest of all where there are more."""
    digest = hashlib.sha256(",".join(sorted(wanted)).encode()).hexdigest()[:8]
    more = f"+{len(wanted) - 1}-{digest}" if wanted[1:] else ""
    return f"{prefix}:{wanted[0]}{more}"


def place_of(cursor: str | None, title: str) -> int | None:
    """The time (ns) that a cursor of a vendor stands for. Raises `FeedError` where it is no time."""
    if cursor is not None and not cursor.isdecimal():
        raise FeedError(f"the kept cursor {cursor!r} is not one of {title}")
    return None if cursor is None else int(cursor)


def begin(outlet: Outlet, place: int) -> None:
    """Deliver the place (ns) where a feed without a cursor begins. So what happens before the first print is fetched
    after a break, too."""
    outlet.put(Delivery(pl.DataFrame(schema=SCHEMA), str(place)))


class Joined:
    """Joins trades with their quotes and delivers the prints. The cursor is the floor of the join."""

    def __init__(self, finish: Callable[[pl.DataFrame, Outlet], pl.DataFrame], limits: Limits) -> None:
        """`finish` makes prints (`prints.SCHEMA`) of trades that have their quotes."""
        self._join = LiveJoin(limits.horizon, limits.settle_every)
        self._finish, self._told = finish, (0, 0)

    def restore(self, standing: pl.DataFrame) -> None:
        """See `base.Feed.restore`."""
        self._join.restore(standing)

    def put(self, rows: Rows, outlet: Outlet) -> None:
        """Take rows, and deliver the prints that are new or have a later quote."""
        self._join.add_quotes(rows.quotes)
        self._join.add_trades(rows.trades)
        due, standing = self._join.due(), self._join.settle()
        told = (self._join.late, self._join.late_trades)
        for what, now, before in zip(("late quotes", "late trades"), told, self._told, strict=True):
            if now > before:
                outlet.count(what, now - before)
        self._told = told
        cancels = rows.cancels if rows.cancels is not None else due.clear()
        if due.height or cancels.height or standing is not None:
            # Before the first trade the join does not know its columns.
            found = [self._finish(frame, outlet) for frame in (due, cancels) if frame.height]
            prints = pl.concat(found) if found else pl.DataFrame(schema=SCHEMA)
            # A cancel may be the first row of all, before the join has a place.
            place = cancels["ts"].to_physical().min() if self._join.floor is None else self._join.floor
            outlet.put(Delivery(prints, str(place), standing))
