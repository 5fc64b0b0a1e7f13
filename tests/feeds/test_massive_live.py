"""Massive's live feed against a stand-in for its server, by the vendor's own client."""

import contextlib
import gc
import json
import logging
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import polars as pl
import pytest

from flowtape.errors import FeedError, UsageError
from flowtape.feeds.limits import Limits
from flowtape.feeds.live import NOT_LISTED
from flowtape.feeds.massive.feed import WINDOW, massive
from flowtape.feeds.massive.session import DELAYED
from flowtape.feeds.quote_join import ABSURD
from flowtape.feeds.rest import PUT_OFF
from flowtape.feeds.rows import NOT_UNDERSTOOD
from flowtape.feeds.specs import parse_spec
from flowtape.model.prints import IDENTITY, SCHEMA
from flowtape.pipeline.ingestor import Engine
from flowtape.readers import massive as files
from flowtape.storage import open_store
from standins.massive import MassiveServer
from tapes import frame, row

SPY, PUT = "O:SPY261218C00500000", "O:SPXW261218P05400500"
MS = 1_000_000
NS = (time.time_ns() // 10**9 - 120) * 10**9
"""Two minutes ago: the vendor is asked for what happened up to now."""
WAIT = 10.0


class Outlet:
    """Keeps what it is given and lets the test wait for it."""

    def __init__(self):
        self.stop, self.got, self.counts, self.signs = threading.Event(), [], {}, 0
        self.changed = threading.Condition()

    def put(self, delivery):
        with self.changed:
            self.got.append(delivery)
            self.changed.notify_all()

    def heard(self):
        with self.changed:
            self.signs += 1
            self.changed.notify_all()

    def count(self, what, many=1):
        with self.changed:
            self.counts[what] = self.counts.get(what, 0) + many
            self.changed.notify_all()

    def until(self, true):
        with self.changed:
            assert self.changed.wait_for(true, WAIT), (self.counts, self.prints())

    def given(self):
        return [one.prints for one in self.got]

    def prints(self):
        """What is kept: the later quote of each row."""
        return kept(self.given())

    def until_prints(self, many):
        self.until(lambda: self.prints().height >= many)


def kept(frames):
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)
    rows = frame.sort("quote_ts", nulls_last=False, maintain_order=True)
    return rows.unique(IDENTITY, keep="last", maintain_order=True).sort("ts", "root", "strike", "seq", "copy")


class Running:
    """A feed on a thread, with what ended it."""

    def __init__(self, feed, cursor=None):
        self.feed, self.outlet, self.error = feed, Outlet(), None
        self.thread = threading.Thread(target=self._run, args=(cursor,))
        self.thread.start()

    def _run(self, cursor):
        try:
            self.feed.run(self.outlet, cursor)
        except (FeedError, UsageError) as error:
            self.error = error

    def ended(self):
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        return self.error

    def stop(self):
        self.outlet.stop.set()
        assert self.ended() is None
        return self.outlet


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.delenv("MASSIVE_API_KEY_FILE", raising=False)
    monkeypatch.setenv("MASSIVE_API_KEY", "right-key")


@pytest.fixture
def server():
    with MassiveServer("right-key") as server:
        yield server


@pytest.fixture
def start(server):
    running = []

    def go(symbols=f"{SPY},{PUT}", market="options", cursor=None, feed=None, **limits):
        one = Running(feed or feed_of(server, symbols, market, **limits), cursor)
        running.append(one)
        return one

    yield go
    for one in running:
        one.outlet.stop.set()
        one.thread.join(WAIT)


def feed_of(server, symbols=f"{SPY},{PUT}", market="options", **limits):
    text = f"massive:{market}?symbols={symbols}&url={server.url}&rest={server.rest_url}&secure=0"
    return massive(parse_spec(text), Limits(**{"rest_lag": 0.02} | limits))


def begun(server, one):
    """Wait until the feed is past its subscriptions."""
    assert server.subscribed.wait(WAIT), one.ended()
    return one


