"""Massive's live feed against a stand-in for its server, by the vendor's own client."""

import contextlib
import time
from datetime import date
from urllib.parse import parse_qs, urlparse

import polars as pl
import pytest

from feeding import begun
from flowtape.errors import FeedError, UsageError
from flowtape.feeds.limits import Limits
from flowtape.feeds.live import NOT_LISTED
from flowtape.feeds.massive.feed import WINDOW, massive
from flowtape.feeds.massive.session import DELAYED
from flowtape.feeds.specs import parse_spec
from flowtape.model.prints import SCHEMA
from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import massive as files
from flowtape.storage import open_store
from standins.massive import MassiveServer
from tapes import frame, row

pytestmark = pytest.mark.usefixtures("keys")

SPY, PUT = "O:SPY261218C00500000", "O:SPXW261218P05400500"
MS = 1_000_000
NS = (time.time_ns() // 10**9 - 120) * 10**9
"""Two minutes ago: the vendor is asked for what happened up to now."""


@pytest.fixture
def server():
    with MassiveServer("right-key") as server:
        yield server


def feed_of(server, symbols=f"{SPY},{PUT}", market="options", **limits):
    text = f"massive:{market}?symbols={symbols}&url={server.url}&rest={server.rest_url}&secure=0"
    return massive(parse_spec(text), Limits(**{"rest_lag": 0.02} | limits))


def test_option_prints_are_delivered_with_their_quotes(server, start):
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
    # The second quote has the trade's own millisecond, so it is not before the trade.
    assert prints.select("bid", "ask", "bid_size", "ask_size").row(0) == (10_000, 11_000, 10, 20)
    assert prints.select(pl.col("ts", "quote_ts").cast(pl.Int64) - NS).rows() == [
        (3 * MS, 0),
        (4 * MS, None),
    ]
    assert one.outlet.counts == {}


def test_stock_prints_are_delivered_with_their_quotes(server, start):
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


def test_corrections_of_rest_are_left_out_and_counted(server, start):
    server.trade(SPY, NS, 1.0, 1, correction=8)
    server.trade(SPY, NS, 1.0, 2, correction=1)
    one = start(cursor=str(NS))
    one.outlet.until_prints(1)
    assert one.stop().prints()["size"].to_list() == [2]
    assert one.outlet.counts == {"correction 8 (original of a cancel), left out": 1}


def test_trades_with_a_repeated_number_are_counted(server, start):
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


@pytest.mark.parametrize("stage", ["admission", "stream"])
def test_a_refusal_has_the_vendor_s_message(server, start, stage):
    if stage == "admission":
        server.refuse = "max_connections"
        one = start()
    else:
        one = begun(server, start())
        server.status("max_connections", "Maximum number of websocket connections exceeded.")
    error = one.ended()
    assert isinstance(error, FeedError)
    assert "max_connections" in str(error)


def test_an_unreachable_server_is_reported(server, start):
    server.stop()
    error = start(open=0.3).ended()
    assert str(error) == "Massive: not connected within 0.3 s"


def test_a_key_that_rest_refuses_is_a_usage_error(server, start, monkeypatch):
    monkeypatch.setenv("MASSIVE_API_KEY", "wrong-secret-7")
    error = start("SPY").ended()
    assert type(error) is UsageError
    assert "Unknown API Key" in str(error)
    assert "wrong-secret" not in str(error)


def test_a_delayed_plan_is_reported(server, start):
    server.rest_says = {"status": "DELAYED", "results": []}
    one = begun(server, start(cursor=str(NS)))
    one.outlet.until(lambda: one.outlet.counts.get(DELAYED, 0) >= 4)
    one.stop()


def test_a_long_quiet_gap_is_skipped(server, start):
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


def test_a_future_time_does_not_merge_equal_trades(server, start):
    one = begun(server, start())
    now = time.time_ns()
    server.trade(SPY, now + 600 * 10**9, 9.0, 9)
    one.outlet.until_prints(1)
    for n in range(3):
        server.trade(SPY, now + MS, 1.1, 1)
        server.trade(PUT, now + (2 + n) * MS, 1.1, 2)
        one.outlet.until(lambda n=n: one.outlet.prints()["size"].to_list().count(2) == n + 1)
    assert one.stop().prints()["size"].to_list().count(1) == 3


def test_contracts_listed_later_are_fetched_and_subscribed(server, start):
    server.contracts["SPY"] = [SPY]
    one = begun(server, start("SPY", list_every=0.2))
    one.outlet.until(lambda: one.outlet.got)
    new = "O:SPY261218C00510000"
    server.trade(new, time.time_ns(), 1.05, 7, live=False)
    server.contracts["SPY"].append(new)
    assert one.ended() is None
    assert one.outlet.prints()["size"].to_list() == [7]
    again = begun(server, start(feed=one.feed, cursor=one.outlet.got[-1].cursor))
    server.trade(new, time.time_ns(), 1.05, 8)
    again.outlet.until(lambda: 8 in again.outlet.prints()["size"])
    server.rest_broken = True
    again.outlet.until(lambda: again.outlet.counts.get(NOT_LISTED))
    again.stop()


def test_a_day_from_files_gets_no_live_prints(server, tmp_path):
    feed = feed_of(server)
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        ingestor = Ingestor(store)
        ingestor.take(frame([row()]), files.OPTIONS)
        report = ingestor.take(frame([row(seq=99)]), feed.source)
        assert (report.refused, report.added) == (1, 0)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("massive:bonds?symbols=SPY", "'bonds' after massive:"),
        ("massive:stocks", "symbols names what to take"),
        ("massive:stocks?symbols=S!PY9", "not a stock's ticker"),
        ("massive:stocks?symbols=SPY&secure=2", "secure is '2'"),
        ("massive:stocks?symbol=SPY", "symbol is not one of"),
    ],
)
def test_an_invalid_feed_text_is_refused_by_name(text, wrong):
    with pytest.raises(UsageError, match=wrong):
        massive(parse_spec(text))
