"""Live feeds into a store from a process without cache and server."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence
from typing import Protocol

from flowtape.errors import TakenOver
from flowtape.feeds.base import Feed
from flowtape.feeds.replay import ReplayFeed
from flowtape.model.clock import Clock
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.supervisor import Listener, Live
from flowtape.settings import Settings
from flowtape.storage import Store

LOOK_EVERY = 0.5
_log = logging.getLogger(__name__)


def go_on(feeds: Sequence[Feed], store: Store) -> None:
    """Set replays to the instant at which their last run ended."""
    for feed in feeds:
        if isinstance(feed, ReplayFeed):
            feed.go_on(store.cursor(feed.name))


class Watcher(Listener, Protocol):
    """A listener that also reports the state of live feeds."""

    def watch(self, live: Live) -> None:
        """Report the state of these feeds."""


def feed_into(
    store: Store, feeds: Sequence[Feed], settings: Settings, clock: Clock, watcher: Watcher
) -> None:
    """Ingest live feeds into a store until SIGTERM or SIGINT, or until all feeds have ended.

    Raises `TakenOver` when another process takes over a feed, `FeedError` when a feed was given up.
    """
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    go_on(feeds, store)
    live = Live(Ingestor(store, max_quote_age=settings.quote_age), feeds, clock, watcher)
    watcher.watch(live)
    live.start()
    _log.info("ingesting feeds", extra={"fields": {"feeds": ", ".join(feed.name for feed in feeds)}})
    while not told.wait(LOOK_EVERY):
        if live.taken_over.is_set() or live.ended():
            break
    live.stop()
    if live.taken_over.is_set():
        raise TakenOver(live.failing or "another process has taken over")
    live.raise_lost()
    live.raise_given_up()
