"""Answers are computed once for concurrent requests, off the event loop, and cached while they are valid."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import flowtape.server.flow
from flowtape import queries
from flowtape.errors import StoreError
from flowtape.model.query import Query
from flowtape.queries import Made
from flowtape.queries.flow_data import FlowData
from flowtape.server.encoded import EncodedResponse
from flowtape.server.routes import CUMULATIVE, ROUTES, Route
from oracle import MINUTE
from serving import Kept, kept
from tapes import ROW, SECOND, T0, frame

SPY = Query(symbol="SPY", minutes=60)
NOW = T0 + 3 * MINUTE


class Gate:
    """The cumulative answer with a counter, blocked while the gate is closed."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.threads: set[str] = set()
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()
        self.fails = False

    @property
    def route(self) -> Route:
        return replace(CUMULATIVE["option"], answer=self)  # type: ignore[no-any-return]

    def __call__(self, data: FlowData, query: Query) -> Made:
        self.made.append(data.now)
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.open.wait(10)
        if self.fails:
            raise StoreError("broken")
        return queries.cumulative(data, query)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Kept]:
    with kept(tmp_path, NOW) as made:
        made.take([ROW])
        yield made


async def get(server: Kept, route: Route, query: Query = SPY) -> EncodedResponse:
    found = server.flow.answer(route, query, "json")
    return found if isinstance(found, EncodedResponse) else await found


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.acquire, timeout=10)


async def begun() -> None:
    """Let pending requests run as far as the closed gate allows."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_concurrent_requests_share_one_computation(server: Kept) -> None:
    gate = Gate()

    async def main() -> None:
        gate.open.clear()
        asking = [asyncio.create_task(get(server, gate.route)) for _ in range(20)]
        await entered(gate)
        asking[0].cancel()
        asking += [asyncio.create_task(get(server, gate.route)) for _ in range(20)]
        await begun()
        gate.open.set()
        gone, *found = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(gone, asyncio.CancelledError)
        assert len({id(one) for one in found}) == 1
        assert server.flow.answer(gate.route, SPY, "json") is found[0]

    asyncio.run(main())
    assert len(gate.made) == 1
    assert all(name.startswith("reader") for name in gate.threads)


def test_a_request_after_a_print_gets_an_answer_with_it(server: Kept) -> None:
    gate = Gate()

    async def main() -> tuple[EncodedResponse, EncodedResponse, EncodedResponse]:
        gate.open.clear()
        before = asyncio.create_task(get(server, gate.route))
        await entered(gate)
        server.take([ROW | {"ts": T0 + SECOND, "seq": 1}])
        after = asyncio.create_task(get(server, gate.route))
        await entered(gate)
        gate.open.set()
        return await before, await after, await get(server, gate.route)

    before, after, later = asyncio.run(main())
    assert len(gate.made) == 2
    assert before is not after
    assert after.body == later.body
    assert b'"tradeCount":2' in after.body


def test_an_answer_is_cached_until_a_print_or_the_minute(server: Kept) -> None:
    gate = Gate()

    async def times(count: int, query: Query = SPY) -> None:
        await get(server, gate.route, query)
        assert len(gate.made) == count

    async def main() -> None:
        await times(1)
        server.clock.now += MINUTE - 1
        await times(1)
        server.clock.now += 1
        await times(2)
        server.take([ROW | {"symbol": "AAPL", "root": "AAPL"}], "other")
        await times(2)
        server.take([ROW | {"seq": 1}])
        await times(3)
        past = replace(SPY, at=T0 + MINUTE)
        await times(4, past)
        server.clock.now += 5 * MINUTE
        await times(4, past)
        server.take([ROW | {"seq": 2}])
        await times(5, past)

    asyncio.run(main())


def test_an_answer_changes_when_an_older_day_is_replaced(tmp_path: Path) -> None:
    past = replace(SPY, at=T0 + MINUTE)
    later = T0 + 30 * 24 * 60 * MINUTE
    with kept(tmp_path, later) as server:
        server.take([ROW])
    with kept(tmp_path, later) as server:
        route = CUMULATIVE["option"]
        assert b'"tradeCount":1' in asyncio.run(get(server, route, past)).body
        server.ingestor.take(frame([ROW, ROW | {"seq": 1}]), "another", replace=True)
        assert b'"tradeCount":2' in asyncio.run(get(server, route, past)).body


def test_cross_sections_and_bars_are_at_most_one_second_old(server: Kept) -> None:
    by_name = {route.path: route for route in ROUTES}
    leaders = by_name["/v1/flow/options/leaderboard"]
    bars = by_name["/v1/flow/stocks/{symbol}/bars"]
    whole = Query(limit=5, minutes=60)
    stock = Query(asset="stock", symbol="SPY", minutes=5, resolution="1s")

    async def main() -> None:
        for route, query in ((leaders, whole), (bars, stock)):
            first = await get(server, route, query)
            assert await get(server, route, query) is first
            server.clock.now += SECOND
            assert await get(server, route, query) is not first
        first = await get(server, leaders, whole)
        server.take([ROW | {"symbol": "NEW", "root": "NEW", "price": ROW["ask"]}], "other")
        assert (await get(server, leaders, whole)).body != first.body

    asyncio.run(main())


def test_a_failure_reaches_all_requests_and_is_not_cached(server: Kept) -> None:
    gate = Gate()
    gate.fails = True

    async def main() -> None:
        gate.open.clear()
        asking = [asyncio.create_task(get(server, gate.route)) for _ in range(3)]
        await entered(gate)
        gate.open.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in found] == [StoreError] * 3
        gate.fails = False
        assert isinstance(await get(server, gate.route), EncodedResponse)

    asyncio.run(main())
    assert len(gate.made) == 2


def test_an_unused_answer_is_dropped_from_the_cache(server: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowtape.server.flow, "KEPT_FOR", 0.2)
    monkeypatch.setattr(flowtape.server.flow, "LOOK_EVERY", 0.02)
    gate = Gate()

    def held(etag: bytes) -> bool:
        gc.collect()
        return any(isinstance(one, EncodedResponse) and one.etag == etag for one in gc.get_objects())

    async def main() -> None:
        etag = (await get(server, gate.route)).etag
        assert held(etag)
        watching = asyncio.create_task(server.flow.watch())
        async with asyncio.timeout(10):
            while held(etag):
                await asyncio.sleep(0.01)
        watching.cancel()
        assert (await get(server, gate.route)).etag == etag
        assert len(gate.made) == 2

    asyncio.run(main())
