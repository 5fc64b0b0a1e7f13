"""Streams over a real socket: the body that a client makes from the events equals the answer, byte for byte."""

import itertools
import json
import re
import socket
import time
from pathlib import Path

import httpx
import msgspec
import pytest

import flowtape.server.hubs
import flowtape.server.streams
from flowtape.pipeline.ingestor import Ingestor
from flowtape.queries import Cumulative, CumulativePoint
from flowtape.queries.render.bodies import Rows
from flowtape.queries.render.changes import change, line_of
from flowtape.settings import Settings
from flowtape.storage import open_store
from oracle import MINUTE
from processes import Served, command
from serving import kept, serving
from stores import until
from tapes import T0, frame, row

NOW = T0 + 10 * MINUTE
PATH = "/v1/flow/options/SPY/cumulative"
LIMIT = 20


class Client:
    """Follows a stream and keeps the body that its events make."""

    def __init__(self, url, path, key, **headers):
        self.body, self.id, self.kinds, self.block = None, None, [], []
        self._stream = httpx.stream("GET", url + path, headers={"X-Api-Key": key, **headers}, timeout=LIMIT)
        self.response = self._stream.__enter__()
        self._lines = self.response.iter_lines()

    def next(self):
        """Return the kind of the next event, after applying it."""
        event, self.block = {}, []
        for line in self._lines:
            if line == "" and "data" in event:
                return self._take(event)
            if line == "":
                assert all(told.startswith(":") for told in self.block), "a block without data"
                self.block = []
                continue
            self.block.append(line)
            name, _, value = line.partition(": ")
            if name in ("event", "id", "data"):
                event[name] = value
        return None

    def _take(self, event):
        data = json.loads(event["data"])
        self.id = event["id"]
        self.kinds.append(event["event"])
        if event["event"] in ("window", "leaderboard"):
            self.body = data
        elif event["event"] == "change":
            self.body = applied(self.body, data)
        return event["event"]

    def until(self, wanted):
        while self.body != wanted:
            assert self.next() is not None, "the stream ended"

    def close(self):
        self._stream.__exit__(None, None, None)


def applied(body, told):
    """Return the body after an event, by the rules of docs/reference/streams.md."""
    points = {
        point["ts"]: {**point, "cumulative": point["cumulative"] + told["shift"]}
        for point in body["points"]
        if told["first"] is not None
        and point["ts"] >= told["first"]
        and point["ts"] not in told.get("gone", [])
    }
    points |= {point["ts"]: point for point in told["points"]}
    return {**body, "count": told["count"], "points": [points[ts] for ts in sorted(points)]}


@pytest.fixture
def world(tmp_path):
    with kept(tmp_path, NOW) as made, serving(made.app) as url:
        made.url = url
        yield made


def ask(world, path):
    return httpx.get(world.url + path, headers={"X-Api-Key": world.keys["alpha"]}, timeout=LIMIT).json()


def follow(world, path, **headers):
    return Client(world.url, path, world.keys["alpha"], **headers)


def step(seq, minute=5, **changes):
    return row(seq=seq, ts=T0 + minute * MINUTE + seq, price=13_000, **changes)


@pytest.mark.parametrize(
    "asked",
    [
        "measure=directional&split=right",
        "measure=directional_premium&right=P",
        "split=right&strike=100..700&side=buy",
    ],
)
def test_a_stream_of_a_measure_is_the_answer(world, asked):
    world.take([step(1), step(2, 6, right="P")])
    client = follow(world, f"{PATH}/stream?minutes=8&{asked}")
    assert client.next() == "window"
    for tape in ([step(3, 6, right="P")], [step(4, 5, right="C", size=7)], [step(5, 9)]):
        world.take(tape)
        client.until(ask(world, f"{PATH}?minutes=8&{asked}"))
    assert client.kinds.count("window") == 1
    client.close()


def test_a_stream_sends_the_window_then_every_change(world):
    world.take([step(1), step(2, 6)])
    client = follow(world, PATH + "/stream?minutes=8")
    assert client.response.headers["content-type"].startswith("text/event-stream")
    assert client.response.headers["x-ratelimit-limit"] == "unlimited"
    assert client.next() == "window"
    assert client.body == ask(world, PATH + "?minutes=8")
    # A new print, a late one, a cancel of the late one, and a print in a new minute before all others.
    for rows in (
        [step(3, 9)],
        [step(4, 5)],
        [step(5, 5, condition="CANC")],
        [step(6, 4)],
    ):
        world.take(rows)
        client.until(ask(world, PATH + "?minutes=8"))
    assert set(client.kinds[1:]) == {"change"}
    # The first minutes leave the window as time passes.
    for _ in range(3):
        world.clock.now += MINUTE
        client.until(ask(world, PATH + "?minutes=8"))
    client.close()


