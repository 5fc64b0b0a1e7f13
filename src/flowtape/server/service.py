"""A complete server: store, cache, ingestor, live feeds, admin socket and HTTP, started and stopped in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import uvloop

from flowtape.cache.cache import Cache
from flowtape.errors import FlowtapeError
from flowtape.feeds.backlog import Backlog, Backlogs
from flowtape.feeds.base import Feed
from flowtape.feeds.registry import open_feeds
from flowtape.feeds.replay import Replay, ReplayFeed
from flowtape.model.clock import Clock, SystemClock
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.pipeline.feeding import go_on
from flowtape.pipeline.ingest import Request, Step, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.maintenance import Maintenance
from flowtape.pipeline.provenance import SIMULATED
from flowtape.pipeline.supervisor import Live
from flowtape.server.admin import AdminSocket
from flowtape.server.app import Application
from flowtape.server.auth.keys import Keys, check_place, keys_of
from flowtape.server.auth.usage import Usage, usage_of
from flowtape.server.flow import Flow
from flowtape.server.follower import Follower
from flowtape.server.logs import event
from flowtape.server.metrics import Metrics
from flowtape.server.server import free_address, run, stop_on_signals
from flowtape.settings import Settings
from flowtape.storage import Store, open_store, shared, shown

_WINDOW, _FILES = "window", "files"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """The address of a server that accepts connections, and for simulated and replayed tapes a key that is valid
    until it ends. `newest` is the time of the newest stored print (ns UTC), `replay` describes the replay, if any,
    and `simulated` says whether its feed is the simulated market."""

    host: str
    port: int
    key: str | None
    store: str
    newest: int | None
    replay: Replay | None = None
    simulated: bool = False


class Announcer(Protocol):
    """Reports the start of a server to the user."""

    def listening(self, server: Ready) -> None:
        """Connections are accepted; the cache may still be loading."""

    def loading(self, done: float) -> None:
        """The share `done` (0 to 1) of the data is loaded. Called repeatedly."""

    def ready(self, server: Ready) -> None:
        """Every answer is complete from now on."""


@dataclass(frozen=True)
class Sources:
    """The sources that a server ingests: live feeds (`--feed` texts) and files."""

    feeds: tuple[str, ...] = ()
    tape: Request | None = None


def serve(settings: Settings, sources: Sources, announcer: Announcer) -> None:
    """Serve until SIGTERM or SIGINT. Raises `StoreError`, `StoreBusy`, `UsageError`."""
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
        runner.run(_serve(settings, sources, announcer, store, keys, usage))


async def _serve(
    settings: Settings,
    sources: Sources,
    announcer: Announcer,
    store: Store,
    keys: Keys,
    usage: Usage,
) -> None:
    feeds = open_feeds(sources.feeds, SystemClock())
    replayed = next((feed for feed in feeds if isinstance(feed, ReplayFeed)), None)
    replay = None if replayed is None else replayed.replay
    clock: Clock = SystemClock() if replayed is None else replayed.clock
    go_on(feeds, store)
    window = Cache(store.catalog, clock.now_ns() // NS_PER_MINUTE)
    ingestor = Ingestor(store, window, settings.quote_age)
    backlogs = _backlogs(store, feeds, sources)
    follower = Follower(ingestor) if shared(settings.store) else None
    metrics = Metrics()
    live = Live(ingestor, feeds, clock, metrics, backlogs=backlogs)
    metrics.watch(live)
    behind = follower.behind if follower else lambda: 0.0
    simulated = any(feed.source == SIMULATED for feed in feeds)
    limit = settings.silence_limit
    flow = Flow(ingestor, window, clock, live, limit, behind, backlogs, replay, simulated)
    if usage.shared:
        metrics.watch_counts(lambda: bool(usage.shared and usage.shared.away))
    key = keys.add_ephemeral("Alpha") if any(_is_demo(feed) for feed in feeds) else None
    admin = None if shared(settings.store) else AdminSocket(Path(settings.store), ingestor, flow)
    if admin:
        await admin.start()
    stopping = stop_on_signals()
    start = _Start(ingestor, follower, live, Maintenance(store, clock), backlogs, sources.tape)
    watching = [asyncio.create_task(work) for work in (flow.watch(), start.run(stopping))]
    _reload_on_hangup(keys)

    def listening(host: str, port: int) -> None:
        server = Ready(host, port, key, shown(settings.store), None, replay, simulated)
        announcer.listening(server)
        watching.append(asyncio.create_task(_announce(announcer, server, backlogs, store)))

    try:
        app = Application(flow, keys, usage, settings, time.time_ns, metrics=metrics)
        await run(app, settings.host, settings.port, listening, stopping)
        start.raise_failure()
    finally:
        start.stop()
        for task in (watching[0], *watching[2:]):
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.to_thread(live.stop)
        if admin:
            await admin.stop()
        if follower:
            await asyncio.to_thread(follower.stop)
        flow.close()
    live.raise_lost()


def _is_demo(feed: Feed) -> bool:
    """Return whether a feed is simulated or replayed; its server prints a key that is valid until the server ends."""
    return feed.source == SIMULATED or isinstance(feed, ReplayFeed)


def _backlogs(store: Store, feeds: Sequence[Feed], sources: Sources) -> Backlogs:
    """Return what is missing at the start."""
    backlogs = Backlogs()
    names = [feed.name for feed in feeds if _is_demo(feed)]
    if store.span() is not None:
        names.append(_WINDOW)
    if sources.tape is not None:
        names.append(_FILES)
    for name in names:
        backlogs.set(name, Backlog(0.0))
    return backlogs


async def _announce(announcer: Announcer, server: Ready, backlogs: Backlogs, store: Store) -> None:
    """Report the progress of loading, and its end."""
    while (missing := backlogs.missing()) is not None:
        announcer.loading(missing.done)
        await asyncio.sleep(0.1)
    span = await asyncio.to_thread(store.span)
    announcer.ready(replace(server, newest=None if span is None else span[1]))


class _Start:
    """The work of a server after it accepts connections: load the cache, start the feeds, ingest the files."""

    def __init__(
        self,
        ingestor: Ingestor,
        follower: Follower | None,
        live: Live,
        maintenance: Maintenance,
        backlogs: Backlogs,
        tape: Request | None,
    ) -> None:
        self._ingestor, self._follower, self._live = ingestor, follower, live
        self._maintenance, self._backlogs, self._tape = maintenance, backlogs, tape
        self._stop = threading.Event()
        self._failure: Exception | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Do the work; stop the server if the cache cannot be loaded."""
        try:
            await asyncio.to_thread(self._begin)
        except Exception as error:
            self._failure = None if self._stop.is_set() else error
            stopping.set()
            return
        if self._tape is not None:
            await asyncio.to_thread(self._take, self._tape)

    def raise_failure(self) -> None:
        """Raise the error that kept the cache from being loaded."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End the work at its next step."""
        self._stop.set()
        self._maintenance.stop()

    def _begin(self) -> None:
        def progress(done: float) -> None:
            if self._stop.is_set():
                raise FlowtapeError("the server was told to stop")
            if done:
                self._backlogs.set(_WINDOW, Backlog(done))

        self._ingestor.load(progress)
        self._ingestor.classifications.look()
        self._backlogs.end(_WINDOW)
        if self._follower:
            self._follower.start()
        self._live.start()
        self._maintenance.start()

    def _take(self, request: Request) -> None:
        try:
            for outcome in ingest(self._ingestor, request, self._tell, self._stop):
                event(_log, logging.INFO, "tape ingested", name=outcome.name, rows=outcome.rows, added=outcome.added,
                      rejected=outcome.rejected, refused=outcome.refused)  # fmt: skip
        except Exception as error:
            reason = str(error) if isinstance(error, FlowtapeError) else repr(error)
            event(_log, logging.ERROR, "tape not ingested", reason=reason)
        finally:
            self._backlogs.end(_FILES)

    def _tell(self, step: Step) -> None:
        # A tape that is read is not yet committed, and further files may follow.
        self._backlogs.set(_FILES, Backlog(min(step.done, 0.99)))


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
        event(_log, logging.ERROR, "keys could not be reloaded, known keys stay valid", reason=str(error))
    else:
        event(_log, logging.INFO, "keys reloaded on request")
