"""A whole server: store, window, engine, live feed, side door and HTTP, wired together and taken down in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from flowtape.api.app import Application
from flowtape.api.control import Control
from flowtape.api.flow import Flow
from flowtape.api.follower import Follower
from flowtape.api.keys import Keys, check_place, keys_of
from flowtape.api.logs import event
from flowtape.api.metrics import Metrics
from flowtape.api.server import free_address, run
from flowtape.api.usage import Usage, usage_of
from flowtape.engine import Engine
from flowtape.errors import FlowtapeError
from flowtape.feeding import go_on
from flowtape.feeds.registry import open_feeds
from flowtape.feeds.replay import ReplayFeed
from flowtape.feeds.simulate import Clock
from flowtape.feeds.simulated import SimulatedFeed
from flowtape.ingest import Request, ingest
from flowtape.live import Live
from flowtape.minutes import NS_PER_MINUTE
from flowtape.settings import Settings
from flowtape.store import Store, open_store, shared, shown
from flowtape.window import Window

SHOWN_OPEN = (SimulatedFeed, ReplayFeed)
"""Feeds of data that is not bought: a server of one of them is ready to try, and gives away a key."""

_log = logging.getLogger(__name__)


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return time.time_ns()


@dataclass(frozen=True)
class Ready:
    """A server that accepts connections: where, and a key that lives as long as it does (simulated and replayed
    tapes only)."""

    host: str
    port: int
    key: str | None
    store: str
    newest: int | None


@dataclass(frozen=True)
class Sources:
    """What a server takes in by itself: live feeds (`--feed` texts), and files."""

    feeds: tuple[str, ...] = ()
    tape: Request | None = None


def serve(settings: Settings, sources: Sources, ready: Callable[[Ready], None]) -> None:
    """Serve until told to stop by SIGTERM or SIGINT. Raises `StoreError`, `StoreBusy`, `UsageError`."""
    free_address(settings.host, settings.port)
    check_place(settings)
    with ExitStack() as stack:
        store = open_store(settings.store)
        stack.callback(store.close)
        keys = keys_of(settings)
        stack.callback(keys.close)
        usage = usage_of(settings)
        stack.callback(usage.close)
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_serve(settings, sources, ready, store, keys, usage))


async def _serve(
    settings: Settings,
    sources: Sources,
    ready: Callable[[Ready], None],
    store: Store,
    keys: Keys,
    usage: Usage,
) -> None:
    feeds = open_feeds(sources.feeds, SystemClock())
    clock: Clock = next((feed.clock for feed in feeds if isinstance(feed, ReplayFeed)), SystemClock())
    go_on(feeds, store)
    window = Window(store.catalog, clock.now_ns() // NS_PER_MINUTE)
    engine = Engine(store, window, settings.quote_age)
    engine.load()
    follower = Follower(engine) if shared(settings.store) else None
    metrics = Metrics()
    live = Live(engine, feeds, clock, metrics)
    metrics.watch(live)
    behind = follower.behind if follower else lambda: 0.0
    flow = Flow(engine, window, clock, live, settings.silence_limit, behind)
    if usage.shared:
        metrics.watch_counts(lambda: bool(usage.shared and usage.shared.away))
    key = keys.add_ephemeral("Alpha") if any(isinstance(feed, SHOWN_OPEN) for feed in feeds) else None
    control = None if shared(settings.store) else Control(Path(settings.store), engine, flow)
    if control:
        await control.start()
    if follower:
        follower.start()
    stop_tape = threading.Event()
    tape = asyncio.create_task(asyncio.to_thread(_take_tape, engine, sources.tape, stop_tape))
    watching = asyncio.create_task(flow.watch())
    live.start()
    _reload_on_hangup(keys)
    span = store.span()

    def tell(host: str, port: int) -> None:
        ready(Ready(host, port, key, shown(settings.store), None if span is None else span[1]))

    try:
        await run(
            Application(flow, keys, usage, settings, time.time_ns, metrics=metrics),
            settings.host,
            settings.port,
            tell,
        )
    finally:
        stop_tape.set()
        watching.cancel()
        await asyncio.gather(watching, tape, return_exceptions=True)
        await asyncio.to_thread(live.stop)
        if control:
            await control.stop()
        if follower:
            await asyncio.to_thread(follower.stop)
        flow.close()


def _reload_on_hangup(keys: Keys) -> None:
    reloading: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = asyncio.create_task(_reload(keys))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)


async def _reload(keys: Keys) -> None:
    try:
        await asyncio.to_thread(keys.reload)
    except FlowtapeError as error:
        event(_log, logging.ERROR, "keys not read again, those known stay", reason=str(error))
    else:
        event(_log, logging.INFO, "keys read again")


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