def test_a_stream_tells_its_source_and_lets_scripts_read_it(world):
    world.take([step(1)], source="simulated")
    client = follow(world, PATH + "/stream")
    streamed = client.response.headers
    client.close()
    answer = httpx.get(world.url + PATH, headers={"X-Api-Key": world.keys["alpha"]}, timeout=LIMIT)
    for name in ("x-data-source", "x-endpoint-version", "access-control-expose-headers"):
        assert streamed.get(name) == answer.headers[name]
    assert answer.headers["x-data-source"] == "simulated"


@pytest.mark.parametrize(
    "query", ["?measure=premium", "?anchor=session", "?right=C&expiry=2026-03-20", "?side=buy"]
)
def test_streams_take_the_parameters_of_their_route(world, query):
    world.take([step(1), step(2, 6, right="P")])
    client = follow(world, PATH + "/stream" + query)
    client.next()
    world.take([step(3, 4), step(4, 9, size=7)])
    client.until(ask(world, PATH + query))
    client.close()


def test_a_reconnected_client_gets_each_event_once(world):
    world.take([step(1)])
    first = follow(world, PATH + "/stream")
    other = follow(world, PATH + "/stream")
    first.next()
    other.next()
    first.close()
    for seq in (2, 3, 4):
        world.take([step(seq, 4 + seq)])
        other.until(ask(world, PATH))
    again = follow(world, PATH + "/stream", **{"Last-Event-ID": first.id})
    again.body = first.body
    again.until(ask(world, PATH))
    assert "window" not in again.kinds
    for unknown in ("00000000-1", "nonsense", first.id + "000"):
        anew = follow(world, PATH + "/stream?lastEventId=" + unknown)
        assert anew.next() == "window"
        assert anew.body == ask(world, PATH)
        anew.close()
    other.close()
    again.close()


def test_the_first_event_has_the_retry_time(world):
    world.take([step(1)])
    client = follow(world, PATH + "/stream")
    assert client.next() == "window"
    assert client.block == ["retry: 1000", "event: window", f"id: {client.id}", client.block[3]]
    world.take([step(2, 9)])
    assert client.next() == "change"
    assert client.block[0] == "event: change"
    # A client that missed no event gets the change with the next event.
    again = follow(world, PATH + "/stream", **{"Last-Event-ID": client.id})
    again.body = client.body
    world.take([step(3, 9)])
    assert again.next() == "change"
    assert again.block[:2] == ["retry: 1000", "event: change"]
    client.close()
    again.close()


def test_a_stream_reports_untrusted_answers(world):
    world.take([step(1)])
    client = follow(world, PATH + "/stream")
    client.next()
    world.feed.failing = "no space left"
    assert client.next() == "unavailable"
    assert httpx.get(world.url + PATH, headers={"X-Api-Key": world.keys["alpha"]}).status_code == 502
    world.feed.failing = None
    assert client.next() == "window"
    assert client.body == ask(world, PATH)
    client.close()


def test_the_leaderboard_is_sent_when_it_changes(world):
    world.take([step(1)])
    client = follow(world, "/v1/flow/options/leaderboard/stream")
    assert client.next() == "leaderboard"
    world.take([step(2, symbol="QQQ", root="QQQ")])
    assert client.next() == "leaderboard"
    assert [one["symbol"] for one in client.body["buyers"]] == ["QQQ", "SPY"]
    client.close()


def test_a_leaderboard_stream_applies_its_right(world):
    world.take([step(1), step(2, symbol="QQQ", root="QQQ", right="P")])
    client = follow(world, "/v1/flow/options/leaderboard/stream?right=P")
    assert client.next() == "leaderboard"
    assert [one["symbol"] for one in client.body["buyers"]] == ["QQQ"]
    world.take([step(3, symbol="IWM", root="IWM", right="P")])
    assert client.next() == "leaderboard"
    assert [one["symbol"] for one in client.body["buyers"]] == ["IWM", "QQQ"]
    client.close()


def test_stocks_have_streams_too(world):
    assert follow_once(world, "/v1/flow/stocks/SPY/cumulative/stream") == "window"
    assert follow_once(world, "/v1/flow/stocks/leaderboard/stream") == "leaderboard"


