import random
from datetime import date

import polars as pl
import pytest
from reading import faults, read_all

from flowtape.errors import RowError, TapeError
from flowtape.model.prints import SCHEMA
from flowtape.orderflow import quotes as quotes_module
from flowtape.readers import Options, delimited, guess, massive, open_tapes, stream

TRADES = "ticker,conditions,correction,exchange,price,sip_timestamp,size"
QUOTES = (
    "ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,sequence_number,sip_timestamp"
)
NS = 1_718_373_600_000_000_000
"""2024-06-14 14:00 UTC."""
SPY = "O:SPY240621C00500000"
SPXW = "O:SPXW240621P05400500"


def trade(ticker=SPY, *, conditions="209", correction="0", exchange=312, price="1.05", ts=0, size=3):
    return f"{ticker},{conditions},{correction},{exchange},{price},{NS + ts},{size}"


def quote(ticker=SPY, ts=0, bid="1.0", ask="1.1", seq=1):
    return f"{ticker},301,{ask},20,302,{bid},10,{seq},{NS + ts}"


def test_trades_without_quotes_are_read(write):
    path = write("2024-06-14.csv.gz", [TRADES, trade(), trade(SPXW, price="2")])
    assert guess(path) == "massive"
    tape, prints = read_all(path)
    assert (tape.source, tape.format) == ("massive:us_options_opra", "massive")
    assert dict(prints.schema) == SCHEMA
    contracts = prints.select("asset", "symbol", "root", "expiry", "right", "strike").rows()
    assert contracts == [
        ("option", "SPY", "SPY", date(2024, 6, 21), "C", 5_000_000),
        ("option", "SPX", "SPXW", date(2024, 6, 21), "P", 54_005_000),
    ]
    rest = prints.select("price", "size", "condition", "venue", "seq").rows()
    assert rest == [(10_500, 3, "AUTO", "312", 0), (20_000, 3, "AUTO", "312", 0)]
    assert (
        prints.select("bid", "ask", "bid_size", "ask_size", "quote_ts", "underlying").null_count().row(0)
        == (2,) * 6
    )
    assert prints["ts"].cast(pl.Int64).to_list() == [NS, NS]


def test_tickers_without_padding_are_read(write):
    tickers = [
        "O:A240621C00000500",
        "O:AAPL1240621P00150000",
        "O:2SPX240621C05000000",
    ]
    _, prints = read_all(write("x.csv", [TRADES, *map(trade, tickers)]))
    assert prints.select("symbol", "root", "strike").rows() == [
        ("A", "A", 5_000), ("AAPL", "AAPL1", 1_500_000), ("SPX", "2SPX", 50_000_000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "name"),
    [
        ("", "unknown"),
        ("227", "SLAN"),
        ('"209,201"', "CANC"),
        ('"[227, 247]"', "MCTP"),
        ("232;229", "SLCN"),
        ("231 204", "SLFT"),
        ("248 227", "SLAN"),
        ('"202,232"', "OSEQ"),
        ('"209,248"', "EXHT"),
        ("9999", "unknown"),
        ('"9999,209"', "AUTO"),
    ],
)
def test_the_strictest_of_several_conditions_applies(write, conditions, name):
    """The condition with the strictest effect applies; files before 2019-11-04 have none."""
    tape, prints = read_all(write("x.csv", [TRADES, trade(conditions=conditions)]))
    assert prints["condition"].to_list() == [name]
    assert bool(tape.notes) == (conditions == "9999")


def test_restated_rows_are_left_out_and_counted(write):
    lines = [
        trade(correction=value, ts=place) for place, value in enumerate(["", 0, 1, 2, 7, 8, 10, 11, 12, 12])
    ]
    tape, prints = read_all(write("x.csv", [TRADES, *lines]))
    assert (prints["ts"].cast(pl.Int64) - NS).to_list() == [0, 1, 2, 3]
    assert tape.rejects.count == 0
    assert {int(note.split()[1]): count for note, count in tape.corrections.items()} == {
        7: 1,
        8: 1,
        10: 1,
        11: 1,
        12: 2,
    }


