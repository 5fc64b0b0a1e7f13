"""Runs live feeds: deliveries wait in a bounded queue, and one thread commits them in batches.

Each feed runs on a thread of its own. When its connection breaks, it is started again after a pause. The committing
thread takes all waiting deliveries of one source as a batch, commits it with its cursors, and publishes it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from flowtape.errors import FeedError, FlowtapeError, StoreError, TakenOver, UsageError
from flowtape.feeds.backlog import Backlogs
from flowtape.feeds.base import Delivery, Feed
from flowtape.model.calendar import is_open
from flowtape.model.clock import Clock
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.report import Report

QUEUE_PRINTS = 500_000
"""The most prints that wait; a feed with more blocks until there is room."""
STEP_PRINTS = 20_000
"""Prints of the largest batch. A larger one would delay readers for too long."""
REPRESENTATIVE = "SPY"
"""The symbol whose market hours stand for a feed of all symbols."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """Waiting times in seconds.

    `gather`: until the next commit, for deliveries without prints, and for all deliveries into a shared store,
    since ClickHouse is slow on small inserts. `retry`: between attempts while the store refuses. `first` and
    `longest`: before a broken connection is opened again; the pause doubles each time, and half of it is random.
    """

    gather: float = 0.5
    retry: float = 1.0
    first: float = 0.5
    longest: float = 30.0


class Listener(Protocol):
    """Receives measurements of live prints."""

    def published(
        self, source: str, sides: Mapping[tuple[str, str], float], waits: Sequence[tuple[float, int]]
    ) -> None:
        """Prints of a source are published.

        Args:
            sides: contracts or shares by asset and side.
            waits: for each delivery, the seconds since it arrived and its number of prints.
        """

    def committed(self, seconds: float, prints: int) -> None:
        """A commit of `prints` prints took `seconds`."""


@dataclass(frozen=True, slots=True)
class FeedReport:
    """The state of a feed. `lag` is the seconds from its newest print to its arrival. `silence` is the seconds
    since its last message while its market is open, None while the market is closed."""

    name: str
    connected: bool
    reconnects: int
    lag: float | None
    silence: float | None
    notes: Mapping[str, int]


@dataclass(slots=True)
class _Waiting:
    line: _Line
    delivery: Delivery
    arrived: float


@dataclass(slots=True)
class _Line:
    """One feed and its state; the outlet that the feed delivers to."""

    feed: Feed
    live: Live
    stop: threading.Event
    cursor: str | None
    last_heard: float
    connected: bool = False
    reconnects: int = 0
    lag: float | None = None
    ended: str | None = None
    notes: Counter[str] = field(default_factory=Counter)

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery of the feed; blocks while the queue is full."""
        self.heard()
        self.live.queue(self, delivery)

    def heard(self) -> None:
        """Note that the feed is connected and sent a message."""
        self.connected = True
        self.last_heard = time.monotonic()

    def count(self, what: str, many: int = 1) -> None:
        """Count an event of the feed, and log the first one."""
        if what not in self.notes:
            _tell(logging.WARNING, "feed note", feed=self.feed.name, what=what, many=many)
        self.notes[what] += many

    def must_speak(self, now_ns: int) -> bool:
        """Return whether the feed's market is open."""
        if self.feed.always_open:
            return True
        symbols = self.feed.symbols or (REPRESENTATIVE,)
        return any(is_open(asset, symbol, now_ns) for asset in self.feed.assets for symbol in symbols)  # type: ignore[arg-type]


