"""Pages without a key are answered only if the `Host` header names the server."""

from collections.abc import Callable

import httpx
import pytest

from flowtape.settings import Settings

from .conftest import PATH, World

GUARDED = ("/metrics", "/docs", "/docs/start.js", "/openapi.json")
OURS = (
    "127.0.0.1",
    "127.0.0.1:8787",
    "localhost:1",
    "[::1]:8787",
    "10.1.2.3",
    "api-1:8787",
    "a.localhost",
    "LOCALHOST.",
)


def status(world: World, path: str, host: str) -> int:
    return httpx.get(world.url + path, headers={"Host": host}).status_code


@pytest.mark.parametrize("path", GUARDED)
def test_a_page_is_refused_under_a_foreign_host(world: World, path: str) -> None:
    assert [status(world, path, host) for host in OURS] == [200] * len(OURS)
    refused = httpx.get(world.url + path, headers={"Host": "evil.example:8787"})
    assert refused.status_code == 421
    assert refused.json()["error"] == "unknown_host"
    assert "evil.example" in refused.json()["message"]
    assert status(world, path, "127.0.0.1.evil.example") == 421


def test_routes_with_keys_and_health_accept_any_host(world: World) -> None:
    assert status(world, "/health", "evil.example") == 200
    assert world.get(PATH, headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "good", "bad"),
    [
        (Settings(hosts="flow.example, b.example."), ["flow.example", "B.example:443"], ["c.example"]),
        (Settings(hosts="*"), ["any.example"], []),
        (Settings(public_url="https://flow.example/tape"), ["flow.example"], ["x.example"]),
        (Settings(host="desk.example"), ["desk.example"], ["x.example"]),
    ],
)
def test_host_names_are_a_setting(
    worlds: Callable[[Settings], World], settings: Settings, good: list[str], bad: list[str]
) -> None:
    world = worlds(settings)
    assert [status(world, "/metrics", host) for host in good] == [200] * len(good)
    assert [status(world, "/metrics", host) for host in bad] == [421] * len(bad)
