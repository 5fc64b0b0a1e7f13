"""Takes a live feed into a store until killed, or until SIGTERM: then it says what it answers.

Standard input has one line, JSON: `feed` (a `--feed` text), `store` (a path), `now` (ns UTC, the time of all
answers). Standard output has a JSON array a line: `["begun", prints kept, newest ts]`, the same with `kept` after each
commit, and `["answers", {path: body}]` at the end.
"""

import json
import logging
import signal
import sys
import threading

from flowtape.cache.cache import Cache
from flowtape.feeds.limits import Limits
from flowtape.feeds.registry import open_feeds
from flowtape.model.query import Query
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.supervisor import Live, Waits
from flowtape.queries import encode_json
from flowtape.server.flow import Flow
from flowtape.server.routes import ROUTES
from flowtape.storage import open_store

MINUTE = 60 * 10**9


class At:
    """A clock that stands still."""

    def __init__(self, now):
        self.now = now

    def now_ns(self):
        return self.now


class Taking:
    """A feed on its way into a store; `tell(what, prints kept, newest ts)` is called at the start and after each
    commit."""

    def __init__(self, feed, store, now, tell):
        self.now, self.tell = now, tell
        self.store = open_store(store)
        self.window = Cache(self.store.catalog, now // MINUTE)
        self.window.load(self.store)
        self.ingestor = Ingestor(self.store, self.window)
        # The stand-in's REST has all at once.
        feeds = open_feeds([feed], At(now), Limits(rest_lag=0.05))
        for one in feeds:
            # Nothing here is refused for silence, and the calendar takes a second to load.
            one.always_open = True
        self.live = Live(self.ingestor, feeds, At(now), self, waits=Waits(0.1, 1.0, 0.02, 0.1))
        self._told("begun")
        self.live.start()

    def published(self, source, sides, waits):
        """Record the prints of a batch."""

    def committed(self, seconds, prints):
        """See `live.Listener.committed`."""
        self._told("kept")

    def end(self):
        """Stop cleanly; returns the answers made from the window."""
        self.live.stop()
        made = answers(self.ingestor, self.window, self.now)
        self.store.close()
        return made

    def _told(self, what):
        kept = self.store._frame("SELECT count(*), epoch_ns(max(ts)) FROM prints")
        self.tell(what, *kept.row(0))


def answers(ingestor, window, now):
    """The body of every route, for every symbol there is."""
    flow = Flow(ingestor, window, At(now))
    made = {}
    for asset, symbol in sorted(set(ingestor.store.sources().select("asset", "symbol").iter_rows())):
        for route in ROUTES:
            if route.asset == asset:
                of = symbol if "{symbol}" in route.path else ""
                query = Query(
                    asset=asset, symbol=of, minutes=600, limit=500, min_size=2, min_trades=1, resolution="1m"
                )
                made[route.path.replace("{symbol}", of)] = encode_json(flow.made(route, query).body).decode()
    flow.close()
    return made


class Facts(logging.Formatter):
    """What a line says, and the facts it goes with."""

    def format(self, record):
        """See `logging.Formatter.format`."""
        return f"{record.getMessage()} {getattr(record, 'fields', '')}"


def main():
    errors = logging.StreamHandler()
    errors.setFormatter(Facts())
    logging.getLogger("flowtape").addHandler(errors)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    order = json.loads(sys.stdin.readline())
    taking = Taking(**order, tell=lambda *told: print(json.dumps(told), flush=True))
    stop.wait()
    print(json.dumps(["answers", taking.end()]), flush=True)


if __name__ == "__main__":
    main()