def test_equal_rows_without_a_sequence_are_numbered(write):
    lines = [trade(ts=0), trade(ts=0), trade(ts=0, exchange=5), trade(ts=1), trade(ts=1), trade(SPXW, ts=1)]
    for rows in (1, 2, 100):
        _, prints = read_all(write("x.csv", [TRADES, *lines]), batch_rows=rows)
        assert prints["seq"].to_list() == [0] * 6
        assert prints["copy"].to_list() == [1, 2, 1, 1, 2, 1]
    header = TRADES + ",sequence_number"
    _, prints = read_all(write("y.csv", [header, trade() + ",77"]))
    assert prints["seq"].to_list() == [77]


def test_participant_time_replaces_a_missing_sip_time(write):
    header = TRADES.replace("sip_timestamp", "participant_timestamp")
    _, prints = read_all(write("x.csv", [header, trade(ts=5)]))
    assert prints["ts"].cast(pl.Int64).to_list() == [NS + 5]
    both = TRADES + ",participant_timestamp"
    lines = [trade(ts=7) + f",{NS}", trade().replace(str(NS), "") + f",{NS + 9}"]
    _, prints = read_all(write("y.csv", [both, *lines]))
    assert (prints["ts"].cast(pl.Int64) - NS).to_list() == [7, 9]


def test_a_trade_gets_the_last_quote_strictly_before(write):
    trades = write("t.csv", [TRADES, *[trade(ts=ts) for ts in (10, 11, 20, 21)]])
    quotes = write(
        "q.csv.gz",
        [QUOTES, quote(ts=10, bid="1.01"), quote(ts=20, bid="1.03", seq=9), quote(ts=20, bid="1.02", seq=8)],
    )
    tape, prints = read_all(quotes, trades)
    assert tape.files == (trades, quotes)
    assert prints["bid"].to_list() == [None, 10_100, 10_100, 10_300]
    assert (prints["quote_ts"].cast(pl.Int64) - NS).to_list() == [None, 10, 10, 20]
    assert prints.select("ask", "bid_size", "ask_size").row(1) == (11_000, 10, 20)


def market(count, seed=3):
    rng = random.Random(seed)
    tickers = sorted(
        f"O:{root}240621{right}00{strike:03d}000"
        for root in ("A", "AB", "SPX")
        for right in "CP"
        for strike in range(1, 20)
    )
    trades = [(rng.choice(tickers), rng.randrange(1000)) for _ in range(count // 10)]
    quotes = [(rng.choice(tickers), rng.randrange(1000), rng.randrange(1, 900)) for _ in range(count)]
    return trades, quotes


@pytest.mark.parametrize("order", ["ticker", "time"])
def test_large_files_in_either_order_equal_plain_python(write, monkeypatch, order):
    monkeypatch.setattr(quotes_module, "_HELD_ROWS", 500)
    trades, quotes = market(20_000)
    key = (lambda row: row[:2]) if order == "ticker" else (lambda row: row[1])
    trades.sort(key=key)
    quotes.sort(key=key)
    files = (
        write("t.csv.gz", [TRADES, *[trade(ticker, ts=ts) for ticker, ts in trades]]),
        write("q.csv.zst", [QUOTES, *[quote(ticker, ts, f"0.{bid:03d}") for ticker, ts, bid in quotes]]),
    )
    [tape] = open_tapes(files, options=Options(batch_rows=300))
    batches = list(tape.batches)
    assert max(batch.prints.height for batch in batches) <= 300
    found = pl.concat([batch.prints for batch in batches])
    history: dict[str, list[tuple[int, int, int]]] = {}
    for place, (ticker, ts, bid) in enumerate(quotes):
        history.setdefault(ticker, []).append((ts, place, bid))
    expected = []
    for ticker, ts in trades:
        before = [entry for entry in history.get(ticker, []) if entry[0] < ts]
        expected.append(max(before)[2] * 10 if before else None)
    assert found["bid"].to_list() == expected
    assert sum(batch.rows for batch in batches) == len(trades)
    assert tape.rejects.count == 0


def test_files_out_of_order_are_a_clear_error(write, monkeypatch):
    monkeypatch.setattr(quotes_module, "_HELD_ROWS", 500)
    trades, quotes = market(20_000)
    files = (
        write("t.csv", [TRADES, *[trade(ticker, ts=ts) for ticker, ts in sorted(trades)]]),
        write("q.csv", [QUOTES, *[quote(ticker, ts) for ticker, ts, _ in quotes]]),
    )
    with pytest.raises(TapeError, match=r"[tq]\.csv: (trades|quotes) not in order of"):
        list(open_tapes(files, options=Options(batch_rows=300))[0].batches)


def test_quotes_are_paired_with_trades_by_day(write):
    day = 86_400 * 10**9
    trades = [write(f"t{n}.csv", [TRADES, trade(conditions='"209,227"', ts=n * day + 50)]) for n in range(3)]
    quotes = [write(f"q{n}.csv", [QUOTES, quote(ts=n * day, bid=f"1.0{n}")]) for n in (2, 0)]
    tapes = open_tapes([*trades, *quotes])
    assert [tape.files for tape in tapes] == [(trades[0], quotes[1]), (trades[1],), (trades[2], quotes[0])]
    bids = [pl.concat([batch.prints for batch in tape.batches])["bid"].item() for tape in tapes]
    assert bids == [10_000, None, 10_200]
    with pytest.raises(TapeError, match=r"q2\.csv: quotes of 2024-06-16, but no trades file of that day"):
        open_tapes([trades[0], *quotes])
    with pytest.raises(TapeError, match=r"q2\.csv: a second quotes file of 2024-06-16, after q2\.csv"):
        open_tapes([*trades, quotes[0], quotes[0]])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ticker": "SPY"}, "ticker is not O: and an OSI symbol: 'SPY'"),
        ({"ticker": "O:SPY241331C00500000"}, "ticker is not O: and an OSI symbol: 'O:SPY241331C00500000'"),
        ({"ticker": "O:SPY240621C00000000"}, "ticker is not O: and an OSI symbol: 'O:SPY240621C00000000'"),
        ({"price": "-0.05"}, "price is not a price in USD from 0 up: '-0.05'"),
        ({"price": "x"}, "price is not a price in USD from 0 up: 'x'"),
        ({"size": "0"}, "size is not a whole number from 1 up: '0'"),
        ({"exchange": ""}, "exchange is blank or no name of at most 32 printable characters: None"),
        ({"correction": "5"}, "correction is not a known indicator: '5'"),
        ({"correction": "x"}, "correction is not a known indicator: 'x'"),
        ({"ts": -NS + 1_718_373_600_000}, "sip_timestamp is not a time in nanoseconds: '1718373600000'"),
    ],
)
def test_bad_rows_are_rejected_with_their_reason(write, changed, reason):
    path = write("x.csv", [TRADES, trade(), trade(**changed), trade()])
    tape, prints = read_all(path)
    assert faults(tape) == [(2, reason)]
    assert prints.height == 2
    with pytest.raises(RowError, match=r"x\.csv: row 2: "):
        read_all(path, strict=True)


