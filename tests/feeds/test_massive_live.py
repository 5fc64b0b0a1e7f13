"""Massive's live feed against a stand-in for its server, by the vendor's own client."""

import json
import logging
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from flowtape.errors import FeedError, UsageError
from flowtape.feeds import massive as feed_module
from flowtape.feeds.massive import massive
from flowtape.feeds.massive_rows import NOT_UNDERSTOOD
from flowtape.feeds.specs import parse_spec
from flowtape.prints import IDENTITY, SCHEMA
from standins.massive import MassiveServer

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
    return rows.unique(IDENTITY, keep="last", maintain_order=True).sort("ts", "root", "strike", "seq")


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

    def go(symbols=f"{SPY},{PUT}", market="options", cursor=None, feed=None):
        one = Running(feed or feed_of(server, symbols, market), cursor)
        running.append(one)
        return one

    yield go
    for one in running:
        one.outlet.stop.set()
        one.thread.join(WAIT)


def feed_of(server, symbols=f"{SPY},{PUT}", market="options"):
    return massive(
        parse_spec(f"massive:{market}?symbols={symbols}&url={server.url}&rest={server.rest_url}&secure=0")
    )


def begun(server, one):
    """Wait until the feed is past its subscriptions."""
    assert server.subscribed.wait(WAIT), one.ended()
    return one


def test_option_prints(server, start):
    one = begun(server, start())
    assert (one.feed.source, one.feed.assets, one.feed.symbols) == (
        "massive:us_options_opra",
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
    assert (one.feed.source, one.feed.symbols) == ("massive:us_stocks_sip", ("SPY", "T.PRC"))
    server.quote("SPY", NS, 500.0, 500.02)
    server.trade("SPY", NS + MS, 500.01, 100, conditions=(12, 37), exchange=4, seq=77)
    server.trade("TpC", NS + 2 * MS, 20.5, 7, conditions=(), exchange=4, seq=9)
    one.outlet.until_prints(2)
    prints = one.stop().prints()
    columns = ("asset", "symbol", "price", "size", "bid", "condition", "venue", "seq")
    assert prints.select(columns).rows() == [
        ("stock", "SPY", 5_000_100, 100, 5_000_000, "unknown", "4", 77),
        ("stock", "T.PRC", 205_000, 7, None, "unknown", "4", 9),
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
    one.outlet.until(lambda: one.outlet.counts == {"trades of one sequence number, counted once": 1})
    one.stop()


def test_underlyings_are_expanded_and_quotes_have_a_limit(server, start, monkeypatch):
    monkeypatch.setattr(feed_module, "QUOTED_CONTRACTS", 150)
    server.contracts["SPY"] = [f"O:SPY261218C{n:08d}" for n in range(1000, 1250)]
    one = begun(server, start("spy"))
    one.outlet.until(lambda: one.outlet.counts == {"contracts whose quotes the vendor does not give": 100})
    server.trade(server.contracts["SPY"][-1], NS, 1.05)
    one.outlet.until_prints(1)
    one.stop()
    assert isinstance(start("QQQ").ended(), UsageError)


def test_a_pong_is_a_sign_of_life_and_silence_is_found(server, start, monkeypatch):
    monkeypatch.setattr(feed_module, "PING_EVERY", 0.02)
    monkeypatch.setattr(feed_module, "PONG_LIMIT", 0.3)
    one = begun(server, start())
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


def test_no_server_is_a_feed_error(monkeypatch):
    monkeypatch.setattr(feed_module, "OPEN_LIMIT", 0.3)
    with MassiveServer() as server:
        feed = feed_of(server)
    with pytest.raises(FeedError, match="not connected within"):
        feed.run(Outlet(), None)


@pytest.mark.parametrize("cursor", [None, str(NS)])
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
