import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from flowtape.errors import StoreError
from flowtape.server.auth.keyfile import FileCounts
from flowtape.server.auth.keys import Key
from flowtape.server.auth.quotas import Quotas
from flowtape.server.auth.usage import Usage
from flowtape.server.errors import Refusal
from flowtape.settings import Settings

from .conftest import NOON, PATH, World

DAY = 86_400 * 10**9


@pytest.fixture
def world(worlds: Callable[[Settings], World]) -> World:
    return worlds(Settings(flow_plan="Free", limit_free=2, limit_enterprise=1))


def left(response: httpx.Response) -> str:
    return response.headers["X-RateLimit-Remaining"]


def test_a_used_up_quota_is_429(world: World) -> None:
    assert [left(world.get(plan="free")) for _ in range(2)] == ["1", "0"]
    found = world.get(plan="free")
    assert found.status_code == 429
    reset = (NOON // DAY + 1) * 86_400
    assert found.json() == {
        "status": "ERROR",
        "error": "Quota exceeded",
        "message": "This key has used its 2 requests of today; "
        "the count starts again at 2026-05-13T00:00:00Z.",
        "current_plan": "Free",
        "limit": 2,
        "upgrade_to": "Basic",
        "reset_at": "2026-05-13T00:00:00Z",
    }
    assert found.headers["Retry-After"] == str(12 * 3600)
    assert (found.headers["X-RateLimit-Limit"], left(found)) == ("2", "0")
    assert found.headers["X-RateLimit-Reset"] == str(reset)
    assert world.get(plan="basic").status_code == 200


def test_the_wait_is_whole_seconds_and_at_least_one(world: World) -> None:
    world.get(plan="enterprise")
    for before, wait in ((1, "1"), (10**9, "1"), (10**9 + 1, "2"), (2 * 10**9 - 1, "2")):
        world.clock.now = (NOON // DAY + 1) * DAY - before
        found = world.get(plan="enterprise")
        assert found.status_code == 429
        assert found.headers["Retry-After"] == wait
        assert "upgrade_to" not in found.json()
        assert None not in found.json().values()


def test_a_day_starts_at_midnight_utc(world: World) -> None:
    world.get(plan="enterprise")
    world.clock.now = (NOON // DAY + 1) * DAY - 1
    assert world.get(plan="enterprise").status_code == 429
    world.clock.now += 1
    assert world.get(plan="enterprise").status_code == 200
    assert world.get(plan="enterprise").status_code == 429


def test_a_refused_request_costs_nothing(world: World) -> None:
    bad = [
        PATH + "?minutes=abc",
        "/v1/flow/options/A%20B/cumulative",
        "/nothing",
        "/v1/flow/options/BROKEN/cumulative",
    ]
    for target in bad:
        assert world.get(target, plan="free").status_code in (400, 404, 500)
    world.flow.trouble = StoreError("broken")
    assert left(world.get(plan="free")) == "2"
    world.flow.trouble = None
    assert left(world.get(plan="free")) == "1"


def test_a_used_up_quota_costs_no_read_of_the_store(world: World) -> None:
    world.get(plan="enterprise")
    world.flow.asked.clear()
    assert world.get(plan="enterprise").status_code == 429
    assert world.flow.asked == []
    world.flow.trouble = StoreError("broken")
    assert world.get(plan="enterprise").status_code == 502


def test_304_and_head_count_as_requests(world: World) -> None:
    first = world.get(plan="free")
    again = world.get(plan="free", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, left(again)) == (304, "0")
    assert world.http.head(PATH, headers={"X-Api-Key": world.raw["free"]}).status_code == 429


def test_a_count_survives_a_restart(worlds: Callable[[Settings], World]) -> None:
    settings = Settings(flow_plan="Free", limit_free=2)
    first = worlds(settings)
    first.get(plan="free")
    first.close()
    second = worlds(settings)
    second.raw = first.raw
    assert left(second.get(plan="free")) == "0"
    assert second.get(plan="free").status_code == 429


def test_the_last_request_is_granted_once_under_concurrency(world: World) -> None:
    async def main() -> list[int]:
        async with httpx.AsyncClient(base_url=world.url, headers={"X-Api-Key": world.raw["free"]}) as client:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(client.get(PATH, params={"at": f"2026-05-12T10:{n:02}:00Z"}))
                    for n in range(20)
                ]
            return sorted(task.result().status_code for task in tasks)

    assert asyncio.run(main()) == [200] * 2 + [429] * 18


def test_a_server_grants_what_another_gave_back(tmp_path: Path) -> None:
    settings = Settings(limit_free=250)
    key = Key(id="k", plan="Free", label="", created=0)
    one, other = (Usage(FileCounts(tmp_path / "keys")) for _ in range(2))
    quotas = Quotas(other, settings)

    def granted() -> int:
        many = 0
        with contextlib.suppress(Refusal):
            while True:
                quotas.check(key, NOON)
                quotas.spend(key, NOON)
                many += 1
        return many

    async def main() -> int:
        Quotas(one, settings).spend(key, NOON)
        total = 1 + granted()
        assert total < 250
        one.flush()
        watching = asyncio.create_task(other.watch())
        async with asyncio.timeout(5):
            while total < 250:
                await asyncio.sleep(0)
                total += granted()
        watching.cancel()
        return total + granted()

    assert asyncio.run(main()) == 250
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [(PATH, 502), (PATH + "?minutes=abc", 400), ("/v1/account", 502), (PATH + "/stream", 502)],
)
def test_counts_that_cannot_be_read_are_no_fault_of_ours(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    for file in tmp_path.glob("flow.duckdb.keys*"):
        with file.open("r+b") as written:
            written.write(b"garbage!" * (file.stat().st_size // 8))
    world.clock.now += DAY
    for _ in range(2):
        found = world.get(path, plan="free")
        assert found.status_code == status
        assert "X-RateLimit-Limit" not in found.headers
        assert found.headers["Access-Control-Allow-Origin"] == "*"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
