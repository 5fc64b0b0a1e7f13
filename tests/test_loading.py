"""Queries of data still loading are refused; a simulated week is loaded newest date first."""

import asyncio
import itertools
import threading
from datetime import UTC, datetime, timedelta

import httpx
import polars as pl
import pytest

from flowtape.errors import FeedError, Loading
from flowtape.feeds.backlog import FOREVER, Backlog, Backlogs
from flowtape.model.prints import conform, trading_days
from flowtape.pipeline.supervisor import Live
from flowtape.simulation.feed import SimulatedFeed
from flowtape.simulation.tape import Market, to_ns
from inprocess import Transport
from serving import Clock, Kept, kept, serving
from tapes import row

MINUTE = 60 * 10**9
NOW = to_ns(datetime(2026, 5, 12, 15, 0, 30, tzinfo=UTC))
MIDNIGHT = to_ns(datetime(2026, 5, 12, 4, tzinfo=UTC))
MARKET = Market(seed=4, underlyings=3, prints_per_day=1000, hours="always", stock_prints_per_day=300)
CUMULATIVE = "/v1/flow/options/SPY/cumulative"


@pytest.fixture
def world(tmp_path):
    with kept(tmp_path, NOW) as made:
        made.take([row(ts=NOW - 5 * MINUTE), row(ts=NOW - 2000 * MINUTE, seq=2)])
        yield made


def test_a_window_still_loading_is_502(world):
    world.backlogs.set("window", Backlog(0.25))
    (refused,) = world.ask((CUMULATIVE, {}))
    assert (refused.status_code, refused.headers["retry-after"]) == (502, "1")
    assert refused.json() == {"error": "loading", "message": "Loading: 25 % done."}
    (health,) = world.ask(("/health", {}))
    assert health.status_code == 503
    assert health.json() == {"status": "Unhealthy", "reason": "Loading: 25 % done.", "loading": 0.25}
    world.backlogs.end("window")
    assert [one.status_code for one in world.ask((CUMULATIVE, {}), ("/health", {}))] == [200, 200]


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        ("cumulative", {"minutes": 240}, 200),
        ("cumulative", {"minutes": 1440}, 502),
        ("cumulative", {"minutes": 240, "side": "buy"}, 200),
        ("cumulative", {"minutes": 1440, "side": "buy"}, 502),
        ("cumulative", {"at": "2026-05-12T14:00:00Z"}, 200),
        ("cumulative", {"at": "2026-05-11T14:00:00Z"}, 502),
        ("cumulative", {"at": "2026-05-01T14:00:00Z"}, 200),
        ("history", {}, 200),
        ("recent", {}, 200),
        ("recent", {"at": "2026-05-11T14:00:00Z"}, 502),
        ("summary", {}, 200),
        ("blocks", {}, 200),
        ("dealer-premium", {}, 200),
        ("divergence", {"minutes": 1440}, 502),
        ("turning-points", {"minutes": 60}, 200),
        ("sessions", {"days": 5}, 502),
    ],
)
def test_only_queries_of_missing_instants_are_502(world, path, asked, status):
    world.backlogs.set("simulated", Backlog(0.5, MIDNIGHT - 3 * 1440 * MINUTE, MIDNIGHT))
    (found,) = world.ask((f"/v1/flow/options/SPY/{path}", asked))
    assert found.status_code == status, found.text
    if status == 502:
        assert found.json()["message"] == "Loading: 50 % done; complete since 2026-05-12T04:00:00Z."


def test_symbols_and_leaders_answer_502_until_loaded(world):
    world.backlogs.set("simulated", Backlog(0.5, MIDNIGHT - 3 * 1440 * MINUTE, MIDNIGHT))
    asked = [
        ("/v1/symbols", {}),
        ("/v1/flow/options/leaderboard", {"windowMinutes": 1440}),
        ("/v1/flow/options/leaderboard", {}),
        ("/v1/flow/options/NONE/recent", {}),
    ]
    assert [one.status_code for one in world.ask(*asked)] == [502, 502, 200, 502]


def test_a_stream_reports_progress_then_the_window(world):
    world.backlogs.set("simulated", Backlog(0.1))
    with serving(world.app) as url:
        headers = {"X-Api-Key": world.keys["alpha"]}
        with httpx.stream("GET", url + CUMULATIVE + "/stream", headers=headers, timeout=30) as stream:
            told = []
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    told.append(line.removeprefix("event: "))
                if line.startswith("data: "):
                    told.append(line.removeprefix("data: ")[:60])
                    if told[0] == "unavailable" and "10 %" in line:
                        world.backlogs.set("simulated", Backlog(0.2))
                    elif "20 %" in line:
                        world.backlogs.end("simulated")
                    elif told[-2] == "window":
                        break
    assert told[:4:2] == ["unavailable", "unavailable"]
    assert '"error":"loading"' in told[1]
    assert '"symbol":"SPY"' in told[-1]


def test_progress_is_the_mean_of_all_loaders():
    backlogs = Backlogs()
    backlogs.check()
    backlogs.set("window", Backlog(0.5, 10, 20))
    backlogs.set("files", Backlog(0.0, 15, 40))
    assert backlogs.missing() == (0.25, 10, 40)
    backlogs.end("window")
    assert backlogs.missing() == (0.5, 15, 40)
    backlogs.missing().check(0, 15)
    backlogs.missing().check(40, 50)
    with pytest.raises(Loading, match="50 % done"):
        backlogs.missing().check(39, 41)
    backlogs.end("files")
    backlogs.end("nothing")
    assert backlogs.missing() is None