class Live:
    """The live feeds of a server. `failing` is the reason why their prints cannot be stored, None while they are."""

    def __init__(
        self,
        ingestor: Ingestor,
        feeds: Sequence[Feed],
        clock: Clock,
        listener: Listener | None = None,
        queue_limit: int = QUEUE_PRINTS,
        backlogs: Backlogs | None = None,
        waits: Waits = Waits(),
    ) -> None:
        self.failing: str | None = None
        self.queue_limit, self.queue_prints = queue_limit, 0
        self._waits = waits
        self._ingestor, self._clock, self._listener = ingestor, clock, listener
        self.lost = 0
        """Delivered prints that were not stored when the server ended."""
        self._stop, self._drain = threading.Event(), threading.Event()
        self.taken_over = threading.Event()
        self._started = False
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        began = time.monotonic()
        for feed in feeds:
            ingestor.store.take_over(feed.name)
        self._lines = [
            _Line(feed, self, self._stop, ingestor.store.cursor(feed.name), began) for feed in feeds
        ]
        self._backlogs = backlogs or Backlogs()
        self._threads = [
            threading.Thread(target=self._keep_running, args=(line,), name=f"feed {line.feed.name}")
            for line in self._lines
        ]
        self._taker = threading.Thread(target=self._take, name="taker")

    def start(self) -> None:
        """Start the threads."""
        self._started = True
        for line in self._lines:
            line.last_heard = time.monotonic()
        # Loads the calendar, which takes a second, before the first print arrives.
        self._restart_silence_of_closed_markets()
        for line in self._lines:
            if line.cursor is not None:
                line.feed.restore(self._ingestor.store.standing(line.feed.name))
        self._taker.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the feeds, commit what they delivered, and return when that is done. Does nothing before `start`."""
        self._stop.set()
        if not self._started:
            return
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._drain.set()
        with self._changed:
            self._changed.notify_all()
        self._taker.join()

    def silent_for(self, asset: str | None, now_ns: int) -> float | None:
        """Return the longest time in seconds since a feed of an asset (None: of any) sent a message while its
        market is open.

        None before `start`, and while all of their markets are closed.
        """
        silences = [
            time.monotonic() - line.last_heard
            for line in self._lines
            if self._started and (asset is None or asset in line.feed.assets) and line.must_speak(now_ns)
        ]
        return max(silences, default=None)

    def feeds(self) -> list[FeedReport]:
        """Return the state of each feed."""
        now, wall = time.monotonic(), self._clock.now_ns()
        return [
            FeedReport(
                line.feed.name,
                line.connected,
                line.reconnects,
                line.lag,
                now - line.last_heard if line.must_speak(wall) else None,
                dict(line.notes),
            )
            for line in self._lines
        ]

    def ended(self) -> bool:
        """Return whether all feeds have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def raise_given_up(self) -> None:
        """Raise `FeedError` if a feed was given up."""
        for line in self._lines:
            if line.ended is not None:
                raise FeedError(f"{line.feed.name}: {line.ended}")

    def queue(self, line: _Line, delivery: Delivery) -> None:
        """Queue a delivery; blocks while the queue is full."""
        many = delivery.prints.height
        with self._changed:
            # A single delivery may exceed the limit.
            self._changed.wait_for(
                lambda: (
                    self.queue_prints == 0
                    or self.queue_prints + many <= self.queue_limit
                    or self._stop.is_set()
                )
            )
            line.cursor = delivery.cursor
            self._waiting.append(_Waiting(line, delivery, time.monotonic()))
            self.queue_prints += many
            self._changed.notify_all()

    def _keep_running(self, line: _Line) -> None:
        pause = self._waits.first
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                line.feed.run(line, line.cursor)
                reason = "the connection ended"
            except UsageError as error:
                line.ended, line.connected = str(error), False
                _tell(logging.ERROR, "feed given up", feed=line.feed.name, reason=str(error))
                return
            except FlowtapeError as error:
                reason = str(error)
            except Exception as error:
                reason = repr(error)
            line.connected = False
            if self._stop.is_set():
                return
            if line.feed.ends:
                _tell(logging.INFO, "feed ended", feed=line.feed.name)
                return
            if time.monotonic() - began > self._waits.longest:
                pause = self._waits.first
            line.reconnects += 1
            wait = pause * random.uniform(0.5, 1)  # noqa: S311 - to part clients, not to hide anything
            _tell(
                logging.WARNING,
                "feed disconnected, retrying",
                feed=line.feed.name,
                reason=reason,
                seconds=round(wait, 2),
            )
            pause = min(2 * pause, self._waits.longest)
            self._stop.wait(wait)

    def _take(self) -> None:
        while True:
            batch = self._next()
            kept = not batch or self._retry_until_stored(lambda batch=batch: self._keep(batch))  # type: ignore[misc]
            self._restart_silence_of_closed_markets()
            if self._drain.is_set() and not (kept and self._waiting):
                self._end([] if kept else batch)
                return

    def _next(self) -> list[_Waiting]:
        """Return the next batch: deliveries of one source. Empty if none arrive for a while."""
        with self._changed:
            self._changed.wait_for(self._due, timeout=self._waits.gather)
            batch: list[_Waiting] = []
            rows = 0
            while self._waiting and rows < STEP_PRINTS:
                if batch and self._waiting[0].line.feed.source != batch[0].line.feed.source:
                    break
                batch.append(self._waiting.popleft())
                rows += batch[-1].delivery.prints.height
            self.queue_prints -= rows
            self._changed.notify_all()
            return batch

    def _due(self) -> bool:
        """Return whether a batch is to be committed before the time to gather has passed."""
        at_once = STEP_PRINTS if self._ingestor.store.shared else 1
        return self.queue_prints >= at_once or self._drain.is_set()

    def _keep(self, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        prints = pl.concat([one.delivery.prints for one in batch])
        cursors = {one.line.feed.name: one.delivery.cursor for one in batch}
        standing: dict[str, list[pl.DataFrame]] = {}
        for one in batch:
            if one.delivery.standing is not None:
                standing.setdefault(one.line.feed.name, []).append(one.delivery.standing)
        newest = {
            name: pl.concat(parts).unique("instrument", keep="last", maintain_order=True)
            for name, parts in standing.items()
        }
        report = self._ingestor.take(prints, batch[0].line.feed.source, cursors=cursors, standing=newest)
        for one in batch:
            if one.delivery.backlog is not None:
                self._backlogs.set(one.line.feed.name, one.delivery.backlog)
        if prints.height:
            self._measure(batch, report, prints)
        if self._listener is not None:
            self._listener.committed(time.monotonic() - began, prints.height)

    def _measure(self, batch: list[_Waiting], report: Report, prints: pl.DataFrame) -> None:
        line = batch[-1].line
        for what, many in report.notes.items():
            line.count(what, many)
        if report.refused - sum(report.notes.values()) > 0:
            line.count(
                "prints of days that another source holds, refused",
                report.refused - sum(report.notes.values()),
            )
        newest = prints.select(pl.col("ts").to_physical().max()).item()
        line.lag = (self._clock.now_ns() - newest) / 1e9
        if self._listener is not None:
            now = time.monotonic()
            waits = [(now - one.arrived, one.delivery.prints.height) for one in batch]
            self._listener.published(report.source, report.volumes, waits)

    def _end(self, batch: list[_Waiting]) -> None:
        """Drop the deliveries that cannot be stored, and count their prints as lost."""
        with self._changed:
            self.lost = self.queue_prints + sum(one.delivery.prints.height for one in batch)
            self._waiting.clear()
            self.queue_prints = 0
            self._changed.notify_all()

    def raise_lost(self) -> None:
        """Raise `StoreError` if prints were lost at the end. The feeds fetch them again from their cursors."""
        if self.lost:
            raise StoreError(
                f"{self.lost:,} live prints could not be stored: {self.failing}; the feeds fetch them again from the"
                " last commit"
            )

    def _retry_until_stored(self, work: Callable[[], None]) -> bool:
        """Call `work` until the store accepts; after the feeds have ended, call it only once.

        Returns True when it succeeded or another process took over, False when it failed at the end.
        """
        while True:
            try:
                work()
            except TakenOver as error:
                self._fail(str(error))
                self.taken_over.set()
                self._stop.set()
                self._drain.set()
                return True
            except StoreError as error:
                self._fail(str(error))
            except Exception as error:
                _tell(logging.ERROR, "live prints cannot be ingested", error=repr(error))
                self._fail("live prints cannot be ingested; the log says why")
            else:
                if self.failing is not None:
                    _tell(logging.INFO, "live prints are stored again")
                self.failing = None
                return True
            if self._drain.is_set():
                return False
            # While the feeds end, `_stop` is set and cannot be waited for.
            (self._drain if self._stop.is_set() else self._stop).wait(self._waits.retry)

    def _fail(self, reason: str) -> None:
        if self.failing != reason:
            _tell(logging.WARNING, "live prints cannot be stored, retrying", reason=reason)
        self.failing = reason

    def _restart_silence_of_closed_markets(self) -> None:
        """Restart the silence of each feed whose market is closed, so that it counts from the open."""
        now = self._clock.now_ns()
        for line in self._lines:
            if not line.must_speak(now):
                line.last_heard = time.monotonic()


def _tell(level: int, event: str, /, **facts: object) -> None:
    _log.log(level, event, extra={"fields": facts}, exc_info=level >= logging.ERROR)
