"""Every vendor's live feed, by the vendor's own client, against a stand-in over real sockets."""

import contextlib
import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest

from feeding import WAIT, Outlet, kept
from feeds.lines import NS, SECOND, TENTH, every, instants, joining, lines, paging, tape, until
from flowtape.errors import FeedError
from flowtape.feeds.quote_join import ABSURD
from flowtape.feeds.registry import open_feeds
from flowtape.feeds.rows import NOT_UNDERSTOOD
from flowtape.model.clock import SystemClock
from flowtape.model.prints import SCHEMA
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.supervisor import Live, Waits
from flowtape.storage import open_store
from serving import Clock

pytestmark = pytest.mark.usefixtures("keys")


@every
def test_a_print_has_its_prevailing_quote(line, run):
    one = line.started(run(line.feed()))
    line.quote(0)
    line.trade(0)
    line.quote(2)
    line.trade(2)
    one.outlet.until(lambda: one.outlet.prints()["bid"].to_list() == [10_000, 10_200])
    prints = one.stop().prints()
    assert dict(prints.schema) == SCHEMA
    assert instants(prints) == [NS, NS + 2 * TENTH]
    assert prints["ask"].to_list() == [11_000, 11_200]
    assert prints["price"].to_list() == [10_500, 10_700]
    assert one.outlet.counts == {}


@every
def test_a_feed_resumes_at_its_cursor(line, run):
    one = line.started(run(line.feed()))
    tape(line, 0, 20)
    one.outlet.until_prints(20)
    one.stop()
    tape(line, 20, 40, live=False)
    again = run(line.feed(), one.cursor)
    again.outlet.until(lambda: kept(one.outlet.given() + again.outlet.given()).height == 40)
    assert instants(kept(one.outlet.given() + again.stop().given())) == [NS + n * TENTH for n in range(40)]


@every
def test_the_gap_after_a_cut_is_filled(line, run):
    feed = line.feed()
    one = line.started(run(feed))
    tape(line, 0, 100)
    one.outlet.until_prints(100)
    line.server.cut()
    assert isinstance(one.ended(), FeedError)
    tape(line, 100, 300, live=False)
    again = line.started(run(feed, one.cursor))
    tape(line, 300, 350)
    fresh = run(line.feed(), str(NS - SECOND))
    wanted = ["size"] if not line.gap_quotes else pl.all()
    both = [one.outlet, again.outlet]
    again.outlet.until(lambda: kept([part for outlet in both for part in outlet.given()]).height == 350)
    fresh.outlet.until_prints(350)
    expected = fresh.stop().prints().select(wanted)
    found = lambda: kept([part for outlet in both for part in outlet.given()]).select(wanted)  # noqa: E731
    again.outlet.until(lambda: found().equals(expected))
    assert instants(again.stop().prints().tail(1)) == [NS + 349 * TENTH]


@every
def test_live_messages_wait_while_the_gap_is_filled(line, run):
    tape(line, 0, 350, live=False)
    one = run(line.feed(), str(NS))
    one.outlet.open.clear()
    line.started(one)
    tape(line, 350, 400)
    one.outlet.open.set()
    one.outlet.until_prints(400)
    assert one.stop().prints().height == 400


@every
def test_a_trade_received_live_and_fetched_counts_once(line, run):
    one = line.started(run(line.feed()))
    for n in (0, 0, 0, 2, 3):
        line.trade(n)
    one.outlet.until_prints(5)
    one.stop()
    again = run(line.feed(), str(NS))
    again.outlet.until_prints(5)
    assert again.stop().prints().height == 5
    assert kept(one.outlet.given() + again.outlet.given()).height == 5


@lines(lambda line: line.repeats)
def test_a_repeated_message_counts_once(line, run):
    line.server.repeat = 3
    one = line.started(run(line.feed()))
    tape(line, 0, 6)
    one.outlet.until(lambda: one.outlet.prints()["bid"].null_count() == 1)
    assert one.stop().prints().height == 6


@joining
def test_order_of_arrival_does_not_change_prints(line, run):
    one = line.started(run(line.feed()))
    line.server.hold()
    for n in range(20):
        line.quote(n)
        line.trade(n)
    line.server.release(reverse=True)
    bids = [10_000 + 100 * n for n in range(20)]
    one.outlet.until(lambda: one.outlet.prints()["bid"].to_list() == bids)
    one.stop()


