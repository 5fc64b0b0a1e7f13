"""A real server on a real socket, over a flow that is held in memory."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest

from flowtape.answers import Answer
from flowtape.api.app import Application, create_app
from flowtape.api.keys import Keys
from flowtape.api.server import run
from flowtape.settings import Settings

PATH = "/v1/flow/options/VIX/cumulative"
NOON = int(datetime(2026, 5, 12, 12, tzinfo=UTC).timestamp()) * 10**9
AS_OF = 1_464_812_099_125_000_000


def answer(symbol: str, minutes: int, expiry: date | None = None, at: int | None = None) -> Answer:
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
    body: dict[str, object] = {"symbol": symbol}
    if expiry:
        body["expiry"] = expiry.isoformat()
    body |= {"minutes": minutes, "count": len(points), "points": points}
    if at is not None:
        body["at"] = at
    data = json.dumps(body, separators=(",", ":")).encode()
    as_of = None if symbol == "NONE" else AS_OF
    return Answer(data, f'"{hashlib.sha256(data).hexdigest()[:16]}"', as_of, symbol == "SIM")


class MemoryFlow:
    """A flow with answers of its own; `at` is answered later, as a store would."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.asked: list[tuple[object, ...]] = []
        self.entered = threading.Event()
        self.leave = threading.Event()

    def cumulative(
        self, asset: str, symbol: str, minutes: int, expiry: date | None, at: int | None
    ) -> Answer | Awaitable[Answer]:
        self.asked.append((asset, symbol, minutes, expiry, at))
        if symbol == "BROKEN":
            raise ZeroDivisionError("secret /etc/passwd")
        if at is not None or symbol == "SLOW":
            return self._later(symbol, minutes, expiry, at)
        return answer(symbol, minutes, expiry)

    async def _later(self, symbol: str, minutes: int, expiry: date | None, at: int | None) -> Answer:
        if symbol == "SLOW":
            self.entered.set()
            await asyncio.to_thread(self.leave.wait, 10)
        return answer(symbol, minutes, expiry, at)

    def check(self) -> None:
        if self.trouble:
            raise self.trouble


class Server:
    """`run` on an event loop of a thread of its own."""

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
            asyncio.run(main())
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
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


class World:
    """A server with everything a test may turn."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.flow, self.clock = MemoryFlow(), Clock()
        self.keys = Keys(folder / "flow.duckdb.keys", self.clock)
        self.settings = settings
        self.raw = {
            plan: self.keys.create(plan) for plan in ("free", "basic", "growth", "alpha", "enterprise")
        }
        self.server = Server(create_app(self.flow, self.keys, settings, self.clock))
        self.url = self.server.url
        self.http = httpx.Client(base_url=self.url, headers={"X-Api-Key": self.raw["alpha"]})

    def get(self, path: str = PATH, *, plan: str = "alpha", **options: object) -> httpx.Response:
        headers = {"X-Api-Key": self.raw[plan], **options.pop("headers", {})}  # type: ignore[dict-item]
        return self.http.get(path, headers=headers, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        self.http.close()
        self.server.close()
        self.keys.close()


@pytest.fixture(scope="session")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("api"), Settings())
    yield world
    world.close()


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """One server for all tests that leave no trace; what they turn is turned back."""
    shared_world.flow.asked.clear()
    yield shared_world
    shared_world.flow.trouble = None
    shared_world.clock.now = NOON


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[Settings], World]]:
    """Makes a server of one's own."""
    made: list[World] = []

    def make(settings: Settings) -> World:
        made.append(World(tmp_path, settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