def test_a_source_without_backlog_does_not_count():
    backlogs = Backlogs()
    backlogs.set("simulated", Backlog(0.0))
    backlogs.set("window", Backlog(1.0))
    assert backlogs.missing().done == 0.0
    backlogs.set("simulated", Backlog(0.5))
    assert backlogs.missing().done == 0.5


def test_streams_of_a_loading_simulated_market_say_so(tmp_path):
    with kept(tmp_path, NOW, simulates=True) as made, serving(made.app) as url:
        made.backlogs.set("simulated", Backlog(0.25))
        headers = {"X-Api-Key": made.keys["alpha"]}
        with httpx.stream("GET", f"{url}{CUMULATIVE}/stream", headers=headers, timeout=20) as reply:
            assert reply.headers["x-data-source"] == "simulated"


class Outlet:
    """Collects deliveries; stops the feed when nothing is missing, or after a number of deliveries."""

    def __init__(self, most=None):
        self.stop, self.got, self.most = threading.Event(), [], most

    def put(self, delivery):
        self.got.append(delivery)
        if (delivery.backlog and delivery.backlog.done == 1) or len(self.got) == self.most:
            self.stop.set()

    def heard(self):
        pass

    def count(self, what, many=1):
        raise AssertionError(what)


def run(now, cursor=None, most=None, batch_rows=400):
    outlet = Outlet(most)
    SimulatedFeed(MARKET, Clock(now), batch_rows).run(outlet, cursor)
    return outlet.got


def prints_of(got):
    return pl.concat([one.prints for one in got])


def market(start, now):
    until = datetime.fromtimestamp(now // 10**9, UTC) + timedelta(seconds=1)
    return conform(pl.concat(MARKET.prints(datetime.fromtimestamp(start // 10**9, UTC), until)))


def keys(prints):
    return prints.select("asset", "ts", "seq").sort("asset", "ts", "seq")


@pytest.fixture(scope="module")
def week():
    return run(NOW)


def test_a_simulated_week_is_loaded_newest_date_first(week):
    dates = [trading_days(one.prints["ts"]).unique().to_list() for one in week if one.prints.height]
    assert all(len(date) == 1 for date in dates)
    in_turn = [date for (date,), _ in itertools.groupby(dates)]
    assert in_turn == sorted(in_turn, reverse=True)
    assert len(in_turn) == 8


def test_dates_reported_complete_were_delivered(week):
    got, now = week, NOW // 10**9 * 10**9
    whole = market(MIDNIGHT - 7 * 1440 * MINUTE, now)
    for place, one in enumerate(got):
        if one.backlog is None or one.backlog.end == FOREVER:
            continue
        so_far = prints_of(got[: place + 1])
        outside = ~pl.col("ts").to_physical().is_between(one.backlog.start, one.backlog.end - 1)
        since = (pl.col("ts").to_physical() >= MIDNIGHT - 7 * 1440 * MINUTE) & (
            pl.col("ts").to_physical() < now
        )
        assert keys(so_far.filter(outside & since)).equals(keys(whole.filter(outside & since)))
    assert got[-1].backlog.done == 1


@pytest.mark.parametrize(("most", "seconds"), [(2, 9 * 3600), (14, 20 * 86_400)])
def test_a_simulated_feed_resumes_without_repeats(most, seconds):
    first = run(NOW, most=most)
    later = NOW + seconds * 10**9
    rest = run(later, first[-1].cursor)
    both = prints_of([*first, *rest])
    assert keys(both).is_unique().all()
    # Each date but the present one is complete or empty.
    counts = trading_days(both["ts"]).alias("day").value_counts().sort("day")
    assert set(counts["count"][:-1]) == {1300}
    assert counts.height >= 8


def test_a_cursor_of_an_earlier_version_is_accepted():
    (only,) = run(NOW, str(NOW - 10**9))
    assert only.backlog.done == 1
    with pytest.raises(FeedError, match="'here'"):
        run(NOW, "here")


def test_the_window_is_complete_once_reported(tmp_path):
    clock = Clock(NOW)
    with kept(tmp_path, NOW) as made:
        feed = SimulatedFeed(MARKET, clock, 400)
        made.backlogs.set(feed.name, Backlog(0.0))
        live = Live(made.ingestor, [feed], clock, backlogs=made.backlogs)
        live.start()
        try:
            seen = asyncio.run(_ask_until_loaded(made))
        finally:
            live.stop()
        refused = [body["message"] for status, body in seen if status == 502]
        assert refused
        assert refused[0].startswith("Loading: ")
        whole = [body for status, body in seen if status == 200]
        assert whole[0] == whole[-1] == made.ask((CUMULATIVE, {"minutes": 10_080}))[0].json()


async def _ask_until_loaded(made: Kept):
    transport = Transport(made.app)
    headers = {"X-Api-Key": made.keys["alpha"]}
    seen = []
    async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
        while not seen or seen[-1][0] != 200:
            found = await client.get(CUMULATIVE, params={"minutes": 10_080})
            seen.append((found.status_code, found.json()))
    return seen