@joining
def test_a_late_quote_replaces_the_former_quote(line, run):
    one = line.started(run(line.feed()))
    line.quote(0)
    line.trade(4)
    one.outlet.until_prints(1)
    line.quote(4)
    one.outlet.until(lambda: one.outlet.prints()["bid"].to_list() == [10_400])
    assert sum(frame.height for frame in one.stop().given()) == 2


@joining
def test_quotes_without_trades_move_the_cursor(line, run):
    one = line.started(run(line.feed(horizon=2.0, advance_every=1.0)))
    for n in range(0, 100, 10):
        line.quote(n)
    newest = NS + 90 * TENTH - TENTH // 2
    one.outlet.until(lambda: any(delivery.standing is not None for delivery in one.outlet.got))
    one.outlet.until(lambda: int(one.cursor) >= newest - 4 * SECOND)
    assert {delivery.prints.height for delivery in one.stop().got} == {0}


@every
def test_the_starting_cursor_is_delivered_before_any_print(line, run):
    before = time.time_ns()
    one = line.started(run(line.feed()))
    one.outlet.until(lambda: one.outlet.got)
    line.server.cut()
    assert isinstance(one.ended(), FeedError)
    assert [delivery.prints.height for delivery in one.outlet.got] == [0]
    assert before - line.unit <= int(one.cursor) <= time.time_ns()
    line.trade(0, live=False, ts=time.time_ns())
    again = run(line.feed(), one.cursor)
    again.outlet.until_prints(1)
    again.stop()


@every
def test_a_slow_consumer_pauses_the_feed(line, run):
    one = line.started(run(line.feed(waiting=10, batch=5)))
    one.outlet.until(lambda: one.outlet.got)
    one.outlet.open.clear()
    tape(line, 0, 200)
    assert one.outlet.prints().is_empty()
    one.outlet.open.set()
    one.outlet.until_prints(200)
    assert max(delivery.prints.height for delivery in one.stop().got) <= 10


@every
def test_a_stopped_feed_does_not_wait_for_its_gap(line, run):
    line.stall()
    one = run(line.feed(read=3.0), str(NS))
    until(line.stalled)
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 1


@every
def test_a_stopped_feed_does_not_wait_for_its_consumer(line, run):
    tape(line, 0, 50, live=False)
    one = run(line.feed(), str(NS))
    one.outlet.open.clear()
    assert one.outlet.waiting.wait(WAIT)
    one.stop()


@every
def test_malformed_messages_are_counted_without_loss_of_trades(line, run):
    one = line.started(run(line.feed()))
    for text in line.garbage:
        line.server.say(text)
    outlet, cursor = one.outlet, None
    outlet.until(lambda: outlet.counts.get(NOT_UNDERSTOOD) == len(line.garbage))
    if not line.pages:
        # After malformed bytes the start of the next record is unknown.
        assert isinstance(one.ended(), FeedError)
        cursor = str(NS)
        one = line.started(run(one.feed, cursor, outlet))
    line.bad_trades()
    line.trade(0)
    outlet.until_prints(1)
    left = {what: many for what, many in one.stop().counts.items() if what != NOT_UNDERSTOOD}
    assert sum(left.values()) == 2
    assert outlet.prints().height == 1


@every
def test_a_future_time_is_left_out_and_delays_nothing(line, run):
    one = line.started(run(line.feed()))
    line.trade(0, ts=time.time_ns() + 2 * 3600 * SECOND)
    line.quote(2)
    for n in (2, 4, 6):
        line.trade(n)
    one.outlet.until(lambda: one.outlet.prints()["bid"].to_list() in ([10_200] * 3, [10_200, 10_400, 10_600]))
    assert one.stop().counts == {ABSURD: 1}
    assert int(one.cursor) <= time.time_ns()


@every
def test_a_feed_without_prints_gives_signs_of_life(line, run):
    line.server.heartbeat = 0.05
    one = line.started(run(line.feed(ping_every=0.02)))
    signs = one.outlet.signs
    one.outlet.until(lambda: one.outlet.signs > signs + 3)
    assert one.stop().prints().is_empty()


@paging
def test_silence_of_a_vendor_ends_the_connection(line, run):
    one = line.started(run(line.feed(ping_every=0.02, pong=0.2, close=0.1)))
    line.server.silence()
    error = one.ended()
    assert isinstance(error, FeedError)
    assert "no pong within 0.2 s" in str(error)


@every
def test_a_disconnection_before_authentication_is_an_error(line, run):
    line.server.hang_up = True
    assert isinstance(run(line.feed()).ended(), FeedError)


