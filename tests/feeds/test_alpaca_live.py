"""Alpaca's live feed against a stand-in for its server, by the vendor's own client."""

import threading
import time
from datetime import date

import msgpack
import polars as pl
import pytest

from feeding import WAIT, begun, kept
from flowtape.cache.cache import Cache
from flowtape.errors import FeedError, UsageError
from flowtape.feeds.alpaca.feed import alpaca
from flowtape.feeds.alpaca.rows import UNPLACED
from flowtape.feeds.limits import Limits
from flowtape.feeds.rows import NOT_UNDERSTOOD
from flowtape.feeds.specs import parse_spec
from flowtape.model.prints import SCHEMA
from flowtape.model.query import Query
from flowtape.orderflow.cancels import counted
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.supervisor import Live, Waits
from flowtape.queries import CUMULATIVE
from flowtape.queries.flow_data import FlowData
from flowtape.storage import open_store
from serving import Clock
from standins.alpaca import AlpacaServer

pytestmark = pytest.mark.usefixtures("keys")

SPY, PUT = "SPY261218C00500000", "SPXW261218P05400500"
MS, MINUTE = 1_000_000, 60 * 10**9
NS = (time.time_ns() // 10**9 - 120) * 10**9
"""Two minutes ago: the vendor is asked for what happened up to now."""
NO_QUOTES = "option prints of a gap, of which the vendor keeps no quotes"


def counting(prints: pl.DataFrame) -> pl.DataFrame:
    """Return the prints that count."""
    mask = counted(prints)
    return prints if mask is None else prints.filter(mask)


@pytest.fixture
def server():
    with AlpacaServer("right-id") as server:
        yield server


def feed_of(server, symbols=f"{SPY},{PUT}", market="options", more="", **limits):
    text = f"alpaca:{market}?symbols={symbols}&url={server.url}&rest={server.rest_url}{more}"
    return alpaca(parse_spec(text), Limits(**{"rest_lag": 0.0} | limits))


def test_option_prints_are_delivered_with_their_quotes(server, start):
    one = begun(server, start())
    assert (one.feed.source, one.feed.assets, one.feed.symbols) == ("alpaca:opra", {"option"}, ("SPX", "SPY"))
    server.quote(SPY, NS, 1.0, 1.1)
    server.quote(SPY, NS + 3, 1.1, 1.2)
    server.trade(SPY, NS + 3, 1.1, 3, conditions="u")
    server.trade(PUT, NS + 123_456_789, 2.0, 1, exchange="n")
    one.outlet.until_prints(2)
    prints = one.stop().prints()
    assert dict(prints.schema) == SCHEMA
    columns = ("symbol", "root", "expiry", "right", "strike", "price", "size", "condition", "venue")
    assert prints.select(columns).rows() == [
        ("SPY", "SPY", date(2026, 12, 18), "C", 5_000_000, 11_000, 3, "MCTP", "C"),
        ("SPX", "SPXW", date(2026, 12, 18), "P", 54_005_000, 20_000, 1, "AUTO", "N"),
    ]
    # The second quote has the trade's own nanosecond, so it is not before the trade.
    assert prints.select("bid", "ask", "bid_size", "ask_size").row(0) == (10_000, 11_000, 10, 20)
    assert prints.select(pl.col("ts", "quote_ts").cast(pl.Int64) - NS).rows() == [(3, 0), (123_456_789, None)]
    assert one.outlet.counts == {}


def test_stock_prints_are_delivered_with_their_quotes(server, start):
    one = begun(server, start("SPY,BRK.B", "stocks"))
    assert (one.feed.source, one.feed.assets, one.feed.symbols) == ("alpaca:sip", {"stock"}, ("BRK.B", "SPY"))
    server.quote("SPY", NS, 500.0, 500.02)
    server.trade("SPY", NS + MS, 500.01, 100, conditions=["@", "T"], exchange="V", id=77)
    server.trade("BRK.B", NS + 2 * MS, 480.5, 7.1234, exchange="N", id=9)
    one.outlet.until_prints(2)
    prints = one.stop().prints()
    columns = ("asset", "symbol", "price", "size", "bid", "condition", "venue", "copy")
    assert prints.select(columns).rows() == [
        ("stock", "SPY", 5_000_100, 1_000_000, 5_000_000, "STK_EXTENDED", "V", 77),
        ("stock", "BRK.B", 4_805_000, 71_234, None, "STK_REGULAR", "N", 9),
    ]
    assert one.outlet.counts == {}


@pytest.mark.parametrize(
    ("market", "more", "source", "path"),
    [
        ("options", "&feed=indicative", "alpaca:indicative", "/v1beta1/indicative"),
        ("options", "", "alpaca:opra", "/v1beta1/opra"),
        ("stocks", "&feed=iex", "alpaca:iex", "/v2/iex"),
    ],
)
def test_each_feed_of_the_vendor_is_a_source(server, start, market, more, source, path):
    symbols = SPY if market == "options" else "SPY"
    one = begun(server, start(feed=feed_of(server, symbols, market, more), cursor=str(NS)))
    assert one.feed.source == source
    assert server.paths == [path]
    one.stop()
    assert all("feed=iex" in path for path in server.requests if "iex" in more)


def test_option_prints_of_a_gap_without_quotes_are_counted(server, start):
    feed = feed_of(server)
    one = begun(server, start(feed=feed))
    server.quote(SPY, NS, 1.0, 1.1)
    server.trade(SPY, NS + MS, 1.05, 1)
    one.outlet.until_prints(1)
    server.cut()
    one.ended()
    server.quote(SPY, NS + 2 * MS, 1.2, 1.3)
    for n in range(150):
        server.trade((SPY, PUT)[n % 2], NS + (3 + n) * MS, 1.25, 1, conditions="a")
    again = start(feed=feed, cursor=one.outlet.got[-1].cursor)
    again.outlet.until_prints(151)
    prints = kept(one.outlet.given() + again.stop().given())
    assert prints.height == 151
    assert prints.filter(root="SPY")["bid"].unique().to_list() == [10_000]
    assert prints.filter(root="SPXW")["bid"].null_count() == 75
    assert again.outlet.counts == {NO_QUOTES: 151}


def test_a_gap_of_several_windows_has_no_duplicates(server, start):
    # Equal rows at the bounds of windows.
    for second in (0, 10, 10, 20, 30, 30, 30):
        server.trade(SPY, NS + second * 10**9, 1.05, 1, live=False)
    one = begun(server, start(cursor=str(NS), window=10 * 10**9))
    one.outlet.until_prints(7)
    assert sum(frame.height for frame in one.stop().given()) == 7


def test_a_cancel_removes_its_trade(server, start):
    one = begun(server, start("SPY", "stocks"))
    server.trade("SPY", NS, 500.0, 5, id=1)
    server.trade("SPY", NS + MS, 500.0, 5, id=2)
    server.trade("SPY", NS + 2 * MS, 500.0, 5, id=3)
    server.cancel("SPY", 2, NS + 5000 * MS)
    one.outlet.until_prints(4)
    prints = one.stop().prints()
    cancel = prints.filter(condition="CANC")
    columns = ("symbol", "price", "size", "venue", "copy")
    assert cancel.select(pl.col("ts").cast(pl.Int64) - NS, *columns).rows() == [
        (MS + 1, "SPY", 5_000_000, 50_000, "C", 2)
    ]
    assert counting(prints)["copy"].to_list() == [1, 3]
    again = start("SPY", "stocks", cursor=str(NS))
    again.outlet.until_prints(4)
    assert again.stop().prints().equals(prints)


def test_an_official_close_and_its_cancel_are_left_out(server, start):
    one = begun(server, start("SPY", "stocks"))
    server.trade("SPY", NS, 500.0, 5, id=1, conditions=["@", "6"])
    server.trade("SPY", NS + MS, 500.0, 5, id=2, conditions=["@", "M"])
    server.cancel("SPY", 2, NS + 5000 * MS)
    server.trade("SPY", NS + 6000 * MS, 500.0, 5, id=3, conditions=["J"])
    one.outlet.until_prints(2)
    prints = one.stop().prints()
    assert counting(prints).select("copy", "condition").rows() == [(1, "STK_CLOSING"), (3, "unknown")]
    assert one.outlet.counts == {
        "rows of condition STK_OFFICIAL_CLOSE (M), left out: each repeats a print": 1,
        "cancels of rows that repeat a print, left out": 1,
        "sale condition 'J' of stocks is not known: counted, side by rule": 1,
    }
    again = start("SPY", "stocks", cursor=str(NS))
    again.outlet.until_prints(2)
    assert again.stop().prints().equals(prints)


def test_a_correction_is_a_cancel_and_another_trade(server, start):
    one = begun(server, start("SPY", "stocks"))
    server.quote("SPY", NS, 500.0, 500.02)
    server.trade("SPY", NS + MS, 500.0, 5, id=7)
    server.correct("SPY", 7, NS + 60_000 * MS, 501.0, 6, new_id=7)
    one.outlet.until_prints(3)
    prints = one.stop().prints()
    columns = ("price", "size", "condition", "copy")
    assert prints.select(pl.col("ts").cast(pl.Int64) - NS, *columns).rows() == [
        (MS, 5_000_000, 50_000, "STK_REGULAR", 7),
        (MS + 1, 5_000_000, 50_000, "CANC", 7),
        (60_000 * MS, 5_010_000, 60_000, "STK_SOLD", 7),
    ]
    assert counting(prints)["size"].to_list() == [60_000]
    again = start("SPY", "stocks", cursor=str(NS))
    again.outlet.until_prints(3)
    assert kept(one.outlet.given() + again.stop().given()).equals(prints)
    assert again.outlet.prints().equals(prints)


def test_a_cancel_sent_during_an_outage_is_fetched(server, start):
    feed = feed_of(server, "SPY", "stocks")
    one = begun(server, start(feed=feed))
    server.trade("SPY", NS, 500.0, 5, id=1)
    one.outlet.until_prints(1)
    server.cut()
    one.ended()
    server.cancel("SPY", 1, NS + MS)
    again = start(feed=feed, cursor=one.outlet.got[-1].cursor)
    again.outlet.until_prints(2)
    assert counting(kept(one.outlet.given() + again.stop().given())).is_empty()


def test_a_cancel_of_a_forgotten_trade_keeps_its_time(server, start):
    server.trade("SPY", NS, 500.0, 5, id=1, live=False)
    one = begun(server, start("SPY", "stocks"))
    server.cancel("SPY", 1, NS + 5 * MS)
    one.outlet.until_prints(1)
    assert one.stop().counts == {UNPLACED: 1}
    assert one.outlet.prints()["ts"].cast(pl.Int64).to_list() == [NS + 5 * MS + 1]
    assert one.outlet.got[-1].cursor == str(NS + 5 * MS + 1)


def test_malformed_messages_are_counted_and_skipped(server, start):
    one = begun(server, start())
    server.say(b"\xc1\xff")
    server.say("not msgpack")
    server.say(msgpack.packb({"T": "t"}))
    good = {
        "T": "t",
        "S": SPY,
        "t": msgpack.Timestamp.from_unix_nano(NS),
        "x": "C",
        "p": 1.0,
        "s": 2,
        "c": "I",
    }
    # The valid messages of a frame count, even if others are malformed.
    server.say(msgpack.packb([7, {"T": "t", "S": 7}, {"S": SPY}, {"T": "?"}, {"T": "b", "S": SPY}, good]))
    server.trade(SPY, NS, -1.0)
    server.trade(SPY, NS, 1.0, 1.5)
    server.say(msgpack.packb([good | {"t": msgpack.Timestamp(5)}, good | {"S": "SPY"}, good | {"t": None}]))
    server.trade(SPY, NS, 1.0, 1, conditions="?")
    one.outlet.until_prints(2)
    one.outlet.until(lambda: one.outlet.counts.get(NOT_UNDERSTOOD) == 8)
    left = {what: many for what, many in one.stop().counts.items() if what != NOT_UNDERSTOOD}
    assert left.pop("condition ? is not known: kept as unknown") == 1
    assert sum(left.values()) == 5
    assert all(what.startswith("rows left out: ") for what in left)
    assert one.outlet.prints()["size"].sum() == 3


def test_malformed_rows_of_rest_are_counted(server, start):
    server.trade("SPY", NS, 500.0, 1)
    server.trades["SPY"].insert(0, {"#ts": NS, "t": 7, "i": "x"})
    server.trades["SPY"].insert(0, {"#ts": NS, "t": "yesterday", "i": 3, "p": 1.0, "s": 1, "x": "C"})
    one = begun(server, start("SPY", "stocks", cursor=str(NS)))
    one.outlet.until_prints(1)
    assert one.stop().counts == {NOT_UNDERSTOOD: 1, "rows left out: t is not a time": 1}


def test_underlyings_are_expanded_and_quotes_have_a_limit(server, start):
    contracts = [f"SPY261218C{n:08d}" for n in range(1000, 1249)]
    server.contracts["SPY"] = ["SPY270115C00500000", *contracts]
    server.symbol_limit = 150
    one = begun(server, start("spy", quoted=150))
    one.outlet.until(lambda: one.outlet.counts == {"contracts whose quotes the vendor does not give": 100})
    server.quote("SPY270115C00500000", NS, 1.0, 1.1)
    server.quote(contracts[0], NS, 1.0, 1.1)
    server.trade("SPY270115C00500000", NS + MS, 1.05)
    server.trade(contracts[0], NS + MS, 1.05)
    one.outlet.until_prints(2)
    # The first contracts to expire have quotes.
    assert one.stop().prints().sort("expiry")["bid"].to_list() == [10_000, None]
    assert isinstance(start("QQQ").ended(), UsageError)


def test_a_key_that_rest_refuses_is_a_usage_error(start, monkeypatch):
    monkeypatch.setenv("APCA_API_SECRET_KEY", "wrong-secret-7")
    error = start("SPY").ended()
    assert type(error) is UsageError
    assert "request is not authorized" in str(error)
    assert "wrong-secret" not in str(error)


def test_a_limit_of_the_vendor_is_reported(server, start):
    server.symbol_limit = 1
    error = start().ended()
    assert isinstance(error, UsageError)
    assert "405: symbol limit exceeded" in str(error)


@pytest.mark.parametrize("stage", ["admission", "stream"])
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (402, UsageError, "auth failed"),
        (409, UsageError, "insufficient subscription"),
        (406, FeedError, "connection limit exceeded"),
        (407, FeedError, "slow client"),
    ],
)
def test_a_refusal_has_the_vendor_s_message(server, start, stage, code, kind, words):
    if stage == "admission":
        server.refuse = code
        one = start()
    else:
        one = begun(server, start())
        server.error(code)
    error = one.ended()
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("alpaca:bonds?symbols=SPY", "'bonds' after alpaca:"),
        ("alpaca:stocks", "symbols names what to take"),
        ("alpaca:stocks?symbols=S!PY9", "not a stock's ticker"),
        ("alpaca:options?symbols=*", "no wildcard"),
        ("alpaca:stocks?symbols=SPY&feed=opra", "feed is 'opra', none of sip, iex"),
        ("alpaca:stocks?symbols=SPY&url=localhost:1", "url is wss://"),
        ("alpaca:stocks?symbol=SPY", "symbol is not one of"),
    ],
)
def test_an_invalid_feed_text_is_refused_by_name(text, wrong):
    with pytest.raises(UsageError, match=wrong):
        alpaca(parse_spec(text))