def test_a_stream_resolves_its_symbol(world):
    world.take([row(seq=1, symbol="SPXW", root="SPXW"), row(seq=2, symbol="BRKB", root="BRKB")])
    for asked, symbol in (("SPXW", "SPX"), ("BRK-B", "BRK.B")):
        client = follow(world, f"/v1/flow/options/{asked}/cumulative/stream")
        client.next()
        assert (client.body["symbol"], client.body["count"]) == (symbol, 1)
        client.close()


def follow_once(world, path):
    client = follow(world, path)
    kind = client.next()
    client.close()
    return kind


def test_a_stream_is_refused_like_its_answer(world):
    def status(path, key=None):
        with httpx.stream("GET", world.url + path, headers={"X-Api-Key": key} if key else {}) as reply:
            return reply.status_code

    assert status(PATH + "/stream") == 401
    assert status(PATH + "/stream", world.keys["growth"]) == 403
    assert status(PATH + "/stream?minutes=x", world.keys["alpha"]) == 400
    assert status(PATH + "/streams", world.keys["alpha"]) == 404
    world.feed.failing = "x"
    assert status(PATH + "/stream", world.keys["alpha"]) == 502


def test_a_revoked_key_ends_its_stream(world, monkeypatch):
    monkeypatch.setattr(flowtape.server.streams, "HEARTBEAT", 0.05)
    client = follow(world, PATH + "/stream")
    client.next()
    (ours,) = [key for key in world.book.list() if key.plan == "Alpha"]
    world.book.revoke(ours.id)
    assert client.next() is None
    client.close()