@every
def test_a_vendor_that_does_not_answer_is_an_error(line, run):
    line.server.mute = True
    run(line.feed()).stop()
    error = run(line.feed(open=0.2)).ended()
    assert isinstance(error, FeedError)
    assert "not admitted within 0.2 s" in str(error)


@every
def test_a_missing_server_is_a_feed_error(line, run):
    line.server.stop()
    assert isinstance(run(line.feed(open=0.3)).ended(), FeedError)


@every
def test_a_foreign_cursor_is_refused(line):
    with pytest.raises(FeedError, match="'here'"):
        line.feed().run(Outlet(), "here")


@pytest.mark.slow
@every
def test_repeated_starts_and_stops_leak_nothing(line, run, caplog):
    def held():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    line.trade(0, live=False)
    for n in range(22):
        if n == 2:
            before = held()
        one = line.started(run(line.feed(ping_every=0.001), str(NS) if n % 2 else None))
        if n % 3 == 0:
            line.server.cut()
            assert isinstance(one.ended(), FeedError)
        else:
            one.stop()
    until(lambda: all(map(int.__le__, held(), before)))
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


class Shown:
    """Counts the prints that are shown."""

    def __init__(self):
        self.prints = 0

    def published(self, source, sides, waits):
        self.prints += sum(many for _, many in waits)

    def committed(self, seconds, prints):
        pass


@pytest.fixture
def serve(tmp_path):
    """Return a function that ingests a feed into a store, as the server does."""
    with contextlib.ExitStack() as ends:

        def go(feed):
            store = ends.enter_context(contextlib.closing(open_store(tmp_path / "store.duckdb")))
            shown = Shown()
            live = Live(Ingestor(store), [feed], Clock(time.time_ns()), shown, waits=Waits(first=0.02))
            ends.callback(live.stop)
            live.start()
            return store, live, shown

        yield go


@every
def test_a_served_feed_reconnects_and_stores_each_trade_once(line, serve, tmp_path):
    store, live, shown = serve(line.feed())
    assert line.server.started.acquire(timeout=WAIT)
    tape(line, 0, 40)
    until(lambda: shown.prints >= 40)
    line.server.cut()
    tape(line, 40, 80, live=False)
    assert line.server.started.acquire(timeout=WAIT)
    tape(line, 80, 90)
    assert live.feeds()[0].reconnects == 1
    until(lambda: shown.prints >= 90)
    live.stop()
    store.close()
    with duckdb.connect(str(tmp_path / "store.duckdb"), read_only=True) as kept_there:
        assert kept_there.sql("SELECT count(*), count(DISTINCT ts) FROM prints").fetchall() == [(90, 90)]


@every
def test_a_served_feed_does_not_retry_a_refused_key(line, serve, monkeypatch):
    for name in line.variables:
        monkeypatch.setenv(name, "wrong-key")
    _, live, _ = serve(line.feed())
    until(live.ended)
    with pytest.raises(FeedError, match=f"{line.variables[0]}.*: refused by "):
        live.raise_given_up()
    assert [(one.connected, one.reconnects) for one in live.feeds()] == [(False, 0)]


@pytest.mark.slow
@every
def test_the_stand_in_runs_as_a_separate_program(line, run):
    program = [sys.executable, "-m", *line.program]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, cwd=Path(__file__).parents[1], **pipe) as child:
        if not line.pages:
            child.stdin.write(json.dumps(line.server.symbols) + "\n")
            child.stdin.flush()
        port = child.stdout.readline().strip()
        for command in line.commands():
            child.stdin.write(json.dumps(command) + "\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
        one = run(line.feed(port), str(NS))
        one.outlet.until_prints(1)
        assert one.stop().prints()["size"].to_list() in ([4], [40_000])
        child.stdin.close()
        assert child.wait(WAIT) == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("massive:stocks?symbols=SPY,TpC", "massive:stocks:SPY+1-d7622908"),
        ("massive:options?symbols=spy", "massive:options:SPY"),
        ("alpaca:stocks?symbols=SPY,QQQ", "alpaca:stocks:sip:SPY+1-4c486f16"),
        ("alpaca:options?symbols=SPY&feed=indicative", "alpaca:options:indicative:SPY"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT,QQQ.OPT", "databento:OPRA.PILLAR:tcbbo:SPY.OPT+1-5ac01d86"),
        ("databento:XNAS.ITCH?symbols=SPY&schema=trades", "databento:XNAS.ITCH:trades:SPY"),
    ],
)
def test_the_name_of_a_feed_is_stable(text, name):
    (feed,) = open_feeds([text], SystemClock())
    assert feed.name == name