def test_option_prints(server, start):
    one = begun(server, start())
    assert (one.feed.source, one.feed.assets, one.feed.symbols) == (
        "massive:us_options_opra (live)",
        {"option"},
        ("SPX", "SPY"),
    )
    server.quote(SPY, NS, 1.0, 1.1)
    server.quote(SPY, NS + 3 * MS, 1.1, 1.2)
    server.trade(SPY, NS + 3 * MS + 999_999, 1.1, 3, conditions=(227, 247), exchange=312)
    server.trade(PUT, NS + 4 * MS, 2.0, 1)
    one.outlet.until_prints(2)
    prints = one.stop().prints()
    assert dict(prints.schema) == SCHEMA
    columns = ("symbol", "root", "expiry", "right", "strike", "price", "size", "condition", "venue")
    assert prints.select(columns).rows() == [
        ("SPY", "SPY", date(2026, 12, 18), "C", 5_000_000, 11_000, 3, "MCTP", "312"),
        ("SPX", "SPXW", date(2026, 12, 18), "P", 54_005_000, 20_000, 1, "AUTO", "312"),
    ]
    # The second quote is of the trade's own millisecond: not before it.
    assert prints.select("bid", "ask", "bid_size", "ask_size").row(0) == (10_000, 11_000, 10, 20)
    assert prints.select(pl.col("ts", "quote_ts").cast(pl.Int64) - NS).rows() == [
        (3 * MS, 0),
        (4 * MS, None),
    ]
    assert one.outlet.counts == {}


def test_stock_prints(server, start):
    one = begun(server, start("SPY,TpC", "stocks"))
    assert (one.feed.source, one.feed.symbols) == ("massive:us_stocks_sip (live)", ("SPY", "T.PRC"))
    server.quote("SPY", NS, 500.0, 500.02)
    server.trade("SPY", NS + MS, 500.01, 100, conditions=(12, 37), exchange=4, seq=77)
    server.trade("SPY", NS + MS, 500.01, 100, conditions=(15,), exchange=4, seq=78)
    server.trade("TpC", NS + 2 * MS, 20.5, 7.1234, conditions=(), exchange=4, seq=9)
    one.outlet.until_prints(2)
    prints = one.stop().prints()
    assert one.outlet.counts == {
        "rows of condition STK_OFFICIAL_CLOSE (M), left out: each repeats a print": 1
    }
    columns = ("asset", "symbol", "price", "size", "bid", "condition", "venue", "seq")
    assert prints.select(columns).rows() == [
        ("stock", "SPY", 5_000_100, 1_000_000, 5_000_000, "STK_EXTENDED", "4", 77),
        ("stock", "T.PRC", 205_000, 71_234, None, "STK_REGULAR", "4", 9),
    ]


def test_a_late_quote_restates(server, start):
    one = begun(server, start())
    server.quote(SPY, NS, 1.0, 1.1)
    server.trade(SPY, NS + 9 * MS, 1.1)
    one.outlet.until_prints(1)
    server.quote(SPY, NS + 8 * MS, 1.1, 1.3)
    one.outlet.until(lambda: one.outlet.prints()["bid"].to_list() == [11_000])
    assert sum(frame.height for frame in one.stop().given()) == 2


