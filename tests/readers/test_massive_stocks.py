"""Massive's flat files of stocks, with the columns of `us_stocks_sip`."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reading import LATER, faults, read_all

from flowtape.errors import TapeError
from flowtape.model.prints import SCHEMA
from flowtape.orderflow import quotes as quotes_module
from flowtape.readers import guess, open_tapes

TRADES = (
    "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
    "trf_id,trf_timestamp"
)
QUOTES = (
    "ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,conditions,indicators,"
    "participant_timestamp,sequence_number,sip_timestamp,tape,trf_timestamp"
)
NS = 1_718_373_600_000_000_000
"""2024-06-14 14:00 UTC."""


def trade(
    ticker="AAPL", ts=0, *, price="214.15", size="100", seq=7, conditions="", correction="0", exchange=4
):
    times = f"{NS + ts - 350},{price},{seq},{NS + ts}"
    return f"{ticker},{conditions},{correction},{exchange},52983,{times},{size},3,202,{NS + ts - 90}"


def quote(ticker="AAPL", ts=0, bid="214.1", ask="214.2", seq=1):
    return f"{ticker},11,{ask},4,12,{bid},3,1,604,{NS + ts - 400},{seq},{NS + ts},3,0"


def test_stock_trades_without_quotes_are_read(write):
    path = write("2024-06-14.csv.gz", [TRADES, trade(), trade("BRK.A", 5, price="612000.5", size="1", seq=8)])
    assert guess(path) == "massive"
    tape, prints = read_all(path)
    assert (tape.source, tape.format) == ("massive:us_stocks_sip", "massive")
    assert dict(prints.schema) == SCHEMA
    times = [datetime(2024, 6, 14, 14, tzinfo=UTC)] * 2
    assert prints["ts"].dt.truncate("1us").to_list() == times
    assert (prints["ts"].cast(pl.Int64) - NS).to_list() == [0, 5]
    nothing = (None,) * 5
    assert prints.drop("ts", "underlying", *LATER).rows() == [
        ("stock", "AAPL", "AAPL", None, None, None, 2_141_500, 1_000_000, *nothing, "STK_REGULAR", "4", 7),
        ("stock", "BRK.A", "BRK.A", None, None, None, 6_120_005_000, 10_000, *nothing, "STK_REGULAR", "4", 8),
    ]
    assert (tape.rejects.count, tape.notes) == (0, {})


def test_case_is_part_of_a_ticker(write):
    """`TPC` is a company and `TpC` a preferred share of `T`, so case must be kept."""
    tickers = ["TPC", "TpC", "Xr", "Xrw", "X.Aw", "X.WS", "ZVZZT"]
    lines = [trade(ticker, seq=n) for n, ticker in enumerate(sorted(tickers))]
    _, prints = read_all(write("x.csv", [TRADES, *lines]))
    found = dict(zip(sorted(tickers), prints["symbol"].to_list(), strict=True))
    assert found == {
        "TPC": "TPC", "TpC": "T.PRC", "Xr": "X.RT", "Xrw": "X.RTWI", "X.Aw": "X.AWI", "X.WS": "X.WS",
        "ZVZZT": "ZVZZT",
    }  # fmt: skip


def test_stock_conditions_have_their_own_vocabulary(write):
    """Massive's numbers 201 to 248 are OPRA's. A stock's numbers have other meanings."""
    texts = ["", '"12,37"', "201", "41", "14", "16", '"15,8"']
    tape, prints = read_all(
        write("x.csv", [TRADES, *(trade(conditions=text, seq=n) for n, text in enumerate(texts))])
    )
    assert prints.select("seq", "condition").rows() == [
        (0, "STK_REGULAR"), (1, "STK_EXTENDED"), (2, "unknown"), (3, "STK_EXEMPT"), (4, "STK_SWEEP"),
    ]  # fmt: skip
    assert tape.notes == {
        "Massive condition '201' of stocks is not known: counted, side by rule": 1,
        "rows of condition STK_OFFICIAL_OPEN (Q), left out: each repeats a print": 1,
        "rows of condition STK_OFFICIAL_CLOSE (M), left out: each repeats a print": 1,
    }


