"""`/v1/account` and `/v1/symbols`, for every plan."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from flowtape.errors import StoreError
from flowtape.server.account import NOTE
from flowtape.settings import Settings
from oracle import MINUTE
from serving import kept
from tapes import ROW, STOCK, T0

from .conftest import NOON, PATH, World


@pytest.mark.parametrize(
    ("plan", "limit"),
    [
        ("free", "5"),
        ("basic", "250"),
        ("growth", "2500"),
        ("alpha", "unlimited"),
        ("enterprise", "unlimited"),
    ],
)
def test_account_of_every_plan(worlds: Callable[[Settings], World], plan: str, limit: str) -> None:
    world = worlds(Settings(flow_plan="Free"))
    (key,) = [key for key in world.keys.list() if key.plan.lower() == plan]
    for used in (0, 0, 1):
        if used:
            assert world.get(plan=plan).status_code == 200
        found = world.get("/v1/account", plan=plan)
        assert found.json() == {
            "user_id": key.id,
            "email": None,
            "plan": plan,
            "daily_limit": limit,
            "usage_today": 0 if limit == "unlimited" else used,
            "remaining": limit if limit == "unlimited" else str(int(limit) - used),
            "resets_at": "2026-05-13T00:00:00Z",
        }
        assert list(found.json()) == [
            "user_id", "email", "plan", "daily_limit", "usage_today", "remaining", "resets_at",
        ]  # fmt: skip
        assert found.headers["X-RateLimit-Limit"] == limit
        assert world.raw[plan] not in found.text
    world.clock.now = NOON + 86_400 * 10**9
    assert world.get("/v1/account", plan=plan).json()["usage_today"] == 0


def test_account_answers_without_quota_and_without_a_store(
    worlds: Callable[[Settings], World],
) -> None:
    world = worlds(Settings())
    for left in range(4, -1, -1):
        assert world.get("/v1/symbols", plan="free").headers["X-RateLimit-Remaining"] == str(left)
    assert world.get("/v1/symbols", plan="free").status_code == 429
    world.flow.trouble = StoreError("broken")
    assert world.get("/v1/symbols", plan="alpha").status_code == 502
    assert world.get("/v1/account", plan="free").json()["remaining"] == "0"


def test_account_and_symbols_need_a_key(worlds: Callable[[Settings], World]) -> None:
    world = worlds(Settings())
    for path in ("/v1/account", "/v1/symbols"):
        assert httpx.get(world.url + path).status_code == 401
        assert httpx.get(world.url + path, params={"apiKey": world.raw["free"]}).status_code == 200
        assert world.http.post(path).status_code == 405
        tag = world.get(path).headers["ETag"]
        assert world.get(path, headers={"If-None-Match": tag}).status_code == 304
        assert world.http.head(path).content == b""
    assert world.get(PATH, plan="free").status_code == 403


def test_symbols_lists_symbols_with_prints(tmp_path: Path) -> None:
    with kept(tmp_path, T0 + MINUTE) as server:
        (found,) = server.ask(("/v1/symbols", {}))
        assert found.json() == {"symbols": [], "count": 0, "note": NOTE, "last_updated": None}
        assert "X-Data-As-Of" not in found.headers
        server.take([ROW, ROW | {"symbol": "VIX", "root": "VIXW", "ts": T0 + 125_000_000}], "a")
        server.take([STOCK | {"ts": T0 - 1}, STOCK | {"symbol": "AAPL", "root": "AAPL"}], "b")
        (found,) = server.ask(("/v1/symbols", {}))
        assert found.json() == {
            "symbols": ["AAPL", "SPY", "VIX"],
            "count": 3,
            "note": NOTE,
            "last_updated": "2026-03-06T20:58:00Z",
        }
        assert found.headers["X-Data-As-Of"] == "2026-03-06T20:58:00.125Z"
