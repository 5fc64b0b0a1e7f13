"""A whole server: store, window, engine, live feed, side door and HTTP, wired together and taken down in order."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from flowtape.api.app import Application
from flowtape.api.control import Control
from flowtape.api.flow import Flow
from flowtape.api.keys import Keys
from flowtape.api.logs import event
from flowtape.api.server import free_address, run
from flowtape.engine import Engine
from flowtape.errors import FlowtapeError, StoreError
from flowtape.feeds.simulate import Clock, LiveFeed, Market
from flowtape.ingest import Request, ingest
from flowtape.minutes import NS_PER_MINUTE
from flowtape.prints import conform
from flowtape.settings import Settings
from flowtape.store import Store, open_store
from flowtape.window import MINUTES, Window

RETRY_SECONDS = 1.0
SIMULATED_DAYS = 7

_log = logging.getLogger(__name__)


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return time.time_ns()


@dataclass(frozen=True)
class Ready:
    """A server that accepts connections: where, and a key that lives as long as it does (simulated tape only)."""

    host: str
    port: int
    key: str | None
    store: Path
    newest: int | None


@dataclass(frozen=True)
class Sources:
    """What a server takes in by itself: a simulated market, or a file."""

    simulate: Market | None = None
    tape: Request | None = None


class FeedRunner:
    """Feeds a live source into the engine on a thread of its own, and tells when it was last heard."""

    def __init__(self, feed: LiveFeed, engine: Engine, clock: Clock) -> None:
        self._feed = feed
        self._engine = engine
        self._clock = clock
        self._heard = clock.now_ns()
        self.failing: str | None = None
        self._thread = threading.Thread(target=self._run, name="feed")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the delivery at hand; returns once it is committed."""
        self._feed.stop.set()
        self._thread.join()

    def silent_for(self, now_ns: int) -> float | None:
        """Seconds since the feed delivered anything, signs of life included; its market never closes."""
        return (now_ns - self._heard) / 1e9

    def _run(self) -> None:
        try:
            for delivery in self._feed:
                self._heard = self._clock.now_ns()
                if delivery.prints.height:
                    self._take(conform(delivery.prints), str(delivery.cursor))
                    self._heard = self._clock.now_ns()
        except Exception:
            event(_log, logging.ERROR, "feed ended", source=self._feed.source)

    def _take(self, prints: object, cursor: str) -> None:
        """Commit a delivery; while the store refuses it, keep it and try again."""
        while not self._feed.stop.is_set():
            try:
                self._engine.take(prints, self._feed.source, cursor=cursor)  # type: ignore[arg-type]
            except StoreError as error:
                self.failing = str(error)
                event(_log, logging.WARNING, "commit failed, trying again", reason=str(error))
                self._feed.stop.wait(RETRY_SECONDS)
            else:
                self.failing = None
                return


def serve(settings: Settings, sources: Sources, ready: Callable[[Ready], None]) -> None:
    """Serve until told to stop by SIGTERM or SIGINT. Raises `StoreError`, `StoreBusy`, `UsageError`."""
    free_address(settings.host, settings.port)
    store = open_store(settings.store_path)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, sources, ready, store))
    finally:
        store.close()


async def _serve(settings: Settings, sources: Sources, ready: Callable[[Ready], None], store: Store) -> None:
    clock = SystemClock()
    window = Window(store.catalog, clock.now_ns() // NS_PER_MINUTE)
    window.load(store)
    engine = Engine(store, window, settings.quote_age)
    feed = _feed(sources.simulate, engine, clock)
    flow = Flow(engine, window, clock, feed, settings.silence_limit)
    keys = Keys(settings.keys_path)
    key = keys.add_ephemeral("Alpha") if feed is not None else None
    control = Control(settings.store_path, engine, flow)
    await control.start()
    stop_tape = threading.Event()
    tape = asyncio.create_task(asyncio.to_thread(_take_tape, engine, sources.tape, stop_tape))
    watching = asyncio.create_task(flow.watch())
    if feed is not None:
        feed.start()

    span = store.span()

    def tell(host: str, port: int) -> None:
        ready(Ready(host, port, key, settings.store_path, None if span is None else span[1]))

    try:
        await run(Application(flow, keys, settings, clock.now_ns), settings.host, settings.port, tell)
    finally:
        stop_tape.set()
        watching.cancel()
        await asyncio.gather(watching, tape, return_exceptions=True)
        if feed is not None:
            await asyncio.to_thread(feed.stop)
        await control.stop()
        flow.close()
        keys.close()


def _feed(market: Market | None, engine: Engine, clock: Clock) -> FeedRunner | None:
    if market is None:
        return None
    since = clock.now_ns() - SIMULATED_DAYS * 86_400 * 10**9
    kept = engine.store.cursor(LiveFeed.source)
    cursor = max(int(kept), clock.now_ns() - MINUTES * NS_PER_MINUTE) if kept else since
    return FeedRunner(LiveFeed(market, clock, cursor), engine, clock)


def _take_tape(engine: Engine, request: Request | None, stop: threading.Event) -> None:
    if request is None:
        return
    try:
        for outcome in ingest(engine, request, stop=stop):
            event(_log, logging.INFO, "tape taken", name=outcome.name, rows=outcome.rows, added=outcome.added,
                  rejected=outcome.rejected, refused=outcome.refused)  # fmt: skip
    except Exception as error:
        reason = str(error) if isinstance(error, FlowtapeError) else repr(error)
        event(_log, logging.ERROR, "tape not taken", reason=reason)
