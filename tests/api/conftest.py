"""A real server on a real socket, with answers held in memory."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import uvloop

from flowtape.model.query import Query
from flowtape.queries import Answer, Cumulative, CumulativePoint, Made, stamp
from flowtape.queries.render.bodies import Rows
from flowtape.server.account import SymbolsBody
from flowtape.server.app import Application
from flowtape.server.auth.keyfile import FileCounts, FileLedger
from flowtape.server.auth.keys import Keys
from flowtape.server.auth.usage import Usage
from flowtape.server.encoded import EncodedResponse, encoded_response
from flowtape.server.errors import Headers
from flowtape.server.formats import MEDIA, Format
from flowtape.server.routes import Route
from flowtape.server.server import run
from flowtape.settings import Settings

PATH = "/v1/flow/options/VIX/cumulative"
NOON = int(datetime(2026, 5, 12, 12, tzinfo=UTC).timestamp()) * 10**9
VIX = Query(symbol="VIX", minutes=240)
AS_OF = 1_464_812_099_125_000_000


def answer(query: Query, wanted: Format = "json") -> Answer:
    """Return the in-memory answer to a query: a point per minute, and the query's fields."""
    symbol, minutes = query.symbol, query.minutes
    points = [
        {
            "ts": f"2026-05-12T15:{n // 60:02}:{n % 60:02}Z",
            "netVolume": n,
            "cumulative": n,
            "vwap": 1.32,
            "tradeCount": n,
        }
        for n in range(minutes if symbol == "LONG" else min(minutes, 240))
    ]
    body: dict[str, object] = {"symbol": symbol, **dict(query.echo)}
    body |= {"minutes": minutes, "count": len(points), "points": points}
    if query.at is not None:
        body["at"] = query.at
    data = json.dumps(body, separators=(",", ":")).encode()
    if wanted != "json":
        data = wanted.encode() + data
    as_of = None if symbol == "NONE" else AS_OF
    return Answer(data, f'"{hashlib.sha256(data).hexdigest()[:16]}"', as_of, symbol == "SIM", MEDIA[wanted])


class MemoryFlow:
    """Answers from memory; queries with `at` are answered later, as by a store."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.asked: list[tuple[str, Query, Format]] = []
        self.entered = threading.Event()
        self.leave = threading.Event()

    def answer(
        self, route: Route, query: Query, wanted: Format
    ) -> EncodedResponse | Awaitable[EncodedResponse]:
        self.asked.append((route.path, query, wanted))
        if query.symbol == "BROKEN":
            raise ZeroDivisionError("secret /etc/passwd")
        if query.at is not None or query.symbol == "SLOW":
            return self._later(query, wanted)
        return EncodedResponse(answer(query, wanted))

    async def _later(self, query: Query, wanted: Format) -> EncodedResponse:
        await self._wait(query)
        return EncodedResponse(answer(query, wanted))

    async def _wait(self, query: Query) -> None:
        if query.symbol == "SLOW":
            self.entered.set()
            await asyncio.to_thread(self.leave.wait, 10)

    def state(self, route: Route, query: Query) -> object:
        return None

    def meant(self, query: Query) -> Query:
        return query

    def listen(self, told: Callable[[str, frozenset[str]], None]) -> None:
        pass

    async def follow(
        self, route: Route, query: Query, use: Callable[[Made, Callable[[], EncodedResponse]], object]
    ) -> tuple[object, object]:
        await self._wait(query)
        body = Cumulative(symbol=query.symbol, count=0, points=Rows(CumulativePoint, {"ts": []}))
        return None, use(Made(body, AS_OF), lambda: EncodedResponse(answer(query)))

    def source(self, query: Query) -> Headers:
        return []

    async def symbols(self, wanted: Format) -> EncodedResponse:
        body = SymbolsBody(symbols=["SPY", "VIX"], count=2, last_updated=stamp(AS_OF, "s"))
        return encoded_response(Made(body, AS_OF), simulated=False, format=wanted)

    def detail(self) -> str:
        return ""

    def check(self, asset: str | None = None) -> None:
        if self.trouble:
            raise self.trouble


class Server:
    """Runs `run` on an event loop in a thread."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.stop_event: asyncio.Event | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._up: Future[int] = Future()
        self._thread = threading.Thread(target=self._main)
        self._thread.start()
        self.port = self._up.result(10)
        self.url = f"http://127.0.0.1:{self.port}"

    def _main(self) -> None:
        async def main() -> None:
            self.stop_event, self.loop = asyncio.Event(), asyncio.get_running_loop()
            await run(self.app, "127.0.0.1", 0, lambda _, port: self._up.set_result(port), self.stop_event)

        try:
            uvloop.run(main())
        except BaseException as error:
            if not self._up.done():
                self._up.set_exception(error)
            raise

    def tell_to_stop(self) -> None:
        assert self.loop
        assert self.stop_event
        self.loop.call_soon_threadsafe(self.stop_event.set)

    def join(self) -> None:
        self._thread.join(15)
        assert not self._thread.is_alive()

    def close(self) -> None:
        if self._thread.is_alive():
            self.tell_to_stop()
            self.join()


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


class World:
    """A server with everything that a test may change."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.flow, self.clock = MemoryFlow(), Clock()
        self.keys = Keys(FileLedger(folder / "flow.duckdb.keys"), self.clock)
        self.usage = Usage(FileCounts(folder / "flow.duckdb.keys"))
        self.settings = settings
        self.raw = {
            plan: self.keys.create(plan) for plan in ("free", "basic", "growth", "alpha", "enterprise")
        }
        self.server = Server(Application(self.flow, self.keys, self.usage, settings, self.clock))
        self.url = self.server.url
        self.http = httpx.Client(base_url=self.url, headers={"X-Api-Key": self.raw["alpha"]})

    def get(self, path: str = PATH, *, plan: str = "alpha", **options: object) -> httpx.Response:
        headers = {"X-Api-Key": self.raw[plan], **options.pop("headers", {})}  # type: ignore[dict-item]
        return self.http.get(path, headers=headers, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        self.http.close()
        self.server.close()
        self.usage.close()
        self.keys.close()


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("api"), Settings())
    yield world
    world.close()


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """One server for all tests without lasting effects; its settings are restored after each test."""
    shared_world.flow.asked.clear()
    yield shared_world
    shared_world.flow.trouble = None
    shared_world.clock.now = NOON


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[Settings], World]]:
    """Return a function that makes a separate server."""
    made: list[World] = []

    def make(settings: Settings) -> World:
        made.append(World(tmp_path, settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
