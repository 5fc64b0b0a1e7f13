"""The API over a real socket: statuses, headers and bodies."""

import contextlib
import gzip
import re
import socket
import time
from collections.abc import Callable
from datetime import date

import httpx
import pytest
from msgspec.structs import replace

from flowtape.errors import FeedError, StoreBusy, StoreError, UsageError
from flowtape.model.query import Filter, Query
from flowtape.server.routes import CUMULATIVE
from flowtape.server.server import free_address, run
from flowtape.settings import Settings

from .conftest import AS_OF, NOON, PATH, VIX, Server, World, answer

RESET = (NOON // 10**9 // 86_400 + 1) * 86_400


def rate(response: httpx.Response) -> tuple[str | None, ...]:
    names = ("limit", "remaining", "reset")
    return tuple(response.headers.get(f"X-RateLimit-{name}") for name in names)


@pytest.fixture
def raw(world: World) -> Callable[..., bytes]:
    """Return a function that sends bytes on a new connection and reads until `ending` has arrived `times` times."""

    def send(data: bytes, ending: bytes, times: int = 1) -> bytes:
        found = b""
        with socket.create_connection(("127.0.0.1", world.server.port), timeout=5) as connection:
            connection.sendall(data)
            while found.count(ending) < times and (part := connection.recv(65_536)):
                found += part
        return found

    return send


def test_an_answer(world: World) -> None:
    found = world.get(params={"minutes": 3})
    assert found.status_code == 200
    assert found.content == answer(replace(VIX, minutes=3)).body
    assert found.headers["Content-Type"] == "application/json"
    assert found.headers["X-Data-As-Of"] == "2016-06-01T20:14:59.125Z"
    assert found.headers["X-Endpoint-Version"] == "1"
    assert found.headers["ETag"] == answer(replace(VIX, minutes=3)).etag
    assert found.headers["Vary"] == "Accept, Accept-Encoding"
    assert found.headers["Cache-Control"] == "private, no-cache"
    assert found.headers["X-Content-Type-Options"] == "nosniff"
    assert found.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-Data-Source" not in found.headers
    assert rate(found) == ("unlimited", "unlimited", str(RESET))
    assert AS_OF


def test_headers_of_simulated_and_empty_answers(world: World) -> None:
    assert world.get("/v1/flow/options/sim/cumulative").headers["X-Data-Source"] == "simulated"
    assert "X-Data-As-Of" not in world.get("/v1/flow/options/none/cumulative").headers


def test_parameters_reach_the_query(world: World) -> None:
    world.get("/v1/flow/options/%5evix/cumulative?minutes=%2B99999&expiry=2016-06-15&at=2016-06-01T20:15:00Z")
    world.get("/v1/flow/options/spxw/cumulative?anything=1&anything=2")
    world.get("/v1/flow/options/BRK%2Fb/cumulative")
    world.get("/v1/flow/stocks/spy/cumulative")
    day = date(2016, 6, 15)
    assert world.flow.asked == [
        (
            CUMULATIVE["option"].path,
            Query(
                symbol="VIX",
                minutes=10_080,
                filter=Filter(expiries=((day, day),)),
                echo=(("expiry", "2016-06-15"),),
                at=1_464_812_100 * 10**9,
            ),
            "json",
        ),
        (CUMULATIVE["option"].path, Query(symbol="SPX", minutes=240), "json"),
        (CUMULATIVE["option"].path, Query(symbol="BRK/B", minutes=240), "json"),
        (CUMULATIVE["stock"].path, Query(asset="stock", symbol="SPY", minutes=240), "json"),
    ]


@pytest.mark.parametrize(
    ("query", "minutes"),
    [
        ("", 240),
        ("0", 1),
        ("-5", 1),
        ("1", 1),
        ("10080", 10_080),
        ("10081", 10_080),
        ("1" + "0" * 30, 10_080),
    ],
)
def test_minutes_are_clamped_and_echoed(world: World, query: str, minutes: int) -> None:
    assert world.get(params={"minutes": query} if query else {}).json()["minutes"] == minutes


@pytest.mark.parametrize(
    ("target", "error", "value"),
    [
        (PATH + "?minutes=abc", "invalid_minutes", "'abc'"),
        (PATH + "?minutes=1.5", "invalid_minutes", "'1.5'"),
        (PATH + "?minutes=", "invalid_minutes", "''"),
        (PATH + "?minutes=5&minutes=5", "invalid_minutes", "'5', '5'"),
        (PATH + "?expiry=2026-02-30", "invalid_expiry", "'2026-02-30'"),
        (PATH + "?at=yesterday", "invalid_at", "'yesterday'"),
        ("/v1/flow/options/A%20B/cumulative", "invalid_symbol", "'A B'"),
        ("/v1/flow/options//cumulative", "invalid_symbol", "''"),
        ("/v1/flow/options/%ff/cumulative", "invalid_symbol", "'\ufffd'"),
    ],
)
def test_an_invalid_parameter_is_400(world: World, target: str, error: str, value: str) -> None:
    found = world.get(target)
    assert found.status_code == 400
    assert list(found.json()) == ["error", "message"]
    assert found.json()["error"] == error
    assert error.removeprefix("invalid_") in found.json()["message"]
    assert value in found.json()["message"]
    assert rate(found) == ("unlimited", "unlimited", str(RESET))
    assert found.headers["Cache-Control"] == "no-store"
    assert world.flow.asked == []


@pytest.mark.parametrize("key", [None, "", "wrong", "ft_" + "x" * 32, "\xff"])
def test_401_is_the_same_for_a_missing_and_a_wrong_key(world: World, key: str | None) -> None:
    headers = [] if key is None else [(b"X-Api-Key", key.encode("latin-1"))]
    found = httpx.get(world.url + PATH + "?minutes=abc", headers=headers)
    assert found.status_code == 401
    assert found.content == b'{"title":"Unauthorized","status":401,"detail":"Invalid API key."}'
    assert rate(found) == (None, None, None)


def test_the_key_may_come_in_the_query(world: World) -> None:
    key = world.raw["alpha"]
    assert httpx.get(world.url + PATH, params={"apiKey": key}).status_code == 200
    assert httpx.get(world.url + f"{PATH}?api%4Bey={key}").status_code == 200
    assert httpx.get(world.url + PATH, params={"apiKey": key}, headers={"X-Api-Key": ""}).status_code == 200
    assert httpx.get(world.url + PATH, params={"apiKey": key}, headers={"X-Api-Key": "x"}).status_code == 401
    assert httpx.get(world.url + f"{PATH}?apiKey={key}&apiKey={key}").status_code == 401
    assert not any(key.encode() in target for target in world.server.app.remembered)


@pytest.mark.parametrize(("plan", "limit"), [("free", 5), ("basic", 250), ("growth", 2500)])
def test_403_comes_before_the_parameters_and_costs_nothing(world: World, plan: str, limit: int) -> None:
    found = world.get(PATH + "?minutes=abc", plan=plan)
    assert found.status_code == 403
    name = plan.capitalize()
    assert found.json() == {
        "status": "ERROR",
        "error": "tier_restricted",
        "message": f"This endpoint needs the Alpha plan or higher; this key is on the {name} plan.",
        "current_plan": name,
        "required_plan": "Alpha",
    }
    assert rate(found) == (str(limit), str(limit), str(RESET))


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/flow/options/VIX", PATH + "//", "/V1/flow/options/VIX/cumulative", "//", "/%00"]
)
def test_an_unknown_path_is_404(world: World, path: str) -> None:
    found = httpx.get(world.url + path)
    assert found.status_code == 404
    assert list(found.json()) == ["error", "message"]
    assert found.json()["error"] == "not_found"