class Told:
    """Lets a test wait until prints are shown or committed."""

    def __init__(self):
        self.changed = threading.Condition()

    def published(self, source, sides, waited):
        with self.changed:
            self.changed.notify_all()

    def committed(self, seconds, prints):
        self.published("", None, 0)

    def until(self, true):
        with self.changed:
            assert self.changed.wait_for(true, WAIT)


class Kept:
    """A store that outlives its servers."""

    def __init__(self, path):
        self.store, self.now = open_store(path), time.time_ns()
        self.window = Cache(self.store.catalog, self.now // MINUTE)
        self.ingestor, self.told = Ingestor(self.store, self.window), Told()

    def live(self, feed):
        live = Live(self.ingestor, [feed], Clock(self.now), self.told, waits=Waits(first=0.02))
        live.start()
        return live

    def totals(self, symbol, window=None):
        end = self.now // MINUTE + 1
        query = Query(asset="stock", symbol=symbol)
        found = FlowData(self.store, window, self.now).totals(query, end - 60, end, CUMULATIVE)
        return found.minute.tolist(), {name: found.values[name].tolist() for name in CUMULATIVE}

    def trades(self, symbol):
        return sum(self.totals(symbol, self.window)[1]["trades"])


def tape(server, low, high):
    """Publish a part of a tape of two stocks, with some cancels and corrections."""
    for n in range(low, high):
        symbol, ts = ("SPY", "QQQ")[n % 2], NS - 60 * 10**9 + n * 300 * MS
        if n % 5 == 0:
            server.quote(symbol, ts - 7 * MS, 500 + n / 100, 500.04 + n / 100)
        server.trade(symbol, ts, 500 + (n // 5 * 5 + n % 4) / 100, 1 + n % 3, id=n + 1)
        if n % 29 == 20:
            server.cancel(symbol, n - 9, ts + MS)
        if n % 31 == 20:
            server.correct(symbol, n - 9, ts + 2 * MS, 501.0, 2, new_id=n - 9)


def test_the_store_is_complete_after_cuts_and_restarts(server, tmp_path):
    disturbed, whole = Kept(tmp_path / "a.duckdb"), Kept(tmp_path / "b.duckdb")
    undisturbed = AlpacaServer("right-id").start()
    undisturbed_live = whole.live(feed_of(undisturbed, "SPY,QQQ", "stocks"))
    assert undisturbed.started.acquire(timeout=WAIT)
    for low in range(0, 300, 100):
        live = disturbed.live(feed_of(server, "SPY,QQQ", "stocks"))
        assert server.started.acquire(timeout=WAIT)
        tape(server, low, low + 30)
        disturbed.told.until(lambda: disturbed.trades("SPY") > 0)
        server.cut()
        tape(server, low + 30, low + 60)
        assert server.started.acquire(timeout=WAIT)
        server.repeat = 2
        server.hold()
        tape(server, low + 60, low + 80)
        server.release(reverse=True)
        live.stop()
        # No server runs here.
        tape(server, low + 80, low + 100)
        tape(undisturbed, low, low + 100)
    last = disturbed.live(feed_of(server, "SPY,QQQ", "stocks"))
    rows = [row for rows in server.trades.values() for row in rows]
    expected = sum(row.get("u") not in ("canceled", "incorrect") for row in rows)
    for one in (disturbed, whole):
        one.told.until(lambda one=one: one.trades("SPY") + one.trades("QQQ") == expected)
    last.stop()
    undisturbed_live.stop()
    undisturbed.stop()
    for symbol in ("SPY", "QQQ"):
        assert disturbed.totals(symbol) == whole.totals(symbol)
        assert disturbed.totals(symbol, disturbed.window) == whole.totals(symbol)
    assert disturbed.ingestor.store.cursor("alpaca:stocks:sip:SPY+1-" + digest()) is not None
    for one in (disturbed, whole):
        one.store.close()


def digest():
    return alpaca(parse_spec("alpaca:stocks?symbols=SPY,QQQ")).name.rpartition("-")[2]
