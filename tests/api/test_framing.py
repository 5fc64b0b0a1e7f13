"""The bounds of requests on a connection, and the order of their answers, over a real socket."""

import contextlib
import re
import socket
import struct
from collections.abc import Callable, Iterator

import httpx
import pytest

from flowtape.model.query import Query
from flowtape.server.routes import Route
from flowtape.settings import Settings
from stores import until

from .conftest import PATH, MemoryFlow, World, answer
from .test_http import until_refused

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
NOTHING = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = "/v1/flow/options/SLOW/cumulative"


@pytest.fixture
def own(worlds: Callable[[Settings], World]) -> World:
    return worlds(Settings(streams_per_key=1))


@contextlib.contextmanager
def connected(world: World, buffer: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as line:
        line.settimeout(10)
        if buffer:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        line.connect(("127.0.0.1", world.server.port))
        yield line


def rest(line: socket.socket) -> bytes:
    """Return all bytes until the server closes."""
    return b"".join(iter(lambda: line.recv(65_536), b""))


def statuses(found: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]


def told(world: World, *sent: bytes) -> list[int]:
    """Return the statuses of all answers to some bytes, after which the client sends nothing."""
    with connected(world) as line:
        line.sendall(b"".join(sent))
        line.shutdown(socket.SHUT_WR)
        return statuses(rest(line))


def ask(world: World, path: str = PATH, method: str = "GET", more: bytes = b"") -> bytes:
    line = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {world.raw['alpha']}\r\n"
    return line.encode() + more + b"\r\n"


def test_a_client_that_is_done_sending_is_answered(own: World) -> None:
    with connected(own) as line:
        line.sendall(ask(own, SLOW))
        assert own.flow.entered.wait(5)
        line.shutdown(socket.SHUT_WR)
        assert httpx.get(own.url + "/health").status_code == 200
        own.flow.leave.set()
        assert statuses(rest(line)) == [200]


@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_whose_client_left_while_it_opened_is_released(own: World, reset: bool) -> None:
    with connected(own) as line:
        line.sendall(ask(own, SLOW + "/stream"))
        assert own.flow.entered.wait(5)
        if reset:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    app = own.server.app
    if reset:
        until(lambda: app.connections.open == 0)
    else:
        assert httpx.get(own.url + "/health").status_code == 200
    own.flow.leave.set()
    until(lambda: app.streams.clients == 0)
    with own.http.stream("GET", PATH + "/stream") as found:
        assert found.status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: %d\r\n\r\n",
        b"CONNECT /health HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
    ],
)
def test_the_body_of_an_upgrade_is_not_parsed_as_requests(world: World, head: bytes) -> None:
    assert told(world, head % len(NOTHING), NOTHING, NOTHING) == [405]


def test_chunks_of_an_upgrade_are_no_request(world: World) -> None:
    head = b"POST /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\n"
    assert told(
        world, head, b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(NOTHING), NOTHING)
    ) == [405]


def test_requests_after_an_upgrade_without_body_are_answered(world: World) -> None:
    upgrade = HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert told(world, upgrade, NOTHING) == [200, 404]


@pytest.mark.parametrize("space", [b" ", b"\t", b" \t "])
def test_spaces_around_a_header_value_are_stripped(world: World, space: bytes) -> None:
    key = world.raw["alpha"].encode()
    head = b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\n"
    assert told(world, head, b"X-Api-Key:", space, key, space, b"\r\n\r\n") == [200]


def test_trailers_are_no_headers(world: World) -> None:
    head = b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailer = b"X-Api-Key: " + world.raw["alpha"].encode()
    assert told(world, head, b"2\r\nab\r\n0\r\n", trailer, b"\r\n\r\n", NOTHING) == [401, 404]


def test_a_request_names_its_host_once(world: World) -> None:
    assert told(world, b"GET /metrics HTTP/1.1\r\nHost: a.example\r\nHost: localhost\r\n\r\n") == [400]


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
def test_other_versions_of_http_are_refused(world: World, version: bytes) -> None:
    assert told(world, b"GET /health " + version + b"\r\nHost: x\r\n\r\n") == [400]