def test_an_answer_never_repeats_a_key(world: World) -> None:
    key = world.raw["alpha"]
    for target in (f"/{key}", f"{PATH}?minutes={key}", f"/v1/flow/options/{key}/cumulative"):
        assert key not in world.get(target).text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
@pytest.mark.parametrize("path", [PATH, "/health"])
def test_other_methods_are_405(world: World, method: str, path: str) -> None:
    found = world.http.request(method, path)
    assert found.status_code == 405
    assert found.json()["error"] == "method_not_allowed"
    assert found.headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path",
    [
        PATH,
        PATH + "/",
        PATH + "?minutes=abc",
        PATH + "/stream",
        "/v1/account",
        "/v1/nothing",
        "/v1/",
        "/v1/flow//x",
    ],
)
def test_every_path_of_the_api_answers_a_preflight(world: World, path: str) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Headers": "x-api-key"}
    found = httpx.options(world.url + path, headers=asked)
    assert (found.status_code, found.content) == (204, b"")
    assert found.headers["Access-Control-Allow-Origin"] == "*"
    assert found.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
    assert found.headers["Access-Control-Allow-Headers"].split(", ") == [
        "X-Api-Key", "X-Source", "Content-Type", "Authorization", "Accept", "Cache-Control", "If-None-Match",
        "Last-Event-ID",
    ]  # fmt: skip
    assert int(found.headers["Access-Control-Max-Age"]) > 0


