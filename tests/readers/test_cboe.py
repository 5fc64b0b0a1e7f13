import csv
import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from reading import faults, read_all

from flowtape.errors import RowError, TapeError
from flowtape.model.conditions import BY_NANEX, FAMILY_OF
from flowtape.model.prints import SCHEMA
from flowtape.readers import guess, open_tapes

HEADER = (
    "underlying_symbol,quote_datetime,sequence_number,root,expiration,strike,option_type,exchange_id,trade_size,"
    "trade_price,trade_condition_id,canceled_trade_condition_id,best_bid,best_ask,underlying_bid,underlying_ask,"
    "number_of_exchanges,{exchange,bid_size,bid,ask_size,ask}[number_of_exchanges]"
)
NEW_YORK = ZoneInfo("America/New_York")


def row(exchanges=(), **changed):
    values = {
        "underlying": "^XYZ",
        "time": "2024-06-14 10:00:00.123",
        "seq": 7,
        "root": "XYZW",
        "expiry": "2024-06-21",
        "strike": "12.500",
        "right": "C",
        "venue": 5,
        "size": 3,
        "price": "1.0500",
        "condition": 18,
        "cancelled": 0,
        "bid": "1.0000",
        "ask": "1.1000",
        "ubid": "14.0001",
        "uask": "14.0002",
    }
    values |= changed
    groups = [str(value) for exchange in exchanges for value in exchange]
    return ",".join([*map(str, values.values()), str(len(exchanges)), *groups])


@pytest.fixture
def sample(shared):
    return shared / "data/cboe/UnderlyingOptionsTrades_2016-06-01.csv"


def units(text):
    return int(Decimal(text) * 10_000)


def test_the_sample_equals_a_plain_python_reader(sample):
    assert guess(sample) == "cboe"
    tape, prints = read_all(sample)
    assert (tape.source, tape.format, tape.rejects.count) == ("cboe", "cboe", 0)
    assert dict(prints.schema) == SCHEMA
    with sample.open() as lines:
        rows = list(csv.reader(lines))[1:]
    assert prints.height == len(rows)
    for name, place, make in (
        ("seq", 2, int),
        ("root", 3, str),
        ("strike", 5, units),
        ("right", 6, str),
        ("venue", 7, str),
        ("size", 8, int),
        ("price", 9, units),
        ("bid", 12, units),
        ("ask", 13, units),
        ("condition", 10, lambda number: BY_NANEX[int(number)]),
    ):
        assert prints[name].to_list() == [make(values[place]) for values in rows], name
    assert prints["expiry"].cast(pl.String).to_list() == [values[4] for values in rows]
    assert prints["symbol"].unique().to_list() == ["VIX"]
    assert prints["quote_ts"].null_count() == prints.height
    for ts, values in zip(prints["ts"], rows, strict=True):
        local = datetime.fromisoformat(values[1] + "000").replace(tzinfo=NEW_YORK)
        assert ts == local.astimezone(UTC)


def test_sample_sizes_and_mids_equal_plain_python(sample):
    _, prints = read_all(sample)
    with sample.open() as lines:
        rows = list(csv.reader(lines))[1:]
    for found, values in zip(prints.iter_rows(named=True), rows, strict=True):
        groups = [values[place : place + 5] for place in range(17, len(values), 5)]
        bids = [int(group[1]) for group in groups if Decimal(group[2]) == Decimal(values[12])]
        asks = [int(group[3]) for group in groups if Decimal(group[4]) == Decimal(values[13])]
        assert found["bid_size"] == (sum(bids) if bids else None)
        assert found["ask_size"] == (sum(asks) if asks else None)
        bid, ask = units(values[14]), units(values[15])
        assert found["underlying"] == (round((bid + ask) / 2) if bid > 0 and ask > 0 else None)


def test_rows_that_differ_only_in_sequence_are_all_read(sample):
    _, prints = read_all(sample)
    alike = prints.group_by("ts", "expiry", "strike", "right", "price", "size").len()
    assert prints.height - alike.height == 45
    assert prints["seq"].n_unique() == prints.height


def test_the_cancel_chain_of_the_sample_is_read(sample):
    _, prints = read_all(sample)
    chain = prints.filter(pl.col("seq").is_in([81100456, 84292740, 84365192])).sort("ts")
    assert chain["seq"].to_list() == [81100456, 84292740, 84365192]
    assert chain.select("root", "expiry", "strike", "right", "size").n_unique() == 1
    assert [FAMILY_OF[name] for name in chain["condition"]] == ["multileg", "cancel", "late"]


def test_row_order_and_batch_size_do_not_matter(sample, write):
    lines = sample.read_text().splitlines()
    shuffled = lines[1:]
    random.Random(1).shuffle(shuffled)
    _, straight = read_all(sample)
    _, mixed = read_all(write("shuffled.csv.gz", [lines[0], *shuffled]), batch_rows=100)
    assert straight.sort("seq").equals(mixed.sort("seq"))


