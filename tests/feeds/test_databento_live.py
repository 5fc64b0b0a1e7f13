"""Databento's live feed against a stand-in for its gateway, by the vendor's own client."""

import time
from datetime import UTC, datetime, timedelta

import databento_dbn as dbn
import numpy as np
import polars as pl
import pytest

from feeding import begun, kept
from flowtape.errors import FeedError, UsageError
from flowtape.feeds.databento.feed import ERRORS, OUT_OF_STEP, OVERLAP, databento
from flowtape.feeds.limits import Limits
from flowtape.feeds.rows import NOT_UNDERSTOOD
from flowtape.feeds.specs import parse_spec
from flowtape.model.prints import SCHEMA
from readers.dbn_files import SYMBOLS, book, cmbp, metadata, read, tcbbo, trade
from standins.databento import DatabentoServer

pytestmark = pytest.mark.usefixtures("keys")

SECOND = 10**9
NS = (time.time_ns() // SECOND - 600) * SECOND
"""Ten minutes ago: the vendor replays the last 24 hours."""
KEY = "db-right-key-0123456789abcdefghi"
SYMBOLS_ASKED = "AAPL.OPT,SPXW.OPT,AAPL1.OPT"


@pytest.fixture
def server():
    with DatabentoServer(SYMBOLS, KEY) as server:
        yield server


def feed_of(server, more="", symbols=SYMBOLS_ASKED, dataset="OPRA.PILLAR", **limits):
    text = f"databento:{dataset}?symbols={symbols}&gateway=127.0.0.1&port={server.port}{more}"
    return databento(parse_spec(text), Limits(**limits))


def file_of(tmp_path, schema, records, name="day.dbn", symbols=SYMBOLS, **more):
    """Write the records as a DBN file."""
    today = datetime.now(UTC).date()
    spans = {
        (number, today - timedelta(days=2), today + timedelta(days=2)): osi for number, osi in symbols.items()
    }
    bounds = {"start": NS - 86_400 * SECOND, "end": NS + 86_400 * SECOND}
    path = tmp_path / f"{schema}-{name}"
    path.write_bytes(metadata(schema, spans, **bounds, **more) + b"".join(map(bytes, records)))
    return path


def day(count=400, seed=5):
    """Return prints of a minute, some of them equal within a packet of one `ts_recv`."""
    random, records, at = np.random.default_rng(seed), [], NS
    while len(records) < count:
        at += int(random.integers(1, 300_000_000))
        number = int(random.choice([7, 8, 9]))
        same = {"contract": number, "ts": at, "delay": int(random.integers(1, 10**6)), "venue": 26}
        price = int(random.integers(1, 500)) * 10_000_000
        one = tcbbo(**same, price=price, bid=price - 10_000_000, ask=price + 50_000_000)
        records += [one] * int(random.choice([1, 1, 1, 3]))
    return records


def test_live_prints_equal_those_of_the_file(server, start, tmp_path):
    records = day()
    one = begun(server, start())
    for at in range(0, len(records), 7):
        server.publish("tcbbo", *records[at : at + 7])
    one.outlet.until_prints(len(records))
    outlet = one.stop()
    given = pl.concat([delivery.prints for delivery in outlet.got])
    assert dict(given.schema) == SCHEMA
    assert given.height == len(records)
    _, expected = read(file_of(tmp_path, "tcbbo", records))
    assert outlet.prints().equals(kept([expected]))
    assert outlet.got[-1].cursor == str(max(record.ts_event for record in records))
    assert outlet.got[-1].standing is None
    assert outlet.counts == {}


def test_a_split_packet_is_numbered_continuously(server, start, tmp_path):
    twin = tcbbo(ts=NS)
    one = begun(server, start())
    for many in range(1, 4):
        server.publish("tcbbo", twin)
        one.outlet.until_prints(many)
    _, expected = read(file_of(tmp_path, "tcbbo", [twin] * 3))
    assert one.stop().prints().equals(kept([expected]))


def test_the_feed_sends_the_expected_subscriptions(server, start):
    one = begun(server, start())
    feed = one.feed
    assert (feed.source, feed.assets, feed.symbols) == ("databento:OPRA.PILLAR", {"option"}, ("AAPL", "SPX"))
    assert feed.name.startswith("databento:OPRA.PILLAR:tcbbo:AAPL.OPT+2-")
    assert (server.requests[0]["heartbeat_interval_s"], server.requests[0]["slow_reader_behavior"]) == (
        "10",
        "warn",
    )
    asked = [(sub["schema"], sub["stype_in"], sub["symbols"], "start" in sub) for sub in server.subscriptions]
    assert asked == [(schema, "parent", SYMBOLS_ASKED, False) for schema in ("tcbbo", "definition")]
    one.stop()


def test_other_refusals_are_retried(server, start):
    server.refuse = "User has reached their open connection limit"
    error = start().ended()
    assert isinstance(error, FeedError)
    assert "connection limit" in str(error)


def test_a_resumed_feed_delivers_each_print_once(server, start, tmp_path):
    records = day()
    one = begun(server, start())
    server.cut_after(150)
    server.publish("tcbbo", *records[:200])
    assert isinstance(one.ended(), FeedError)
    assert one.outlet.prints().height == 150
    cursor = one.outlet.got[-1].cursor
    server.keep("tcbbo", *records[200:300])
    other = begun(server, start(feed=feed_of(server), cursor=cursor, outlet=one.outlet))
    assert {sub["start"] for sub in server.subscriptions[2:]} == {str(int(cursor) - OVERLAP)}
    server.publish("tcbbo", *records[300:])
    one.outlet.until_prints(len(records))
    _, expected = read(file_of(tmp_path, "tcbbo", records))
    assert other.stop().prints().equals(kept([expected]))


def test_start_sets_the_beginning_of_the_replay(server, start):
    at = datetime.fromtimestamp(NS // SECOND, UTC)
    server.keep("tcbbo", tcbbo(ts=NS - 1), tcbbo(ts=NS), tcbbo(ts=NS + 1))
    one = start(f"&start={at:%Y-%m-%dT%H:%M:%SZ}")
    one.outlet.until_prints(2)
    assert one.stop().prints().height == 2
    assert server.subscriptions[0]["start"] == str(NS)
    assert one.outlet.got[0].cursor == str(NS)


def test_a_start_beyond_the_replay_is_counted(server, start):
    one = begun(server, start("&start=2026-01-02T14:30:00Z"))
    assert server.subscriptions[0]["start"] == "0"
    assert one.stop().counts == {"gaps longer than the vendor replays": 1}


@pytest.mark.parametrize("schema", ["tcbbo", "trades"])
def test_one_invalid_time_does_not_make_others_late(server, start, schema):
    one = begun(server, start(f"&schema={schema}"))
    ahead = time.time_ns() + 3 * 86_400 * SECOND
    server.publish("tcbbo", tcbbo(ts=ahead, recv=NS))
    server.publish("cmbp-1", cmbp(10**9, 2 * 10**9, ahead), cmbp(10**9, 2 * 10**9, 5, delay=NS))
    server.publish("trades", trade(ts=ahead, delay=NS - ahead))
    server.publish("cmbp-1", cmbp(10**9, 2 * 10**9, NS))
    record = tcbbo if schema == "tcbbo" else trade
    server.publish(schema, record(ts=NS + 1), record(ts=NS + 2))
    one.outlet.until_prints(2)
    one.outlet.until(lambda: one.outlet.prints()["bid"].null_count() == 0)
    one.outlet.until(lambda: sum(one.outlet.counts.values()) == (1 if schema == "tcbbo" else 3))
    assert one.stop().prints().height == 2
    assert NS - 100 * SECOND < int(one.outlet.got[-1].cursor) <= time.time_ns()


def test_trades_held_for_replayed_quotes_are_bounded(server, start):
    server.unfinished = True
    server.keep("trades", *(trade(ts=NS + n) for n in range(150)))
    one = begun(server, start("&schema=trades", cursor=str(NS), held=100))
    one.outlet.until_prints(150)
    assert one.stop().counts[OUT_OF_STEP] == 1


def test_a_gap_beyond_the_replay_is_counted(server, start):
    one = begun(server, start(cursor=str(NS - 2 * 86_400 * SECOND)))
    assert server.subscriptions[0]["start"] == "0"
    assert one.stop().counts == {"gaps longer than the vendor replays": 1}


def test_a_malformed_mapping_is_counted(server, start):
    one = begun(server, start())
    mapping = bytearray(
        bytes(
            dbn.SymbolMappingMsg(
                0, 7, 1, dbn.SType.PARENT, "AAPL.OPT", dbn.SType.RAW_SYMBOL, SYMBOLS[7], 0, 0
            )
        )
    )
    mapping[90:100] = b"\xff" * 10
    server.say(bytes(mapping))
    assert isinstance(one.ended(), FeedError)
    assert one.outlet.counts == {NOT_UNDERSTOOD: 1}


@pytest.mark.parametrize(("code", "kind"), [("AUTH_FAILED", UsageError), ("INTERNAL_ERROR", FeedError)])
def test_error_messages_of_the_vendor_end_the_connection(server, start, code, kind):
    one = begun(server, start())
    server.publish("tcbbo", tcbbo(ts=NS))
    server.error("as told", int(getattr(dbn.ErrorCode, code)))
    error = one.ended()
    assert type(error) is kind
    assert "as told" in str(error)
    assert one.outlet.prints().height == 1
    assert one.outlet.counts == {ERRORS: 1}


def test_bad_rows_are_counted(server, start):
    one = begun(server, start())
    server.symbols[99] = "AAPL  250221C00999000"
    server.publish("tcbbo", tcbbo(ts=NS, size=0), tcbbo(ts=NS, contract=99), tcbbo(ts=NS, contract=8))
    one.outlet.until_prints(1)
    assert one.stop().counts == {
        "size is not from 1 up": 1,
        "instrument_id has no known contract on its date": 1,
    }


def test_an_instrument_id_may_change_its_meaning(server, start):
    one = begun(server, start())
    server.publish("tcbbo", tcbbo(ts=NS))
    server.map(7, SYMBOLS[8])
    server.publish("tcbbo", tcbbo(ts=NS + 1))
    one.outlet.until_prints(2)
    assert one.stop().prints()["root"].to_list() == ["AAPL", "SPXW"]


def joined_day():
    """Return trades, and quotes with distinct times."""
    random = np.random.default_rng(3)
    trades, quotes, at = [], [], NS
    for _ in range(600):
        at += int(random.integers(1, 100_000_000))
        number, price = int(random.choice([7, 8])), int(random.integers(10, 500)) * 10_000_000
        if random.random() < 0.3:
            trades.append(trade(number, ts=at, price=price))
            quotes.append(cmbp(price, price + 10**7, at, dbn.Action.TRADE, contract=number))
        else:
            asks = [price + 10**7, price + 2 * 10**7][: int(random.choice([1, 2]))]
            quotes += [cmbp(price, ask, at, contract=number) for ask in asks]
    return trades, quotes


def publish_both(server, trades, quotes):
    both = [("trades", one) for one in trades] + [("cmbp-1", one) for one in quotes]
    for schema, record in sorted(both, key=lambda pair: (pair[1].ts_event, pair[0])):
        server.publish(schema, record)


def test_trades_and_quotes_are_joined(server, start, tmp_path):
    trades, quotes = joined_day()
    one = begun(server, start("&schema=trades"))
    server.hold()
    publish_both(server, trades, quotes)
    server.release()
    one.outlet.until(lambda: one.outlet.prints()["quote_ts"].drop_nulls().len() >= len(trades) - 2)
    files = file_of(tmp_path, "trades", trades), file_of(tmp_path, "cmbp-1", quotes)
    _, expected = read(*files)
    one.outlet.until(lambda: one.outlet.prints().equals(kept([expected])))
    assert one.stop().got[-1].cursor.isdecimal()


@pytest.mark.parametrize("apart", [False, True])
def test_a_resumed_join_has_the_same_quotes(server, start, tmp_path, apart):
    short = {"horizon": 2.0, "advance_every": 1.0}
    trades, quotes = joined_day()
    server.apart = apart
    one = begun(server, start("&schema=trades", **short))
    publish_both(server, trades[:60], [quote for quote in quotes if quote.ts_event < trades[60].ts_event])
    server.cut()
    assert isinstance(one.ended(), FeedError)
    standing = pl.concat([delivery.standing for delivery in one.outlet.got if delivery.standing is not None])
    for schema, records in (("trades", trades[60:]), ("cmbp-1", quotes)):
        server.keep(schema, *(one for one in records if one.ts_event >= trades[60].ts_event))
    other = feed_of(server, "&schema=trades", **short)
    other.restore(standing.sort("ts", "seq").unique("instrument", keep="last", maintain_order=True))
    cursor = one.outlet.got[-1].cursor
    two = begun(server, start(feed=other, cursor=cursor, outlet=one.outlet))
    assert {sub["start"] for sub in server.subscriptions[3:]} == {cursor}
    _, expected = read(file_of(tmp_path, "trades", trades), file_of(tmp_path, "cmbp-1", quotes))
    two.outlet.until(lambda: two.outlet.prints().equals(kept([expected])))
    assert "late quotes" not in two.stop().counts


def test_stocks_have_the_quotes_of_their_venue(start, tmp_path):
    symbols = {7: "SPY"}
    trades = [trade(7, ts=NS + 10 * n, venue=2) for n in range(20)]
    quotes = [book(10**9 - n, 10**9 + 10**7 * n, NS + 10 * n - 3) for n in range(20)]
    with DatabentoServer(symbols, KEY) as server:
        one = begun(server, start(feed=feed_of(server, "&schema=trades", symbols="SPY", dataset="XNAS.ITCH")))
        assert (one.feed.assets, one.feed.symbols) == ({"stock"}, ("SPY",))
        server.publish("mbp-1", *quotes)
        server.publish("trades", *trades)
        one.outlet.until_prints(20)
        more = {"symbols": symbols, "dataset": "XNAS.ITCH"}
        _, expected = read(
            file_of(tmp_path, "trades", trades, **more), file_of(tmp_path, "mbp-1", quotes, **more)
        )
        one.outlet.until(lambda: one.outlet.prints().equals(kept([expected])))
        one.stop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("databento:GLBX.MDP3?symbols=ES.FUT", "dataset GLBX.MDP3 is neither"),
        ("databento:OPRA.PILLAR", "symbols names what to take"),
        ("databento:OPRA.PILLAR?symbols=SPY", "SPY is not ROOT.OPT or an OSI symbol"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT&schema=tbbo", "schema tbbo is not one of tcbbo, trades"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT&start=now", "start is 'now'"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT&start=2026-01-01", "start is '2026-01-01'"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT&port=x", "port is 'x'"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT&speed=1", "speed is not one of"),
        ("databento:OPRA.PILLAR?symbols=SPY.OPT,SPY%20%20%20261218C00500000", "is part of SPY.OPT"),
    ],
)
def test_invalid_feed_texts_are_refused(text, said):
    with pytest.raises(UsageError) as error:
        databento(parse_spec(text))
    assert said in str(error.value)