def test_restated_rows_are_left_out_and_counted(write):
    lines = [trade(correction=value, seq=n) for n, value in enumerate(["", 0, 1, 2, 7, 8, 10, 11, 12])]
    tape, prints = read_all(write("x.csv", [TRADES, *lines]))
    assert prints["seq"].to_list() == [0, 1, 2, 3]
    assert sorted(tape.corrections.values()) == [1] * 5
    assert prints["corrects"].to_list() == [0, 0, 1, 0]
    assert tape.rejects.count == 0


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"size": "0.00004"}, "size is not a number of shares from 1/10,000 up: '0.00004'"),
        ({"size": "0"}, "size is not a number of shares from 1/10,000 up: '0'"),
        ({"ticker": "X:BTC-USD"}, "ticker is not a stock's: 'X:BTC-USD'"),
        ({"ticker": "AAPLx"}, "ticker is not a stock's: 'AAPLx'"),
        ({"ticker": ""}, "ticker is not a stock's: None"),
        ({"seq": ""}, "sequence_number is not a whole number: None"),
    ],
)
def test_bad_rows_of_stocks_are_rejected(write, changed, reason):
    tape, prints = read_all(write("x.csv", [TRADES, trade(), trade(**changed), trade(size="3.0")]))
    assert faults(tape) == [(2, reason)]
    assert prints["size"].to_list() == [1_000_000, 30_000]


EVENTS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["A", "AA", "BpA"]), st.integers(0, 25), st.integers(1, 99)),
    max_size=60,
)


@settings(deadline=None, max_examples=25)
@given(EVENTS, st.booleans(), st.integers(1, 20))
def test_quotes_are_joined_by_sip_time(events, by_ticker, batch_rows):
    key = (lambda event: event[1:3]) if by_ticker else (lambda event: event[2])
    events = sorted(events, key=key)
    sales = [event[1:3] for event in events if event[0]] or [("A", 9)]
    changes = [event[1:] for event in events if not event[0]] or [("A", 3, 50)]
    # The reader finds a file's order from its first rows. Rows of one ticker after another look grouped.
    heads = [[row[0] for row in rows[:batch_rows]] for rows in (sales, changes)]
    grouped = [rows == sorted(rows, key=lambda row: row[:2]) for rows in (sales, changes)]
    assume(by_ticker or any(head != sorted(head) for head in heads) or all(grouped))
    expected = []
    for ticker, ts in sales:
        before = [change for change in changes if change[0] == ticker and change[1] < ts]
        # Of quotes of one instant the last in the file counts; its sequence is the highest.
        best = max(enumerate(before), key=lambda entry: (entry[1][1], entry[0]), default=(0, None))[1]
        expected.append((best[2] * 10_000, best[1]) if best else (None, None))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(quotes_module, "_HELD_ROWS", 7)
        files = Path(folder) / "t.csv", Path(folder) / "q.csv"
        lines = [trade(ticker, ts, seq=n) for n, (ticker, ts) in enumerate(sales)]
        files[0].write_text("\n".join([TRADES, *lines, ""]))
        lines = [quote(ticker, ts, bid=str(bid), seq=n) for n, (ticker, ts, bid) in enumerate(changes)]
        files[1].write_text("\n".join([QUOTES, *lines, ""]))
        tape, prints = read_all(*files, batch_rows=batch_rows)
    times = [None if ts is None else ts - NS for ts in prints["quote_ts"].cast(pl.Int64)]
    assert list(zip(prints["bid"], times, strict=True)) == expected
    assert prints["seq"].to_list() == list(range(len(sales)))
    assert (tape.rejects.count, tape.notes) == (0, {})


def test_stocks_and_options_of_one_day_are_not_mixed(write):
    option = TRADES.replace(",id,", ",").replace(",tape,trf_id,trf_timestamp", "")
    contract = f"O:AAPL240621C00500000,209,0,312,{NS},1.05,3,{NS + 9},2"
    files = {
        "st": write("st.csv", [TRADES, trade(ts=9)]),
        "sq": write("sq.csv", [QUOTES, quote()]),
        "ot": write("ot.csv", [option, contract]),
        "oq": write("oq.csv", [QUOTES, quote("O:AAPL240621C00500000", bid="1", ask="1.1")]),
    }
    tapes = {tape.source: tape for tape in open_tapes(list(files.values()))}
    assert {source: tape.name for source, tape in tapes.items()} == {
        "massive:us_stocks_sip": "st.csv, sq.csv",
        "massive:us_options_opra": "ot.csv, oq.csv",
    }
    bids = {name: next(iter(tape.batches)).prints["bid"].to_list() for name, tape in tapes.items()}
    assert bids == {"massive:us_stocks_sip": [2_141_000], "massive:us_options_opra": [10_000]}
    with pytest.raises(TapeError, match=r"sq\.csv: quotes of 2024-06-14, but no trades file of that day"):
        open_tapes([files["ot"], files["oq"], files["sq"]])