def test_a_preflight_outside_the_api_finds_nothing(world: World) -> None:
    assert httpx.options(world.url + "/nothing").status_code == 404


@pytest.mark.parametrize(
    "target", [PATH, PATH + "?minutes=abc", PATH + "?apiKey=x", "/v1/nothing", "/v1/account"]
)
def test_a_browser_may_read_the_headers(world: World, target: str) -> None:
    headers = {} if "apiKey" in target else {"X-Api-Key": world.raw["alpha"]}
    found = httpx.get(world.url + target, headers=headers).headers
    assert found["Access-Control-Allow-Origin"] == "*"
    exposed = found["Access-Control-Expose-Headers"].split(", ")
    for name in ("ETag", "X-Data-As-Of", "X-Next-Cursor", "X-RateLimit-Remaining", "Retry-After"):
        assert name in exposed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (PATH, 200),
        ("/v1/account", 200),
        ("/v1/symbols", 200),
        ("/health", 200),
        ("/docs", 200),
        (PATH + "/stream", 200),
    ],
)
def test_a_slash_may_follow_a_path(world: World, path: str, status: int) -> None:
    headers = {"X-Api-Key": world.raw["alpha"]}
    for target in (path + "/", path + "/?_=3"):
        with httpx.stream("GET", world.url + target, headers=headers) as found:
            assert found.status_code == status


@pytest.mark.parametrize("name", ["minutes", "Minutes", "MINUTES", "mInUtEs", "%4Dinutes"])
def test_parameter_names_are_accepted_in_any_case(world: World, name: str) -> None:
    assert world.get(f"{PATH}?{name}=7").json()["minutes"] == 7
    assert world.get(f"{PATH}?{name}=7&minutes=8").json()["error"] == "invalid_minutes"


@pytest.mark.parametrize("name", ["apiKey", "apikey", "APIKEY", "ApiKey"])
def test_the_key_parameter_is_accepted_in_any_case(world: World, name: str) -> None:
    key = world.raw["alpha"]
    for path in (PATH, "/v1/account"):
        assert httpx.get(world.url + path, params={name: key}).status_code == 200
        assert httpx.get(world.url + path, params={name: "x"}).status_code == 401


def test_head_is_get_without_the_body(world: World) -> None:
    for path in (PATH, "/health", "/openapi.json", "/nothing"):
        got, head = world.get(path), world.http.head(path)
        assert head.content == b""
        skip = ("date",)
        assert [h for h in head.headers.items() if h[0] not in skip] == [
            h for h in got.headers.items() if h[0] not in skip
        ]