def test_a_large_file_is_read_in_bounded_batches(write):
    exchanges = [
        (5, 10, "1.0000", 20, "1.1000"),
        (7, 5, "1.0000", 9, "1.2000"),
        (9, 1, "0.9500", 2, "1.1000"),
    ]
    count = 30_000
    lines = (
        row(exchanges[: number % 4], seq=number, price=f"{number % 500 / 100:.4f}") for number in range(count)
    )
    [tape] = open_tapes([write("big.csv.zst", [HEADER, *lines])])
    batches = [batch.prints for batch in open_tapes([tape.files[0]])[0].batches]
    assert max(batch.height for batch in batches) <= 1_000_000
    prints = pl.concat(batches)
    assert prints["seq"].to_list() == list(range(count))
    assert prints["price"].to_list() == [number % 500 * 100 for number in range(count)]
    assert prints["bid_size"].to_list() == [(None, 10, 15, 15)[number % 4] for number in range(count)]
    assert prints["ask_size"].to_list() == [(None, 20, 20, 22)[number % 4] for number in range(count)]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"time": "2024-06-14"}, "quote_datetime is not a time of New York: '2024-06-14'"),
        ({"time": "2016-03-13 02:30:00"}, "quote_datetime is not a time of New York: '2016-03-13 02:30:00'"),
        ({"seq": ""}, "sequence_number is not a whole number: None"),
        ({"root": " "}, "root is blank or no symbol of at most 32 characters: ' '"),
        ({"underlying": "^"}, "underlying_symbol is blank or no symbol of at most 32 characters: '^'"),
        (
            {"expiry": "2024-06-31"},
            "expiration is not a date from 1990 to 2099, YYYY-MM-DD or YYYYMMDD: '2024-06-31'",
        ),
        ({"strike": "0"}, "strike is not a strike in USD: '0'"),
        ({"right": "X"}, "option_type is neither call nor put: 'X'"),
        ({"price": "-1"}, "trade_price is not a price in USD from 0 up: '-1'"),
        ({"price": "nan"}, "trade_price is not a price in USD from 0 up: 'nan'"),
        ({"size": "0"}, "trade_size is not a whole number from 1 up: '0'"),
        ({"size": "1.5"}, "trade_size is not a whole number from 1 up: '1.5'"),
        ({"bid": "x"}, "best_bid is not a price in USD: 'x'"),
        ({"condition": "x"}, "trade_condition_id is not a number: 'x'"),
        ({"venue": ""}, "exchange_id is blank or no name of at most 32 printable characters: None"),
    ],
)
def test_bad_rows_are_rejected_with_their_reason(write, changed, reason):
    path = write("x.csv", [HEADER, row(), row(**changed), row(seq=8)])
    tape, prints = read_all(path)
    assert prints["seq"].to_list() == [7, 8]
    assert faults(tape) == [(2, reason)]
    with pytest.raises(RowError, match=r"x\.csv: row 2: "):
        read_all(path, strict=True)


def test_a_wrong_number_of_exchanges_is_a_bad_row(write):
    group = (5, 10, "1.0000", 20, "1.1000")
    cut = row([group, group]).rsplit(",", 1)[0]
    tape, prints = read_all(write("x.csv", [HEADER, row([group]), cut, row([group]) + ",1"]))
    assert prints.height == 1
    reason = "the line does not hold the exchanges that number_of_exchanges tells"
    assert faults(tape) == [(2, f"{reason}: '2'"), (3, f"{reason}: '1'")]


def test_a_last_line_cut_off_is_an_error(write):
    content = "\n".join([HEADER, row(), row()[:40]]).encode()
    with pytest.raises(TapeError, match=r"x\.csv: truncated: row 2 is cut off"):
        read_all(write("x.csv", content))


def test_a_zero_quote_is_kept_and_a_blank_is_unknown(write):
    lines = [
        HEADER,
        row(bid="0.0000", ask="0.0000", ubid="0", uask="0"),
        row(bid="", ask="", ubid="", uask=""),
    ]
    tape, prints = read_all(write("x.csv", lines))
    assert prints.select("bid", "ask", "underlying").rows() == [(0, 0, None), (None, None, None)]
    assert tape.rejects.count == 0


def test_underlying_mid_is_rounded_half_to_even(write):
    lines = [HEADER, row(ubid="14.0001", uask="14.0002"), row(ubid="14.0002", uask="14.0003")]
    _, prints = read_all(write("x.csv", lines))
    assert prints["underlying"].to_list() == [140_002, 140_002]


def test_names_times_and_conditions_are_converted(write):
    lines = [
        HEADER,
        row(condition=999),
        row(time="2024-01-05 10:00:00"),
        row(time="2016-11-06 01:30:00", condition=""),
    ]
    tape, prints = read_all(write("x.csv", lines))
    assert prints["symbol"].to_list() == ["XYZ"] * 3
    assert prints["root"].to_list() == ["XYZW"] * 3
    assert prints["condition"].to_list() == ["unknown", "AUTO", "unknown"]
    assert prints["ts"].dt.hour().to_list() == [14, 15, 5]
    assert tape.notes == {
        "condition 999 is not known: kept as unknown": 1,
        "times in the hour the America/New_York clock repeats, taken as the first pass": 1,
    }


def test_the_columns_of_the_exchanges_are_optional(write):
    header = HEADER[: HEADER.index(",number_of_exchanges")]
    _, prints = read_all(write("x.csv", [header, row().rsplit(",", 1)[0]]))
    assert prints.select("price", "bid_size").rows() == [(10_500, None)]


def test_a_wrong_format_is_an_error(write):
    with pytest.raises(
        TapeError, match=r"x\.csv: expected a Cboe option trades CSV; no column underlying_symbol"
    ):
        read_all(write("x.csv", ["a,b", "1,2"]), kind="cboe")


def test_the_source_name_can_be_replaced(sample):
    tape, _ = read_all(sample, source="mine")
    assert tape.source == "mine"
    assert Counter() == tape.notes