def test_a_line_cut_is_an_error_and_rest_fills_the_gap(server, start):
    whole = begun(server, start())
    feed = feed_of(server)
    server.subscribed.clear()
    one = begun(server, start(feed=feed))
    undisturbed = []
    for n in range(400):
        if n == 100:
            server.cut()
            assert "closed" in str(one.ended()).lower()
            whole.ended()
        ts = NS + n * 100 * MS + n
        ticker = (SPY, PUT)[n % 2]
        if n % 3 == 0:
            server.quote(ticker, ts - 50 * MS, 1.0 + n / 100, 1.1 + n / 100)
        server.trade(ticker, ts, 1.05, 1 + n % 4)
        undisturbed.append(ts // MS * MS)
    cursor = one.outlet.got[-1].cursor
    again = start(feed=feed, cursor=cursor)
    again.outlet.until_prints(300)
    server.trade(SPY, NS + 50_000 * MS, 1.05, 5)
    again.outlet.until(lambda: again.outlet.prints()["size"].max() == 5)
    union = kept(one.outlet.given() + again.stop().given())
    fresh = start(cursor=str(NS - 10**9))
    fresh.outlet.until_prints(401)
    alone = fresh.stop().prints()
    assert union["ts"].cast(pl.Int64).to_list() == [*undisturbed, NS + 50_000 * MS]
    assert union.equals(alone)
    assert any("cursor=" in path for path in server.requests)


def test_trap_the_same_trade_from_both_ways_counts_once_and_two_alike_count_twice(server, start):
    one = begun(server, start())
    for _ in range(3):
        server.trade(SPY, NS + 7 * MS, 1.05, 1)
    server.repeat = 3
    server.trade(SPY, NS + 8 * MS, 1.05, 1)
    server.trade(PUT, NS + 9 * MS, 1.05, 9)
    one.outlet.until(lambda: 9 in one.outlet.prints()["size"])
    one.stop()
    again = start(cursor=str(NS))
    again.outlet.until_prints(5)
    assert one.outlet.prints().height == again.stop().prints().height == 5
    assert kept(one.outlet.given() + again.outlet.given()).height == 5


def test_order_of_arrival_changes_nothing(server, start):
    one = begun(server, start())
    server.hold()
    for n in range(20):
        server.quote(SPY, NS + n * MS, 1.0 + n / 100, 1.1 + n / 100)
        server.trade(SPY, NS + n * MS, 1.05, n + 1)
    server.release(reverse=True)
    one.outlet.until(
        lambda: one.outlet.prints().height == 20 and one.outlet.prints()["bid"].null_count() == 1
    )
    one.outlet.until(
        lambda: one.outlet.prints()["bid"].to_list()[1:] == [10_000 + 100 * n for n in range(19)]
    )
    one.stop()


def test_what_happens_while_the_gap_is_fetched_is_kept(server, start):
    for n in range(350):
        server.trade(SPY, NS + n * MS, 1.05, 1, live=False)
    one = begun(server, start(cursor=str(NS)))
    for n in range(350, 360):
        server.trade(SPY, NS + n * MS, 1.05, 1)
    one.outlet.until_prints(360)
    assert one.stop().prints().height == 360


def test_garbage_is_counted_and_the_rest_goes_on(server, start):
    one = begun(server, start())
    server.say("not json at all")
    server.say(b"\xff\xfe")
    server.say('{"ev":"T"}')
    server.say('[{"ev":"T","sym":7},{"ev":"XX"},{"ev":"T","sym":"SPY","t":5}]')
    server.trade(SPY, NS, -1.0)
    server.trade(SPY, NS, 1.0, 1.5)
    server.trade("O:SPY", NS, 1.0, live=False)
    server.trade(SPY, NS, 1.0, 1)
    one.outlet.until_prints(1)
    one.outlet.until(lambda: one.outlet.counts.get(NOT_UNDERSTOOD) == 6)
    left = {what: many for what, many in one.stop().counts.items() if what != NOT_UNDERSTOOD}
    assert sum(left.values()) == 2
    assert all(what.startswith("rows left out: ") for what in left)


def test_corrections_of_rest_are_left_out_and_counted(server, start):
    server.trade(SPY, NS, 1.0, 1, correction=8)
    server.trade(SPY, NS, 1.0, 2, correction=1)
    one = start(cursor=str(NS))
    one.outlet.until_prints(1)
    assert one.stop().prints()["size"].to_list() == [2]
    assert one.outlet.counts == {"correction 8 (original of a cancel), left out": 1}


def test_trades_of_one_number_are_told(server, start):
    one = begun(server, start("SPY", "stocks"))
    server.say(
        "["
        + ",".join(
            f'{{"ev":"T","sym":"SPY","i":"{n}","x":62,"p":48.06,"s":100,"t":{NS // MS},"q":130924,"z":3}}'
            for n in (1, 2)
        )
        + "]"
    )
    one.outlet.until_prints(1)
    one.outlet.until(
        lambda: (
            one.outlet.counts
            == {"trades alike in sequence number, price, size and condition, counted once": 1}
        )
    )
    one.stop()


def test_underlyings_are_expanded_and_quotes_have_a_limit(server, start):
    server.contracts["SPY"] = [f"O:SPY261218C{n:08d}" for n in range(1000, 1250)]
    one = begun(server, start("spy", quoted=150))
    one.outlet.until(lambda: one.outlet.counts == {"contracts whose quotes the vendor does not give": 100})
    server.trade(server.contracts["SPY"][-1], NS, 1.05)
    one.outlet.until_prints(1)
    one.stop()
    assert isinstance(start("QQQ").ended(), UsageError)


def test_a_pong_is_a_sign_of_life_and_silence_is_found(server, start):
    one = begun(server, start(ping_every=0.02, pong=0.3))
    signs = one.outlet.signs
    one.outlet.until(lambda: one.outlet.signs > signs + 20)
    server.silence()
    assert "no pong" in str(one.ended())
    assert isinstance(one.error, FeedError)


@pytest.mark.parametrize("stage", ["admission", "stream"])
def test_a_refusal_is_told_in_the_vendors_words(server, start, stage):
    if stage == "admission":
        server.refuse = "max_connections"
        one = start()
    else:
        one = begun(server, start())
        server.status("max_connections", "Maximum number of websocket connections exceeded.")
    error = one.ended()
    assert isinstance(error, FeedError)
    assert "max_connections" in str(error)


def test_a_broken_rest_is_a_feed_error(server, start):
    server.rest_broken = True
    error = start(cursor=str(NS)).ended()
    assert isinstance(error, FeedError)
    assert "broken as told" in str(error)


def test_no_server_is_a_feed_error():
    with MassiveServer() as server:
        feed = feed_of(server, open=0.3)
    with pytest.raises(FeedError, match="not admitted within"):
        feed.run(Outlet(), None)


def test_a_page_that_comes_again_is_an_error_and_not_more_prints(server, start):
    server.rest_stuck = True
    for n in range(150):
        server.trade(SPY, NS + n, 1.05, live=False)
    one = start(cursor=str(NS))
    assert "a page of " in str(one.ended())
    assert one.outlet.got == []


@pytest.mark.parametrize(
    "body", [{"status": "ERROR", "results": []}, {"status": "OK", "results": None}, {"results": {}}]
)
def test_an_answer_that_is_no_page_does_not_pass_for_an_empty_one(server, start, body):
    server.rest_says = body
    assert "not a page of rows" in str(start(cursor=str(NS)).ended())


def test_a_delayed_plan_is_told(server, start):
    server.rest_says = {"status": "DELAYED", "results": []}
    one = begun(server, start(cursor=str(NS)))
    one.outlet.until(lambda: one.outlet.counts.get(DELAYED, 0) >= 4)
    one.stop()


def test_a_busy_rest_is_asked_again(server, start):
    server.trade(SPY, NS, 1.05, live=False)
    server.busy = 3
    one = start(cursor=str(NS))
    one.outlet.until_prints(1)
    assert one.stop().counts == {PUT_OFF: 3}


@pytest.mark.parametrize("fault", ["busy", "hangs"])
def test_a_feed_that_waits_for_rest_stops_at_once(server, start, fault):
    server.contracts["SPY"] = [SPY]
    if fault == "busy":
        server.busy, server.retry_after = 9, "3600"
    else:
        server.rest_hangs = True
    for symbols, cursor in ((SPY, str(NS)), ("SPY", None)):
        asked = len(server.requests)
        one = start(symbols, cursor=cursor, read=3.0)
        until = time.monotonic() + WAIT
        while len(server.requests) == asked and time.monotonic() < until:
            one.outlet.stop.wait(0.01)
        began = time.monotonic()
        one.stop()
        assert time.monotonic() - began < 1


def test_a_long_quiet_gap_is_leapt_over_and_what_follows_fetched_in_windows(server, start):
    hour = 3600 * 10**9
    for n in range(3):
        server.trade(SPY, NS - 65 * hour + n, 1.05, 1 + n, live=False)
        server.quote(PUT, NS - 2 * hour + n * MS, 1.0, 1.1, live=False)
    server.trade(PUT, NS, 1.05, 9, live=False)
    one = start(cursor=str(NS - 65 * hour))
    one.outlet.until_prints(4)
    prints = one.stop().prints()
    assert prints["size"].to_list() == [1, 2, 3, 9]
    assert prints["bid"].to_list()[-1] == 10_000
    assert len(server.requests) < 60
    bounds = [parse_qs(urlparse(path).query) for path in server.requests]
    widths = [
        int(one["timestamp.lt"][0]) - int(one["timestamp.gte"][0]) for one in bounds if "timestamp.lt" in one
    ]
    assert set(widths) == {WINDOW}


def test_the_place_where_it_began_is_kept_before_anything_came(server, start):
    before = time.time_ns()
    one = begun(server, start())
    one.outlet.until(lambda: one.outlet.got)
    server.cut()
    one.ended()
    assert one.outlet.got[0].prints.is_empty()
    assert before - MS <= int(one.outlet.got[0].cursor) <= time.time_ns()
    server.trade(SPY, time.time_ns(), 1.05, 7, live=False)
    again = start(cursor=one.outlet.got[-1].cursor)
    again.outlet.until_prints(1)
    again.stop()


def test_one_garbage_time_neither_counts_nor_makes_others_late(server, start):
    one = begun(server, start())
    far = 3_900_000_000_000 * MS
    server.quote(SPY, far, 9.0, 9.1)
    server.trade(SPY, far, 9.0, 9)
    server.quote(SPY, NS, 1.0, 1.1)
    for n in range(3):
        server.trade(SPY, NS + MS, 1.1, 1)
        one.outlet.until_prints(n + 1)
    prints = one.stop().prints()
    assert prints["bid"].to_list() == [10_000] * 3
    assert one.outlet.counts[ABSURD] == 1
    assert sum(one.outlet.counts.values()) == 2
    assert int(one.outlet.got[-1].cursor) <= time.time_ns()


def test_trap_alike_trades_are_kept_apart_after_a_time_ahead_of_the_clock(server, start):
    one = begun(server, start())
    now = time.time_ns()
    server.trade(SPY, now + 600 * 10**9, 9.0, 9)
    one.outlet.until_prints(1)
    for n in range(3):
        server.trade(SPY, now + MS, 1.1, 1)
        server.trade(PUT, now + (2 + n) * MS, 1.1, 2)
        one.outlet.until(lambda n=n: one.outlet.prints()["size"].to_list().count(2) == n + 1)
    assert one.stop().prints()["size"].to_list().count(1) == 3


def test_contracts_listed_later_are_fetched_and_taken_up(server, start):
    server.contracts["SPY"] = [SPY]
    one = begun(server, start("SPY", list_every=0.2))
    one.outlet.until(lambda: one.outlet.got)
    new = "O:SPY261218C00510000"
    server.trade(new, time.time_ns(), 1.05, 7, live=False)
    server.contracts["SPY"].append(new)
    assert one.ended() is None
    assert one.outlet.prints()["size"].to_list() == [7]
    server.subscribed.clear()
    again = begun(server, start(feed=one.feed, cursor=one.outlet.got[-1].cursor))
    server.trade(new, time.time_ns(), 1.05, 8)
    again.outlet.until(lambda: 8 in again.outlet.prints()["size"])
    server.rest_broken = True
    again.outlet.until(lambda: again.outlet.counts.get(NOT_LISTED))
    again.stop()


def test_started_and_stopped_many_times_nothing_is_left(server, start):
    def held():
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    server.trade(SPY, NS, 1.05, live=False)
    for n in range(52):
        if n == 2:
            before = held()
        server.subscribed.clear()
        one = begun(server, start(cursor=str(NS) if n % 2 else None))
        if n % 3 == 0:
            server.cut()
            assert isinstance(one.ended(), FeedError)
        else:
            one.stop()
    until = time.monotonic() + WAIT
    while not all(map(int.__le__, after := held(), before)) and time.monotonic() < until:
        one.outlet.stop.wait(0.01)
    assert all(map(int.__le__, after, before)), (before, after)


def test_a_day_of_the_files_is_not_taken_again(server, tmp_path):
    feed = feed_of(server)
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        engine = Engine(store)
        engine.take(frame([row()]), files.OPTIONS)
        report = engine.show(frame([row(seq=99)]), feed.source)
        engine.commit()
        assert (report.refused, report.added) == (1, 0)


def test_quotes_alone_settle_too(server, start):
    one = begun(server, start())
    for n in range(9):
        server.quote(SPY, NS + 10 * n * 10**9, 1.0 + n, 1.1 + n)
    one.outlet.until(lambda: any(delivery.standing is not None for delivery in one.outlet.got))
    server.trade(SPY, NS + 90 * 10**9, 9.0)
    one.outlet.until_prints(1)
    assert dict(one.stop().got[1].prints.schema) == SCHEMA


def test_the_key_in_the_address_of_a_page_is_in_no_log(server, start, caplog):
    caplog.set_level(logging.DEBUG)
    # The program's own logging, which another test may have set up, lets it tell of failures only.
    caplog.set_level(logging.DEBUG, "urllib3.connectionpool")
    server.key_in_pages = True
    for n in range(150):
        server.trade(SPY, NS + n * MS, 1.05, live=False)
    one = start(cursor=str(NS))
    one.outlet.until_prints(150)
    one.stop()
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert any("cursor=100" in text for text in ours)
    assert "right-key" not in "".join(ours)


@pytest.mark.parametrize("key", ["k\u00e9y-secret", "two words-secret", "tab\x01-secret"])
def test_a_key_that_can_be_none_is_told_without_it(server, monkeypatch, key, tmp_path):
    monkeypatch.setenv("MASSIVE_API_KEY", key)
    with pytest.raises(UsageError, match="MASSIVE_API_KEY: a key has no blanks") as told:
        feed_of(server).run(Outlet(), None)
    assert "secret" not in repr(told.value)
    (tmp_path / "key").write_bytes(b"\xffsecret")
    monkeypatch.setenv("MASSIVE_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(UsageError, match="not a text") as told:
        feed_of(server).run(Outlet(), None)
    assert told.value.__context__ is None or "secret" not in repr(told.value)


@pytest.mark.parametrize("cursor", [None, str(NS)], ids=["anew", "from a cursor"])
@pytest.mark.parametrize("symbols", [SPY, "SPY"])
def test_a_wrong_key_is_no_use_trying_and_is_in_no_text(
    server, start, monkeypatch, caplog, capfd, symbols, cursor
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MASSIVE_API_KEY", "wrong-secret-7")
    server.contracts["SPY"] = [SPY]
    error = start(symbols, cursor=cursor).ended()
    assert isinstance(error, UsageError)
    assert "MASSIVE_API_KEY" in str(error)
    seen = repr(error) + repr(error.__cause__) + "".join(capfd.readouterr())
    # The stand-in runs in this process too, and may well write what it received.
    ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
    assert "wrong-secret-7" not in seen + "".join(ours)


def test_a_missing_client_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "massive", None)
    with pytest.raises(UsageError, match=r"pip install 'flowtape\[massive\]'"):
        feed_of(server).run(Outlet(), None)


def test_the_key_may_be_in_a_file(server, start, monkeypatch, tmp_path):
    (tmp_path / "key").write_text("right-key\n")
    monkeypatch.setenv("MASSIVE_API_KEY", "wrong")
    monkeypatch.setenv("MASSIVE_API_KEY_FILE", str(tmp_path / "key"))
    begun(server, start()).stop()
    monkeypatch.setenv("MASSIVE_API_KEY_FILE", str(tmp_path / "none"))
    assert "MASSIVE_API_KEY_FILE" in str(start().ended())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("massive:bonds?symbols=SPY", "'bonds' after massive:"),
        ("massive:stocks", "symbols names what to take"),
        ("massive:stocks?symbols=S!PY9", "not a stock's ticker"),
        ("massive:stocks?symbols=SPY&secure=2", "secure is '2'"),
        ("massive:stocks?symbol=SPY", "symbol is none of"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(text, wrong):
    with pytest.raises(UsageError, match=wrong):
        massive(parse_spec(text))


def test_a_foreign_cursor_and_a_missing_key_are_refused(server, monkeypatch):
    with pytest.raises(FeedError, match="'here'"):
        feed_of(server).run(Outlet(), "here")
    monkeypatch.delenv("MASSIVE_API_KEY")
    with pytest.raises(UsageError, match="set MASSIVE_API_KEY"):
        feed_of(server).run(Outlet(), None)


def test_the_stand_in_runs_as_a_program_of_its_own(start):
    program = [sys.executable, "-m", "standins.massive", "right-key"]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, cwd=Path(__file__).parents[1], **pipe) as child:
        port = child.stdout.readline().strip()
        for command in (["trade", SPY, NS, 1.05, {"size": 4}], ["repeat", 2]):
            child.stdin.write(json.dumps(command) + "\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"
        text = f"massive:options?symbols={SPY}&url=127.0.0.1:{port}&rest=http://127.0.0.1:{port}&secure=0"
        one = start(cursor=str(NS), feed=massive(parse_spec(text)))
        one.outlet.until_prints(1)
        assert one.stop().prints()["size"].to_list() == [4]
        child.stdin.close()