@pytest.mark.parametrize(
    ("target", "status"),
    [(b"/health#part", 200), (b"http://x/health#part", 200), (b"/hea\xfflth", 400), (b"/hea\x01lth", 400)],
)
def test_targets_that_browsers_would_not_send(world: World, target: bytes, status: int) -> None:
    assert told(world, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n") == [status]


def test_an_absolute_target_without_path_asks_for_the_root(world: World) -> None:
    with connected(world) as line:
        line.sendall(b"GET http://x?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = rest(line).partition(b"\r\n\r\n")
    assert httpx.get(world.url + "/", headers={"Accept-Encoding": ""}).content == found[2]


def test_an_unknown_method_repeats_no_answer(world: World) -> None:
    brew = b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert told(world, HEALTH, brew) == [200, 400]
    assert told(world, brew, HEALTH) == [405]
    assert told(world, brew.replace(b"BREW", b"get")) == [405]


def test_an_unknown_method_is_answered_in_its_turn(own: World) -> None:
    with connected(own) as line:
        line.sendall(ask(own, SLOW))
        assert own.flow.entered.wait(5)
        line.sendall(b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        own.flow.leave.set()
        assert statuses(rest(line)) == [200, 405]


def test_an_unread_body_does_not_reset_its_answer(world: World) -> None:
    for _ in range(5):
        with connected(world) as line:
            line.sendall(
                b"BREW /health HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"a" * 2_000_000
            )
            line.shutdown(socket.SHUT_WR)
            assert statuses(rest(line)) == [405]


def test_a_refusal_waits_for_the_answers_before_it(own: World) -> None:
    with connected(own) as line:
        line.sendall(ask(own, SLOW) + ask(own, PATH + "?minutes=1") + b"no request\r\n\r\n")
        assert own.flow.entered.wait(5)
        own.flow.leave.set()
        assert statuses(rest(line)) == [200, 200, 400]


def test_a_refusal_waits_for_a_client_that_reads_late(world: World) -> None:
    long = "/v1/flow/options/LONG/cumulative?minutes=10080"
    with connected(world, buffer=4096) as line:
        line.sendall(ask(world, long) * 10 + b"no request\r\n\r\n")
        found = rest(line)
    assert statuses(found) == [200] * 10 + [400]
    assert found.count(answer(Query(symbol="LONG", minutes=10_080)).body) == 10


def test_no_100_continue_within_another_answer(own: World) -> None:
    with connected(own) as line:
        head = b"POST /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        line.sendall(ask(own, SLOW) + head)
        assert own.flow.entered.wait(5)
        own.flow.leave.set()
        found = line.recv(15)
        line.sendall(b"ab")
        line.shutdown(socket.SHUT_WR)
        assert statuses(found + rest(line)) == [200, 405]


def test_no_100_continue_for_a_body_beyond_the_limit(world: World) -> None:
    head = b"POST /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    with connected(world) as line:
        line.sendall(head + b"65537\r\n\r\n")
        assert statuses(rest(line)) == [413]
    with connected(world) as line:
        line.sendall(head + b"0" * 5000 + b"2\r\n\r\nab")
        line.shutdown(socket.SHUT_WR)
        assert statuses(rest(line)) == [100, 405]


def test_no_100_continue_for_http_1_0(world: World) -> None:
    head = b"POST /health HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"
    assert told(world, head) == [405]


def test_nothing_is_sent_after_an_answer_that_closes(world: World) -> None:
    assert told(world, HEALTH[:-2] + b"Connection: close\r\n\r\n", b"no request\r\n\r\n") == [200]


def test_an_answer_is_sent_whole_when_told_to_stop(own: World) -> None:
    body = answer(Query(symbol="LONG", minutes=10_080)).body
    with connected(own, buffer=4096) as line:
        # More than the system's buffers hold.
        line.sendall(ask(own, "/v1/flow/options/LONG/cumulative?minutes=10080") * 20)
        found = line.recv(1000)
        own.server.tell_to_stop()
        until_refused(own.server.port)
        found += rest(line)
    own.server.join()
    assert found.endswith(body)
    assert len(statuses(found)) == found.count(body)


def test_a_watch_that_fails_once_goes_on(
    worlds: Callable[[Settings], World], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Query] = []
    listening: list[object] = []

    def state(route: Route, query: Query) -> object:
        asked.append(query)
        return 1 // (len(asked) - 1)

    monkeypatch.setattr(MemoryFlow, "listen", lambda _, told: listening.append(told))
    own = worlds(Settings())
    monkeypatch.setattr(own.flow, "state", state)
    with own.http.stream("GET", PATH + "/stream") as found:
        assert found.status_code == 200
        until(lambda: len(asked) > 2)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "watch failed"
    ]
    assert len(listening) == 1
