"""A replay runs by the tape's clock, in file order, and resumes at any cursor."""

import threading
from datetime import date

import polars as pl
import pytest

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.registry import open_feeds
from flowtape.feeds.replay import TapeClock, replay
from flowtape.feeds.specs import parse_spec
from flowtape.readers import Options, open_tapes
from flowtape.simulation.tape import Market, write_tape


class Outlet:
    """Collects deliveries, and stops the feed after a number of prints."""

    def __init__(self, most=None):
        self.stop, self.got, self.most = threading.Event(), [], most

    def put(self, delivery):
        self.got.append(delivery)
        if self.most is not None and sum(one.prints.height for one in self.got) >= self.most:
            self.stop.set()

    def heard(self):
        pass

    def count(self, what, many=1):
        raise AssertionError(what)


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "tape.parquet"
    write_tape(Market(seed=3), date(2026, 5, 12), path, rows=3000)
    return path


def all_of(path):
    (tape,) = open_tapes([str(path)], None, Options())
    return pl.concat([batch.prints for batch in tape.batches])


def test_prints_are_delivered_once_in_file_order(tape):
    feed, outlet = replay(parse_spec(f"replay:{tape}?speed=1e6")), Outlet(3000)
    feed.run(outlet, None)
    assert pl.concat([one.prints for one in outlet.got]).equals(all_of(tape))
    assert feed.clock.now_ns() <= all_of(tape)["ts"].to_physical().max()


@pytest.mark.parametrize("most", [1, 700, 2999])
def test_a_second_replay_resumes_at_the_cursor(tape, most):
    first, second = Outlet(most), Outlet(3000 - most)
    replay(parse_spec(f"replay:{tape}?speed=1e6")).run(first, None)
    done = sum(one.prints.height for one in first.got)
    second.most = 3000 - done
    feed = replay(parse_spec(f"replay:{tape}?speed=1e6"))
    feed.go_on(first.got[-1].cursor)
    assert feed.clock.now_ns() >= first.got[-1].prints["ts"].to_physical().max()
    if done < 3000:
        feed.run(second, first.got[-1].cursor)
    assert pl.concat([one.prints for one in first.got + second.got]).equals(all_of(tape))


def test_a_replay_describes_itself(tape):
    feed = replay(parse_spec(f"replay:{tape}?speed=60"))
    assert str(feed.replay) == "replay; day=2026-05-12; speed=60"
    early = all_of(tape).head(200)
    assert (feed.replay.file, feed.replay.asset) == ("tape.parquet", "option")
    assert feed.replay.symbol in early["symbol"].cast(str).to_list()


def test_a_finished_replay_has_no_backlog(tape):
    whole, again = Outlet(3000), Outlet(0)
    replay(parse_spec(f"replay:{tape}?speed=1e6")).run(whole, None)
    assert whole.got[0].backlog.done == 1
    replay(parse_spec(f"replay:{tape}?speed=1e6")).run(again, whole.got[-1].cursor)
    assert [(one.prints.height, one.backlog.done) for one in again.got] == [(0, 1.0)]


def test_no_print_is_delivered_before_its_time(tape):
    feed = replay(parse_spec(f"replay:{tape}?speed=1e5"))

    class Timed(Outlet):
        def put(self, delivery):
            assert delivery.prints["ts"].to_physical().max() <= feed.clock.now_ns()
            super().put(delivery)

    feed.run(Timed(1000), None)


def test_the_tape_clock_runs_at_its_speed_and_stops():
    clock = TapeClock(10**18, 1000.0)
    first = clock.now_ns()
    assert first >= 10**18
    clock.end(10**18)
    assert clock.now_ns() == 10**18


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("nothing", "KIND:TARGET"),
        ("carrier:pigeon", "carrier is not one of"),
        ("simulate:here", "'here' after simulate:"),
        ("simulate:?seeds=1", "seeds is not one of"),
        ("simulate:?seed=x", "seed is 'x', not a number"),
        ("replay:", "names no file"),
        ("replay:x.csv?speed=0", "speed is '0'"),
    ],
)
def test_an_invalid_feed_text_is_refused_by_name(text, wrong):
    with pytest.raises(UsageError, match=wrong):
        open_feeds([text], TapeClock(0, 1))


def test_a_credential_is_refused_and_not_repeated():
    with pytest.raises(UsageError, match="environment") as refused:
        parse_spec("databento:OPRA.PILLAR?key=db-1234")
    assert "db-1234" not in str(refused.value)


def test_a_replay_excludes_other_feeds(tape):
    with pytest.raises(UsageError, match="sets the clock"):
        open_feeds([f"replay:{tape}", "simulate:"], TapeClock(0, 1))
    with pytest.raises(UsageError, match="given twice"):
        open_feeds(["simulate:", "simulate:?seed=2"], TapeClock(0, 1))


def test_a_foreign_cursor_is_refused(tape):
    with pytest.raises(FeedError, match="'here'"):
        replay(parse_spec(f"replay:{tape}")).run(Outlet(), "here")
