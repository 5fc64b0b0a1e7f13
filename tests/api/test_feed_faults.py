"""A vendor's feed that falls silent or sends garbage, as clients see it: a server on a socket, a stand-in for the
vendor, and a clock that a test sets."""

import time
from datetime import UTC, datetime

import httpx
import pytest

from flowtape.cache.cache import Cache
from flowtape.feeds.registry import open_feeds
from flowtape.feeds.rows import NOT_UNDERSTOOD
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.supervisor import Live
from flowtape.server.app import Application
from flowtape.server.auth.keyfile import FileLedger
from flowtape.server.auth.keys import Keys
from flowtape.server.auth.usage import Usage
from flowtape.server.flow import Flow
from flowtape.server.metrics import Metrics
from flowtape.settings import Settings
from flowtape.storage import open_store
from serving import Clock, serving
from standins.massive import MassiveServer

SPY = "O:SPY261218C00500000"
SECOND, MINUTE = 10**9, 60 * 10**9
OPEN, SHUT = (int(datetime(2026, 5, day, 15, 0, tzinfo=UTC).timestamp()) * SECOND for day in (12, 10))
LIMIT = 15.0
SILENCE = 0.4


class Site:
    """A server with a Massive feed."""

    def __init__(self, folder, now):
        self.vendor, self.clock = MassiveServer("right-key").start(), Clock(now)
        self.store = open_store(folder / "x.duckdb")
        self.window = Cache(self.store.catalog, now // MINUTE)
        self.ingestor, metrics = Ingestor(self.store, self.window), Metrics()
        spec = f"massive:options?symbols={SPY}&url={self.vendor.url}&rest={self.vendor.rest_url}&secure=0"
        self.live = Live(self.ingestor, open_feeds([spec], self.clock), self.clock, metrics)
        metrics.watch(self.live)
        self.flow = Flow(self.ingestor, self.window, self.clock, self.live, SILENCE)
        self.keys = Keys(FileLedger(folder / "x.duckdb.keys"))
        self.key = self.keys.add_ephemeral("Alpha")
        self.app = Application(self.flow, self.keys, Usage(), Settings(), time.time_ns, metrics=metrics)
        self.live.start()

    def ask(self, path="/v1/flow/options/SPY/cumulative", **arguments):
        return self.client.get(path, params=arguments)

    def until(self, true):
        """Poll until the condition holds."""
        deadline = time.monotonic() + LIMIT
        while not true():
            assert time.monotonic() < deadline, self.client.get("/metrics").text

    def until_status(self, status, path="/v1/flow/options/SPY/cumulative"):
        """Request until the answer has a status, and return the answer."""
        answers = []
        self.until(lambda: answers.append(self.ask(path)) or answers[-1].status_code == status)
        return answers[-1]

    def notes(self):
        """Return the feed's counted events from the metrics, by name."""
        lines = self.client.get("/metrics").text.splitlines()
        told = [line for line in lines if line.startswith("flowtape_feed_notes_total{")]
        return {line.split('what="')[1].split('"')[0]: float(line.split()[-1]) for line in told}

    def close(self):
        self.live.stop()
        self.flow.close()
        self.keys.close()
        self.store.close()
        self.vendor.stop()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.delenv("MASSIVE_API_KEY_FILE", raising=False)
    monkeypatch.setenv("MASSIVE_API_KEY", "right-key")

    def make(now):
        site = Site(tmp_path, now)
        made.append(site)
        running = serving(site.app)
        site.client = httpx.Client(base_url=running.__enter__(), headers={"X-Api-Key": site.key})
        ends.append(running)
        return site

    made, ends = [], []
    yield make
    for one, running in zip(made, ends, strict=True):
        one.client.close()
        running.__exit__(None, None, None)
        one.close()


def test_silence_refuses_answers_in_an_open_market_only(site):
    here = site(OPEN)
    assert here.vendor.started.acquire(timeout=LIMIT)
    assert here.until_status(502).json()["error"] == "upstream_unavailable"
    here.until_status(503, "/health")
    # No print is needed: the first message ends the silence.
    here.vendor.quote(SPY, time.time_ns(), 1.0, 1.1)
    here.until_status(200)
    here.until_status(502)
    here.clock.now = SHUT
    ends = time.monotonic() + 2 * SILENCE
    while time.monotonic() < ends:
        assert here.ask().status_code == 200
    assert here.ask("/health").status_code == 200


def test_garbage_is_counted_and_changes_no_answer(site):
    here = site(time.time_ns())
    assert here.vendor.started.acquire(timeout=LIMIT)
    now = time.time_ns()
    here.vendor.quote(SPY, now - 5 * SECOND, 1.0, 1.1)
    here.vendor.trade(SPY, now - 4 * SECOND, 1.1, 3)
    for text in ("no json", b"\xff\xfe", "[[[", '[{"ev":"T"}]', '[{"ev":"Q","sym":5}]'):
        here.vendor.say(text)
    here.vendor.trade(SPY, now + 40 * 86_400 * SECOND, 1.1, 3)
    here.vendor.trade(SPY, now - 3 * SECOND, -1.0, 3)
    here.vendor.trade(SPY, now - 3 * SECOND, 1.1, 0)
    here.vendor.trade(SPY, now - 2 * SECOND, 1.0, 5)
    here.until(lambda: sum(point["tradeCount"] for point in here.ask(minutes=5).json()["points"]) == 2)
    notes = here.notes()
    assert [many for what, many in notes.items() if "sip_timestamp is before 1990" in what] == [1]
    assert notes[NOT_UNDERSTOOD] >= 4
    assert sum(many for what, many in notes.items() if what.startswith("rows left out")) >= 2
    assert here.ask(minutes=5).json()["points"][-1]["cumulative"] == 3 - 5


def test_a_clock_jump_moves_the_window_both_ways(site):
    here = site(time.time_ns())
    assert here.vendor.started.acquire(timeout=LIMIT)
    began = here.clock.now
    here.vendor.quote(SPY, began - 5 * SECOND, 1.0, 1.1)
    here.vendor.trade(SPY, began - 4 * SECOND, 1.1, 3)
    here.until(lambda: here.ask(minutes=30).json()["points"])
    here.flow.check_clock()
    # Eight days later no window holds the print; after the clock is set back, it does.
    here.clock.now = began + 8 * 86_400 * SECOND
    here.flow.check_clock()
    here.until(lambda: here.ask(minutes=10_080).json()["points"] == [])
    here.clock.now = began
    here.flow.check_clock()
    here.until(lambda: len(here.ask(minutes=30).json()["points"]) == 1)


def test_a_feed_with_a_refused_key_is_given_up(site, monkeypatch, caplog):
    monkeypatch.setenv("MASSIVE_API_KEY", "another-key")
    here = site(OPEN)
    here.until_status(502)
    (line,) = [record for record in caplog.records if record.getMessage() == "feed given up"]
    assert "refused" in line.fields["reason"] or "auth" in line.fields["reason"]
    assert "another-key" not in caplog.text
    connected = [
        row for row in here.ask("/metrics").text.splitlines() if row.startswith("flowtape_feed_connected{")
    ]
    assert [row.split()[-1] for row in connected] == ["0.0"]