def test_an_unchanged_answer_is_304(world: World) -> None:
    first = world.get()
    tag = first.headers["ETag"].removeprefix("W/")
    for condition in (tag, f"W/{tag}", f'"a", W/{tag} , "b"', "*"):
        found = world.get(headers={"If-None-Match": condition})
        assert (found.status_code, found.content) == (304, b"")
        assert found.headers["ETag"] == tag
        for name in ("X-Data-As-Of", "X-Endpoint-Version", "Vary", "Cache-Control", "X-RateLimit-Limit"):
            assert found.headers[name] == first.headers[name]
    for condition in ('"other"', tag.strip('"'), ""):
        assert world.get(headers={"If-None-Match": condition}).status_code == 200


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True), ("GZIP", True), ("br, gzip;q=0.5", True), ("*", True), ("deflate, x-gzip", True),
        ("", False), ("gzip;q=0", False), ("gzip; q=0.0, *", False), ("identity", False), ("br", False),
        ("gzip;q=0.2, identity;q=0.9", False), ("gzip;q=x", False), (";;,", False),
    ],
)  # fmt: skip
def test_bodies_are_compressed_on_request(world: World, accepted: str, packed: bool) -> None:
    with world.http.stream(
        "GET", PATH, headers={"Accept-Encoding": accepted, "X-Api-Key": world.raw["alpha"]}
    ) as found:
        body = b"".join(found.iter_raw())
    assert int(found.headers["Content-Length"]) == len(body)
    assert ("Content-Encoding" in found.headers) == packed
    assert found.headers["Vary"] == "Accept, Accept-Encoding"
    assert (gzip.decompress(body) if packed else body) == answer(VIX).body
    assert found.headers["ETag"] == ("W/" if packed else "") + answer(VIX).etag


def test_only_bodies_above_one_kilobyte_are_compressed(world: World) -> None:
    assert "Content-Encoding" not in world.get(params={"minutes": 1}).headers
    found = world.get("/v1/flow/options/LONG/cumulative?minutes=10080")
    assert found.headers["Content-Encoding"] == "gzip"
    assert found.content == answer(Query(symbol="LONG", minutes=10_080)).body


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (StoreError("/srv/x.duckdb is broken"), "The store cannot be read or written."),
        (StoreBusy("/srv/x.duckdb is held"), "The store is held by another process."),
        (FeedError("silent for 31 s"), "The live feed has failed or has been silent for too long."),
    ],
)
def test_an_untrusted_answer_is_502_and_unhealthy(world: World, trouble: Exception, reason: str) -> None:
    world.flow.trouble = trouble
    found = world.get()
    assert found.status_code == 502
    assert found.json() == {"error": "upstream_unavailable", "message": reason}
    assert rate(found) == ("unlimited", "unlimited", str(RESET))
    assert world.get(PATH + "?minutes=abc").status_code == 400
    health = httpx.get(world.url + "/health")
    assert health.status_code == 503
    assert health.json() == {"status": "Unhealthy", "reason": reason}


def test_health_needs_no_key(world: World) -> None:
    found = httpx.get(world.url + "/health")
    assert (found.status_code, found.content) == (200, b'{"status":"Healthy"}')


def test_a_500_shows_no_details(world: World, caplog: pytest.LogCaptureFixture) -> None:
    found = world.get("/v1/flow/options/broken/cumulative")
    assert found.status_code == 500
    assert found.json()["error"] == "internal"
    assert "passwd" not in found.text
    assert "Traceback" not in found.text
    assert rate(found) == ("unlimited", "unlimited", str(RESET))
    (record,) = [record for record in caplog.records if record.getMessage() == "answer failed"]
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize(
    "extra",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIA\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 5\r\n",
        b"Expect: 100-continue\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ],
)
def test_odd_requests_are_served(world: World, raw: Callable[..., bytes], extra: bytes) -> None:
    body = b"hello" if b"Length: 5" in extra else b"5\r\nhello\r\n0\r\n\r\n" if b"chunked" in extra else b""
    key = world.raw["alpha"].encode()
    request = (
        b"GET /v1/flow/options/%76ix/cumulative?minutes=2 HTTP/1.1\r\nHost: x\r\nx-API-key: " + key + b"\r\n"
    )
    found = raw(request + extra + b"\r\n" + body, answer(replace(VIX, minutes=2)).body)
    assert b"HTTP/1.1 200 OK\r\n" in found
    assert found.endswith(answer(replace(VIX, minutes=2)).body)


