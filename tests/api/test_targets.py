"""Long request targets and headers: their cost before the key is known, and the memory they leave."""

import asyncio
import statistics
import time
import tracemalloc

import httpx
import pytest

from inprocess import ask

from .conftest import PATH, World

MOST_QUERY, MOST_PAIRS = 8192, 64
Headers = list[tuple[bytes, bytes]]
ESCAPES = b"x%41=%41&" * 6800


def costs(world: World, targets: list[tuple[bytes, bytes, Headers]]) -> tuple[set[int], float, int]:
    """Return the statuses of targets, CPU seconds of the median one, and the bytes of memory left after all."""
    statuses: set[int] = set()
    took: list[float] = []

    async def main() -> int:
        tracemalloc.start()
        for path, query, headers in targets:
            target = path + (b"?" + query if query else b"")
            began = time.thread_time()
            found = await ask(world.server.app, target, dict(headers))
            took.append(time.thread_time() - began)
            statuses.add(found.status)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return kept

    kept = asyncio.run(main())
    return statuses, statistics.median(took), kept


@pytest.mark.parametrize("what", ["many arguments", "one long argument", "a long path", "many headers"])
def test_a_request_without_a_key_is_cheap(world: World, what: str) -> None:
    path = PATH.encode()
    number = [b"%d" % n for n in range(200)]
    targets: dict[str, list[tuple[bytes, bytes, Headers]]] = {
        "many arguments": [(path, ESCAPES + n, []) for n in number],
        "one long argument": [(path, b"a" + n + b"%41" * 20_600, []) for n in number],
        "a long path": [(b"/%41" * 15_000 + n, b"", []) for n in number],
        "many headers": [(b"/docs", b"", [(b"accept-encoding", b"gzip," * 12_000 + n)]) for n in number],
    }
    statuses, median, kept = costs(world, targets[what])
    assert statuses - {200} <= {401, 404}
    assert median < 0.002
    assert kept < 4 * 2**20


def test_a_target_with_a_key_is_not_cached(world: World) -> None:
    key: Headers = [(b"x-api-key", world.raw["alpha"].encode())]
    filled = b"minutes=1&unused=" + b"u" * 8000
    targets = [(PATH.encode(), filled + b"%d" % n, key) for n in range(500)]
    statuses, _, kept = costs(world, targets)
    assert statuses == {200}
    # 500 of 8 KB are 4 MB.
    assert kept < 2 * 2**20


@pytest.mark.parametrize("path", [PATH, "/v1/account", f"{PATH}/stream"])
def test_a_long_query_is_refused_by_name_after_the_key(world: World, path: str) -> None:
    for query, reason in (
        ("a=" + "x" * MOST_QUERY, f"query is {MOST_QUERY + 2:,} bytes long; at most 8,192 are taken."),
        ("a=1&" * MOST_PAIRS + "a=1", "query has 65 arguments; at most 64 are taken."),
    ):
        found = world.get(f"{path}?{query}")
        assert found.status_code == 400
        assert found.json() == {"error": "invalid_query", "message": reason}
        assert httpx.get(f"{world.url}{path}?{query}").status_code == 401
    fits = "a=1&" * (MOST_PAIRS - 1) + "a=1"
    if path != f"{PATH}/stream":
        assert world.get(f"{path}?{fits}").status_code == 200
        assert httpx.get(f"{world.url}{path}?{'a=1&' * 63}apiKey={world.raw['alpha']}").status_code == 200


def test_long_keys_and_headers_are_answered_as_if_absent(world: World) -> None:
    assert world.get(PATH, headers={"X-Api-Key": "k" * 60_000}).status_code == 401
    assert httpx.get(f"{world.url}{PATH}?apiKey={'k' * 60_000}").status_code == 401
    found = world.get(PATH, headers={"Accept": "text/csv," * 3000, "Accept-Encoding": "gzip," * 3000})
    assert found.headers["content-type"] == "application/json"
    assert "content-encoding" not in found.headers
    tags = ", ".join([found.headers["etag"]] * 1000)
    assert world.get(PATH, headers={"If-None-Match": tags}).status_code == 200
    assert world.get(PATH, headers={"If-None-Match": found.headers["etag"]}).status_code == 304
    long = httpx.get(f"{world.url}/{'a' * 60_000}")
    assert long.status_code == 404
    assert len(long.content) < 300