def test_bad_quotes_are_reported_under_their_file(write):
    trades = write("t.csv", [TRADES, trade(ts=9)])
    quotes = write(
        "q.csv",
        [
            QUOTES,
            quote(bid="1.02"),
            quote(ts=5, bid="x"),
            quote(ts=99, ask="y"),
            quote(ts=100, bid="", ask=""),
        ],
    )
    tape, prints = read_all(trades, quotes)
    assert prints["bid"].to_list() == [10_200]
    assert [(reject.file, reject.row) for reject in tape.rejects.first] == [("q.csv", 2), ("q.csv", 3)]


def test_unused_quotes_are_checked_for_truncation(write, monkeypatch):
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(stream, "_PIECE", 1000)
    trades = write("t.csv", [TRADES, trade(ts=1)])
    quotes = write("q.csv.gz", [QUOTES, *[quote(ts=ts) for ts in range(2000)]])
    quotes.write_bytes(quotes.read_bytes()[:-20])
    with pytest.raises(TapeError, match=r"q\.csv\.gz: truncated"):
        read_all(trades, quotes)


def test_wrong_formats_are_refused(write):
    with pytest.raises(TapeError, match="expected a Massive trades CSV; no column ticker"):
        read_all(write("x.csv", ["a,b", "1,2"]), kind="massive")
    with pytest.raises(TapeError, match="expected one of the columns sip_timestamp, participant_timestamp"):
        read_all(write("x.csv", [TRADES.replace("sip_timestamp", "t"), trade()]), kind="massive")
    with pytest.raises(TapeError, match="no rows, only a header"):
        read_all(write("x.csv", [TRADES]), kind="massive")
    crypto = write("crypto.csv", [TRADES.replace("correction,", ""), "X:BTC-USD,1,1,60000,1,1"])
    assert not massive.matches(crypto, crypto.read_bytes())
