"""A feed run by a test: on a thread, with an outlet that keeps what it is given."""

import threading

import polars as pl

from flowtape.errors import FeedError, UsageError
from flowtape.model.prints import IDENTITY, SCHEMA

WAIT = 10.0


class Outlet:
    """Keeps what it is given and lets the test wait for it. While `open` is not set it takes nothing, as a full queue
    does."""

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
    """What a store keeps of deliveries: the later quote of each row."""
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)
    rows = frame.sort("quote_ts", nulls_last=False, maintain_order=True)
    rows = rows.unique(IDENTITY, keep="last", maintain_order=True)
    return rows.sort("ts", "root", "strike", "venue", "seq", "copy")


class Running:
    """A feed on a thread, with what ended it."""

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
        """Where another run goes on."""
        return self.outlet.got[-1].cursor

    def ended(self):
        """What the run ended with, None where it was told to end."""
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.error

    def stop(self):
        self.outlet.stop.set()
        assert self.ended() is None
        return self.outlet


def begun(server, one):
    """Wait until a feed is past its subscriptions."""
    assert server.started.acquire(timeout=WAIT), one.ended()
    return one