def test_two_requests_on_one_connection(world: World, raw: Callable[..., bytes]) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    assert raw(one * 2, b'{"status":"Healthy"}', 2).count(b"HTTP/1.1 200 OK") == 2


def test_pipelined_requests_are_answered_in_order(world: World, raw: Callable[..., bytes]) -> None:
    head = b" HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + world.raw["alpha"].encode() + b"\r\n\r\n"
    at = [b"&at=2026-05-12T10:00:00Z" if minutes % 3 else b"" for minutes in range(1, 101)]
    targets = [PATH.encode() + b"?minutes=%d" % minutes + more for minutes, more in enumerate(at, 1)]
    sent = b"".join(b"GET " + target + head for target in targets)
    found = raw(sent.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n", b"no such end")
    asked = [int(number) for number in re.findall(rb'"minutes":(\d+),', found)]
    assert asked == list(range(1, 101))


def test_a_client_that_reads_nothing_takes_bounded_memory(world: World) -> None:
    key = world.raw["alpha"].encode()
    one = b"GET " + PATH.encode() + b"?minutes=240 HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + key + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=5) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        sent, asked_before = 0, len(world.flow.asked)
        with contextlib.suppress(BlockingIOError):
            while sent < 50_000:
                slow.send(one * 100)
                sent += 100
        assert httpx.get(world.url + "/health").status_code == 200
        # Each answer has 20 KB. Answers that the client does not read are not computed.
        assert len(world.flow.asked) - asked_before < 2000


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://x/health HTTP/1.1",
        b"GET /health?a=%zz HTTP/1.0",
        b"GET /health HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade",
    ],
)
def test_unusual_request_lines_are_answered(world: World, raw: Callable[..., bytes], line: bytes) -> None:
    found = raw(line + b"\r\nHost: x\r\n\r\n", b'{"status":"Healthy"}')
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", found)
    assert (b"connection: close" in found) == (b"HTTP/1.0" in line)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /?" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 250_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"a" * 250_000, b"413"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
    ],
)
def test_oversized_or_invalid_http_is_refused(
    world: World, raw: Callable[..., bytes], request_bytes: bytes, status: bytes
) -> None:
    assert raw(request_bytes, b"\r\n\r\n").split(b" ")[1] == status
    assert httpx.get(world.url + "/health").status_code == 200


def until_refused(port: int) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
    raise AssertionError("connections are still accepted")


def test_requests_in_progress_finish_before_the_server_stops(worlds: Callable[[Settings], World]) -> None:
    world = worlds(Settings())
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=5) as slow:
        key = world.raw["alpha"].encode()
        slow.sendall(
            b"GET /v1/flow/options/SLOW/cumulative?minutes=1 HTTP/1.1\r\nHost: x\r\nX-Api-Key: "
            + key
            + b"\r\n\r\n"
        )
        assert world.flow.entered.wait(5)
        world.server.tell_to_stop()
        until_refused(world.server.port)
        world.flow.leave.set()
        parts = []
        while part := slow.recv(65_536):
            parts.append(part)
        found = b"".join(parts)
    world.server.join()
    assert found.startswith(b"HTTP/1.1 200 OK")
    assert found.endswith(answer(Query(symbol="SLOW", minutes=1)).body)
    with pytest.raises(httpx.ConnectError):
        httpx.get(world.url + "/health")


def test_a_taken_port_is_a_usage_error(world: World) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(UsageError, match=f"host {host} port {world.server.port}: Address already in use"):
            free_address(host, world.server.port)
    coroutine = run(world.server.app, "127.0.0.1", world.server.port)
    with pytest.raises(UsageError):
        coroutine.send(None)
    with pytest.raises(UsageError, match=r"host nowhere\.invalid"):
        free_address("nowhere.invalid", 0)
    assert isinstance(world.server, Server)
