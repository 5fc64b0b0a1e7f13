"""Run a feed on a thread, with an outlet that collects deliveries."""

import threading

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.model.prints import IDENTITY, SCHEMA

WAIT = 10.0


class Outlet:
    """Collects deliveries and lets the test wait for them. While `open` is not set it blocks, like a full queue."""

    def __init__(self):
        self.stop, self.got, self.counts, self.signs = threading.Event(), [], {}, 0
        self.changed, self.open = threading.Condition(), threading.Event()
        self.waiting = threading.Event()
        """Set when a delivery waits for `open`."""
        self.open.set()

    def put(self, delivery):
        while not self.open.wait(0.01) and not self.stop.is_set():
            self.waiting.set()
        with self.changed:
            self.got.append(delivery)
            self.changed.notify_all()

    def heard(self):
        with self.changed:
            self.signs += 1
            self.changed.notify_all()

    def count(self, what, many=1):
        with self.changed:
            self.counts[what] = self.counts.get(what, 0) + many
            self.changed.notify_all()

    def until(self, true):
        with self.changed:
            assert self.changed.wait_for(true, WAIT), (self.counts, self.prints())

    def until_prints(self, many):
        self.until(lambda: self.prints().height >= many)

    def given(self):
        return [one.prints for one in self.got]

    def prints(self):
        return kept(self.given())


def kept(frames):
    """Return the rows that a store would keep: each with its later quote."""
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)
    rows = frame.sort("quote_ts", nulls_last=False, maintain_order=True)
    rows = rows.unique(IDENTITY, keep="last", maintain_order=True)
    return rows.sort("ts", "root", "strike", "venue", "seq", "copy")


class Running:
    """A feed on a thread, and the error that ended it."""

    def __init__(self, feed, cursor=None, outlet=None):
        self.feed, self.outlet, self.error = feed, outlet or Outlet(), None
        self.thread = threading.Thread(target=self._run, args=(cursor,))
        self.thread.start()

    def _run(self, cursor):
        try:
            self.feed.run(self.outlet, cursor)
        except (FeedError, UsageError) as error:
            self.error = error

    @property
    def cursor(self):
        """Return the cursor for another run."""
        return self.outlet.got[-1].cursor

    def ended(self):
        """Return the error that ended the run, None if it was stopped."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.error

    def stop(self):
        self.outlet.stop.set()
        assert self.ended() is None
        return self.outlet


def begun(server, one):
    """Wait until a feed has subscribed."""
    assert server.started.acquire(timeout=WAIT), one.ended()
    return one
