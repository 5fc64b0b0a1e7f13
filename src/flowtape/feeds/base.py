"""What a live source is: it delivers prints, each delivery with a cursor, to an outlet that bounds what waits."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import Protocol

import polars as pl

from flowtape.feeds.backlog import Backlog


@dataclass(frozen=True, slots=True)
class Delivery:
    """Prints in `prints.SCHEMA`, in any order, and what to keep with them.

    `cursor` is the place to go on from once this delivery and all before it are kept; the feed alone knows what it
    means. `standing` has the quotes that changed since they were last given (`STANDING`), None where a feed joins
    no quotes. The same row may be given again with a later quote (`quote_ts`): it takes the place of the former.
    `backlog` says what is still missing once this delivery is kept, None where that has not changed.
    """

    prints: pl.DataFrame
    cursor: str
    standing: pl.DataFrame | None = None
    backlog: Backlog | None = None


class Outlet(Protocol):
    """Where a feed puts what it gets. May be used from any thread."""

    stop: Event
    """Set when the feed shall end."""

    def put(self, delivery: Delivery) -> None:
        """Hand over a delivery; waits while too much is queued, so that the source is slowed and nothing dropped.
        Counts as a sign of life."""

    def heard(self) -> None:
        """A sign of life: a heartbeat, a pong, any message."""

    def count(self, what: str, many: int = 1) -> None:
        """Tell of something left out or out of the ordinary (`late quotes`, `messages not understood`); counted,
        shown in the metrics and logged."""


class Feed(Protocol):
    """A live source. One object for the life of the process; `run` is one connection.

    Attributes: `source` as prints are filed under (that of the vendor's files only where a print is the same row in
    both); `name` for logs, metrics and the kept cursor (no credentials, and the same from start to start); `assets` it
    brings (`option`, `stock`); `symbols` it is limited to (empty: all), by which the calendar tells whether it must
    speak; `always_open`: it must at any time; `ends`: after `run` there is no more.
    """

    source: str
    name: str
    assets: frozenset[str]
    symbols: tuple[str, ...]
    always_open: bool
    ends: bool

    def restore(self, standing: pl.DataFrame) -> None:
        """Called once, before the first `run` of a process that goes on where another left: the quotes kept with
        the cursor."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Connect, fill the gap since `cursor` (None: begin now, or where the feed's arguments say), deliver until
        `outlet.stop` is set or the connection ends.

        Raises `FeedError` where the connection failed or broke (the caller waits and calls again, with the cursor
        of the last delivery), `UsageError` where trying again cannot help (a wrong key, an unknown argument).
        """
