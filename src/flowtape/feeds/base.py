"""The interface of a live feed: it delivers prints, each delivery with a cursor, to an outlet with a bounded queue."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import Protocol

import polars as pl

from flowtape.feeds.backlog import Backlog


@dataclass(frozen=True, slots=True)
class Delivery:
    """Prints in `prints.SCHEMA`, in any order, and the state to store with them.

    `cursor` is where the feed resumes once this delivery and all before it are stored. Only the feed interprets it.
    `standing` has the quotes that changed since the last delivery (`STANDING`), None if the feed joins no quotes. The
    same row may be delivered again with a later quote (`quote_ts`), which replaces the former. `backlog` is the
    progress once this delivery is stored, None if it has not changed.
    """

    prints: pl.DataFrame
    cursor: str
    standing: pl.DataFrame | None = None
    backlog: Backlog | None = None


class Outlet(Protocol):
    """The consumer of a feed's deliveries. May be used from any thread."""

    stop: Event
    """Set when the feed must end."""

    def put(self, delivery: Delivery) -> None:
        """Add a delivery to the queue. It waits while the queue is full, which slows the source; nothing is dropped.
        A delivery counts as a sign of life."""

    def heard(self) -> None:
        """Report a sign of life: a heartbeat, a pong, any message."""

    def count(self, what: str, many: int = 1) -> None:
        """Count an event such as `late quotes` or `messages not understood`. Counts are shown in metrics and logs."""


class Feed(Protocol):
    """A live feed. One object exists for the life of the process; each `run` is one connection.

    Attributes:
        source: the source of its prints. It is that of the vendor's files only if a print is the same row in both.
        name: the name for logs, metrics and the stored cursor. It has no credentials and does not change.
        assets: the assets it delivers (`option`, `stock`).
        symbols: the symbols it is limited to (empty: all). Their calendar tells when silence is a fault.
        always_open: silence is a fault at any time.
        ends: after `run` there are no more prints.
    """

    source: str
    name: str
    assets: frozenset[str]
    symbols: tuple[str, ...]
    always_open: bool
    ends: bool

    def restore(self, standing: pl.DataFrame) -> None:
        """Restore the quotes that were stored with the cursor. It is called once, before the first `run` of a process
        that resumes another's work."""

    def run(self, outlet: Outlet, cursor: str | None) -> None:
        """Connect, fetch the gap since `cursor`, and deliver until `outlet.stop` is set or the connection ends.

        With `cursor` None the feed begins now, or where its arguments say.

        Raises:
            FeedError: the connection failed or broke. The caller waits and calls again with the last cursor.
            UsageError: a retry cannot succeed (a wrong key, an unknown argument).
        """
