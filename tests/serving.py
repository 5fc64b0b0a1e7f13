"""The whole server over a store, at an instant of one's own: on a socket, or asked in the same process."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future

import httpx
import uvloop

from flowtape.cache.cache import Cache
from flowtape.feeds.backlog import Backlogs
from flowtape.pipeline.ingest import Request, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.server.app import Application
from flowtape.server.auth.keyfile import FileCounts, FileLedger
from flowtape.server.auth.keys import Keys
from flowtape.server.auth.usage import Usage
from flowtape.server.flow import Flow
from flowtape.server.server import run
from flowtape.settings import PLANS, Settings
from inprocess import Transport
from oracle import MINUTE
from stores import ENGINE
from stores import make_store as open_store
from tapes import frame


class Clock:
    """A clock that stands still."""

    def __init__(self, now):
        self.now = now

    def now_ns(self):
        return self.now


class Feed:
    """What a live feed tells of itself."""

    failing = None
    silent = None

    def silent_for(self, asset, now_ns):
        return self.silent


class Kept:
    """A store, its window and the application over them. `keys` has one key a plan, by its name in lower case."""

    def __init__(self, folder, now, settings=None, engine=ENGINE, replay=None, simulates=False):
        self.clock, self.feed = Clock(now), Feed()
        self.store = open_store(folder / "x.duckdb", engine)
        self.window = Cache(self.store.catalog, now // MINUTE)
        self.ingestor = Ingestor(self.store, self.window)
        self.backlogs = Backlogs()
        self.flow = Flow(
            self.ingestor,
            self.window,
            self.clock,
            self.feed,
            backlogs=self.backlogs,
            replay=replay,
            simulates=simulates,
        )
        self.book = Keys(FileLedger(folder / "x.duckdb.keys"), self.clock.now_ns)
        self.usage = Usage(FileCounts(folder / "x.duckdb.keys"))
        self.keys = {plan.lower(): self.book.create(plan.lower()) for plan in PLANS}
        self.app = Application(self.flow, self.book, self.usage, settings or Settings(), self.clock.now_ns)

    def take(self, rows, source="test"):
        if rows:
            self.ingestor.take(frame(rows), source)

    def take_file(self, path, format):
        (outcome,) = ingest(self.ingestor, Request(files=[str(path)], format=format))
        return outcome

    def ask(self, *requests):
        """Answers of (path, arguments), in order, without a socket."""

        async def main():
            transport = Transport(self.app)
            headers = {"X-Api-Key": self.keys["alpha"]}
            async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
                return [await client.get(path, params=arguments) for path, arguments in requests]

        return asyncio.run(main())

    def close(self):
        self.flow.close()
        self.usage.close()
        self.book.close()
        self.store.close()


@contextlib.contextmanager
def kept(folder, now, settings=None, engine=ENGINE, replay=None, simulates=False):
    made = Kept(folder, now, settings, engine, replay, simulates)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def serving(app):
    """An application on a socket, its loop on a thread of its own: yields the address."""
    up, ends = Future(), {}

    async def main():
        ends["stop"], ends["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await run(app, "127.0.0.1", 0, lambda _, port: up.set_result(port), ends["stop"])

    def thread():
        try:
            uvloop.run(main())
        except BaseException as error:
            if not up.done():
                up.set_exception(error)
            raise

    running = threading.Thread(target=thread)
    running.start()
    try:
        yield f"http://127.0.0.1:{up.result(10)}"
    finally:
        if running.is_alive():
            ends["loop"].call_soon_threadsafe(ends["stop"].set)
        running.join(15)
        assert not running.is_alive()