def test_a_client_that_does_not_read_is_dropped(world, monkeypatch):
    monkeypatch.setattr(flowtape.server.streams, "SEND_WITHIN", 0.3)
    monkeypatch.setattr(flowtape.server.hubs, "KEPT_EVENTS", 8)
    # Sums of premium are sent whole: a print in the first minute changes all later points, 200 kB of them.
    oldest = -2500
    world.take([step(-minute, minute) for minute in range(oldest, 0)])
    path = PATH + "/stream?measure=premium&minutes=10080"
    host, port = world.url.removeprefix("http://").split(":")
    slow = socket.create_connection((host, int(port)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {world.keys['alpha']}\r\n\r\n".encode())
    quick = follow(world, path)
    quick.next()
    for seq in range(10_000, 10_200):
        if world.app.streams.clients == 1:
            break
        world.take([step(seq, oldest)])
        quick.next()
    assert world.app.streams.clients == 1
    assert quick.body == ask(world, PATH + "?measure=premium&minutes=10080")
    quick.close()
    slow.close()


def test_the_server_ends_with_streams_open(tmp_path):
    with kept(tmp_path, NOW) as made:
        with serving(made.app) as url:
            client = Client(url, PATH + "/stream", made.keys["alpha"])
            client.next()
        assert client.next() is None
        client.close()


def test_a_change_has_only_changed_points():
    a, b, c, d = (f"2026-05-12T14:0{minute}:00Z" for minute in range(4))

    def made(points, scale=1):
        columns = {name: [point[name] for point in points] for name in ("ts", "net_volume", "cumulative")}
        columns["cumulative"] = [value * scale for value in columns["cumulative"]]
        rows = Rows(CumulativePoint, columns)
        return Cumulative(symbol="SPY", minutes=3, count=len(rows), points=rows)

    def body(*points):
        rows = zip(points, itertools.accumulate(net for _, net in points), strict=True)
        return made([{"ts": ts, "net_volume": net, "cumulative": running} for (ts, net), running in rows])

    def json_of(one):
        return msgspec.json.decode(msgspec.json.encode(one))

    def told(before, after):
        return json_of(change(line_of(before), line_of(after), after))

    before, after = body((a, 5), (b, 7), (c, 1)), body((b, 7), (c, 1), (d, 2))
    found = told(before, after)
    assert found["shift"] == -5
    assert [point["ts"] for point in found["points"]] == [d]
    assert applied(json_of(before), found) == json_of(after)
    assert applied(json_of(after), told(after, body())) == json_of(body())
    gone = body((b, 7), (d, 2))
    assert told(after, gone)["gone"] == [c]
    assert applied(json_of(after), told(after, gone)) == json_of(gone)
    # Sums of floats are sent whole: with a shift added, they would differ in the last digit.
    names = ("ts", "net_volume", "cumulative")
    floats = [
        made([{name: getattr(point, name) for name in names} for point in one.points], 1.1)
        for one in (before, after)
    ]
    assert told(*floats)["shift"] == 0
    assert applied(json_of(floats[0]), told(*floats)) == json_of(floats[1])


def test_streams_of_a_key_are_limited(tmp_path):
    with kept(tmp_path, NOW, Settings(streams_per_key=2)) as made, serving(made.app) as url:
        made.take([step(1)])
        clients = [Client(url, PATH + f"/stream?minutes={minutes}", made.keys["alpha"]) for minutes in (8, 8)]
        assert [client.next() for client in clients] == ["window", "window"]
        headers = {"X-Api-Key": made.keys["alpha"]}
        refused = httpx.get(url + PATH + "/stream", headers=headers)
        assert refused.status_code == 429
        assert refused.json() == {"error": "too_many_streams",
                                  "message": "This key has 2 streams open, the most that a key may have."}  # fmt: skip
        assert refused.headers["retry-after"] == "10"
        assert httpx.get(url + PATH, headers=headers).status_code == 200
        other = Client(url, PATH + "/stream", made.keys["enterprise"])
        assert other.next() == "window"
        clients.pop().close()
        until(lambda: made.app.streams.clients == 2)
        # Neither a HEAD nor a refused request counts as a stream.
        for _ in range(3):
            assert httpx.head(url + PATH + "/stream", headers=headers).status_code == 200
            assert httpx.get(url + PATH + "/stream?minutes=x", headers=headers).status_code == 400
        clients.append(Client(url, PATH + "/stream", made.keys["alpha"]))
        assert clients[-1].next() == "window"
        for client in (*clients, other):
            client.close()
        until(lambda: made.app.streams.clients == 0)


def test_streams_keep_little_of_answers_that_differ_in_minutes(world, monkeypatch):
    monkeypatch.setattr(flowtape.server.streams, "LINGER", 0.1)
    points = 2000
    world.take([step(points - minute, 10 - minute) for minute in range(points)])
    clients = []
    for minutes in range(points, points - 40, -1):
        clients.append(follow(world, f"{PATH}/stream?minutes={minutes}"))
        assert clients[-1].next() == "window"
        assert len(clients[-1].body["points"]) == minutes
    assert 0 < world.app.streams.kept_bytes < 40 * points * 32
    for added in (step(5000, 3), step(5001, 9)):
        world.take([added])
        for client, minutes in ((clients[0], points), (clients[-1], points - 39)):
            client.until(ask(world, f"{PATH}?minutes={minutes}"))
            assert client.kinds[-1] == "change"
    for client in clients:
        client.close()
    until(lambda: world.app.streams.kept_bytes == 0)


def test_streams_beyond_the_memory_for_streams_are_refused(world, monkeypatch):
    monkeypatch.setattr(flowtape.server.streams, "KEPT_LINE_BYTES", 1)
    world.take([step(1)])
    client = follow(world, PATH + "/stream")
    client.next()
    headers = {"X-Api-Key": world.keys["alpha"]}
    refused = httpx.get(world.url + PATH + "/stream?minutes=7", headers=headers)
    assert (refused.status_code, refused.json()["error"]) == (503, "too_many_streams")
    again = follow(world, PATH + "/stream")
    assert again.next() == "window"
    client.close()
    again.close()


def test_a_change_beyond_the_limit_is_sent_as_window(world, monkeypatch):
    world.take([step(1)])
    client = follow(world, PATH + "/stream")
    client.next()
    monkeypatch.setattr(flowtape.server.hubs, "KEPT_OF_ONE", 10)
    for seq in (2, 3):
        world.take([step(seq, 4 + seq)])
        client.until(ask(world, PATH))
        assert client.kinds[-1] == "window"
    client.close()


def test_120_wide_streams_of_one_key_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTAPE_STREAMS_PER_KEY", "none")
    now = time.time_ns() // MINUTE * MINUTE
    store = tmp_path / "x.duckdb"
    ingestor = Ingestor(open_store(store))
    ingestor.take(frame([row(seq=n + 1, ts=now - n * MINUTE) for n in range(10_000)]), "test")
    ingestor.store.close()
    key = command("keys", "create", "--plan", "alpha", "--store", store).strip()
    with Served("--store", store) as served:

        def memory():
            status = Path(f"/proc/{served.process.pid}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) // 1024

        before = memory()
        clients = [Client(served.url, f"{PATH}/stream?minutes={10_080 - n}", key) for n in range(120)]
        # Each answer is a megabyte, or 5.5 MB as Python objects.
        assert memory() - before < 450
        for client in clients:
            client.close()
        assert served.end() == 0
