import csv
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import polars as pl
import pytest
from reading import LATER, faults, read_all

from flowtape.errors import RowError, TapeError
from flowtape.model.conditions import BY_NANEX
from flowtape.model.prints import SCHEMA
from flowtape.readers import guess, open_tapes

HEADER = (
    "symbol,expiration,strike,right,trade_timestamp,quote_timestamp,sequence,ext_condition1,ext_condition2,"
    "ext_condition3,ext_condition4,condition,size,exchange,price,bid_size,bid_exchange,bid,bid_condition,"
    "ask_size,ask_exchange,ask,ask_condition"
)


def row(**changed):
    values = {
        "symbol": "SPXW",
        "expiration": "2024-06-21",
        "strike": "500.0",
        "right": "CALL",
        "trade": "2024-06-14 10:00:00.500-04:00",
        "quote": "2024-06-14 10:00:00.400-04:00",
        "sequence": "5",
        "e1": 255,
        "e2": 255,
        "e3": 255,
        "e4": 255,
        "condition": 130,
        "size": 2,
        "exchange": 6,
        "price": "1.05",
        "bid_size": 10,
        "bid_exchange": 5,
        "bid": "1.0",
        "bid_condition": 50,
        "ask_size": 20,
        "ask_exchange": 5,
        "ask": "1.1",
        "ask_condition": 50,
    }
    return ",".join(str(value) for value in (values | changed).values())


@pytest.fixture
def sample(shared):
    return shared / "data/thetadata/spy-500c-2024-06-14.trade_quote.csv"


def units(text):
    return int((Decimal(text) * 10_000).quantize(1, ROUND_HALF_EVEN))


def test_the_sample_equals_a_plain_python_reader(sample):
    assert guess(sample) == "thetadata"
    tape, prints = read_all(sample)
    assert (tape.source, tape.rejects.count) == ("thetadata", 0)
    assert dict(prints.schema) == SCHEMA
    with sample.open() as lines:
        rows = list(csv.DictReader(lines))
    assert prints.height == len(rows)

    def utc(text):
        return datetime.fromisoformat(text).astimezone(UTC)

    for name, column, make in (
        ("ts", "trade_timestamp", utc),
        ("quote_ts", "quote_timestamp", utc),
        ("root", "symbol", str),
        ("symbol", "symbol", str),
        ("strike", "strike", units),
        ("seq", "sequence", int),
        ("size", "size", int),
        ("venue", "exchange", str),
        ("price", "price", units),
        ("bid", "bid", units),
        ("ask", "ask", units),
        ("bid_size", "bid_size", int),
        ("ask_size", "ask_size", int),
        ("right", "right", lambda right: right[0]),
        ("condition", "condition", lambda number: BY_NANEX[int(number)]),
    ):
        assert prints[name].to_list() == [make(values[column]) for values in rows], name
    same = sum(values["trade_timestamp"] == values["quote_timestamp"] for values in rows)
    assert tape.notes == {"quotes stamped at their trade's own instant, kept": same}


def test_sequence_numbers_are_signed_and_wrap(sample, write):
    _, prints = read_all(sample)
    assert prints["seq"].min() < 0
    wrapped = [row(sequence=2**31 - 1), row(sequence=-(2**31))]
    _, prints = read_all(write("x.csv", [HEADER, *wrapped]))
    assert prints["seq"].to_list() == [2**31 - 1, -(2**31)]


def test_binary_noise_of_prices_is_removed(write):
    _, prints = read_all(write("x.csv", [HEADER, row(price="40.480000000000004", ask="41.410000000000004")]))
    assert prints.select("price", "ask").row(0) == (404_800, 414_100)


def test_a_quote_later_than_its_trade_is_unknown(write):
    times = ["10:00:00.499", "10:00:00.500", "10:00:00.501"]
    lines = [row(quote=f"2024-06-14 {time}-04:00") for time in times] + [row(quote="")]
    tape, prints = read_all(write("x.csv", [HEADER, *lines]))
    assert prints["bid"].to_list() == [10_000, 10_000, None, 10_000]
    assert prints.select("ask", "bid_size", "ask_size", "quote_ts").row(2) == (None,) * 4
    assert prints["quote_ts"].null_count() == 2
    assert tape.notes == {
        "quotes stamped after their trade, taken for unknown": 1,
        "quotes stamped at their trade's own instant, kept": 1,
    }


def test_times_without_an_offset_are_new_york_time(write):
    lines = [row(trade="2024-06-14T10:00:00.500", quote="2024-06-14T09:59:00"), row()]
    _, prints = read_all(write("x.csv.gz", [HEADER, *lines]))
    assert prints["ts"].to_list() == [datetime(2024, 6, 14, 14, 0, 0, 500_000, UTC)] * 2
    assert prints["quote_ts"][0] == datetime(2024, 6, 14, 13, 59, tzinfo=UTC)
    assert prints.select("symbol", "root").row(0) == ("SPX", "SPXW")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"trade": "x"}, "trade_timestamp is not a time: 'x'"),
        ({"quote": "x"}, "quote_timestamp is not a time: 'x'"),
        ({"sequence": "1.5"}, "sequence is not a whole number: '1.5'"),
        ({"symbol": ""}, "symbol is blank or no symbol of at most 32 characters: None"),
        ({"expiration": "x"}, "expiration is not a date from 1990 to 2099, YYYY-MM-DD or YYYYMMDD: 'x'"),
        ({"strike": "500.00001"}, "strike is not a strike in USD: '500.00001'"),
        ({"strike": "500.00000000000006"}, None),
        ({"strike": "-1"}, "strike is not a strike in USD: '-1'"),
        ({"right": "BOTH"}, "right is neither call nor put: 'BOTH'"),
        ({"price": "inf"}, "price is not a price in USD from 0 up: 'inf'"),
        ({"size": "-2"}, "size is not a whole number from 1 up: '-2'"),
        ({"bid_size": "-1"}, "bid_size is not a whole number from 0 up: '-1'"),
        ({"condition": "AUTO"}, "condition is not a number: 'AUTO'"),
    ],
)
def test_bad_rows_are_rejected_with_their_reason(write, changed, reason):
    path = write("x.csv", [HEADER, row(), row(**changed), row()])
    tape, prints = read_all(path)
    assert faults(tape) == ([(2, reason)] if reason else [])
    assert prints.height == (2 if reason else 3)
    if reason:
        with pytest.raises(RowError, match=r"x\.csv: row 2: "):
            read_all(path, strict=True)


def test_a_large_file_is_read_in_bounded_batches(write):
    lines = [row(sequence=number, price=f"{number / 100}", size=number % 9 + 1) for number in range(20_000)]
    path = write("x.csv.zst", [HEADER, *lines])
    [tape] = open_tapes([path])
    prints = pl.concat([batch.prints for batch in tape.batches])
    assert prints["price"].to_list() == [number * 100 for number in range(20_000)]
    assert prints["size"].sum() == sum(number % 9 + 1 for number in range(20_000))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_truncated_files_are_an_error(write, suffix):
    path = write(f"x.csv{suffix}", [HEADER, *[row(sequence=number) for number in range(500)]])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - len(data) // 9])
    with pytest.raises(TapeError, match=r"x\.csv.*: truncated"):
        read_all(path)


def test_empty_and_wrong_files_are_an_error(write):
    with pytest.raises(TapeError, match="empty file"):
        read_all(write("x.csv", b""), kind="thetadata")
    with pytest.raises(TapeError, match="no rows, only a header"):
        read_all(write("x.csv", [HEADER]))
    with pytest.raises(TapeError, match="expected a ThetaData option trade_quote CSV; no column symbol"):
        read_all(write("x.csv", ["a,b", "1,2"]), kind="thetadata")
    with pytest.raises(TapeError, match="expected a ThetaData option trade_quote CSV, found a binary file"):
        read_all(write("x.csv", b"PAR1\0\0\0\0"), kind="thetadata")


STOCK_HEADER = HEADER.replace("expiration,strike,right,", "")
UNNAMED = STOCK_HEADER.removeprefix("symbol,")


def stock(**changed):
    values = row(**{"symbol": "brk.b", "condition": 0} | changed).split(",")
    return ",".join([values[0], *values[4:]])


def test_stock_files_are_read(write):
    path = write("x.csv", [STOCK_HEADER, stock(), stock(symbol="SPXW", price="130.2501", size=300)])
    assert guess(path) == "thetadata"
    tape, prints = read_all(path)
    assert dict(prints.schema) == SCHEMA
    assert (tape.source, tape.rejects.count, dict(tape.notes)) == ("thetadata", 0, {})
    # A stock's ticker is not an OPRA root, so it is not mapped.
    assert prints.drop("ts", "quote_ts", "underlying", *LATER).rows() == [
        ("stock", "BRK.B", "BRK.B", None, None, None, 10_500, 20_000, 10_000, 11_000, 100_000, 200_000,
         "STK_REGULAR", "6", 5),
        ("stock", "SPXW", "SPXW", None, None, None, 1_302_501, 3_000_000, 10_000, 11_000, 100_000, 200_000,
         "STK_REGULAR", "6", 5),
    ]  # fmt: skip
    assert prints["ts"].to_list() == [datetime(2024, 6, 14, 14, 0, 0, 500_000, UTC)] * 2
    assert prints["quote_ts"].to_list() == [datetime(2024, 6, 14, 14, 0, 0, 400_000, UTC)] * 2


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((115, 32, 255, 255, 115), "STK_ODD_LOT"),
        ((1, 32, 95, 1, 115), "STK_SWEEP"),
        ((0, 255, 255, 255, 255), "STK_REGULAR"),
        ((115, 40, 255, 255, 255), "CANC"),
        ((43, 255, 255, 255, 255), "CNOL"),
        ((95, 255, 13, 255, 115), "STK_SOLD_LAST"),
        ((148, 255, "", "", ""), "unknown"),
    ],
)
def test_extended_conditions_of_stocks_apply(write, numbers, name):
    changed = dict(zip(("condition", "e1", "e2", "e3", "e4"), numbers, strict=True))
    tape, prints = read_all(write("x.csv", [STOCK_HEADER, stock(**changed), stock(**changed)]))
    assert prints["condition"].to_list() == [name] * 2
    unknown = {"Nanex condition '148' of stocks is not known: counted, side by rule": 2}
    assert tape.notes == (unknown if name == "unknown" else {})


def test_a_stock_file_without_symbol_is_refused(write):
    path = write("x.csv", [UNNAMED, stock().partition(",")[2]])
    assert guess(path) == "thetadata"
    with pytest.raises(TapeError, match=r"x\.csv: a ThetaData stock trade_quote CSV without a column symbol"):
        read_all(path)


@pytest.mark.parametrize("missing", ["expiration", "strike", "right"])
def test_options_that_lack_a_column_are_not_stocks(write, missing):
    names = HEADER.split(",")
    place = names.index(missing)
    lines = [line.split(",") for line in (HEADER, row())]
    path = write("x.csv", [",".join(cells[:place] + cells[place + 1 :]) for cells in lines])
    message = f"expected a ThetaData option trade_quote CSV; no column {missing}"
    with pytest.raises(TapeError, match=message):
        read_all(path, kind="thetadata")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"symbol": ""}, "symbol is blank or no symbol of at most 32 characters: None"),
        ({"size": "0"}, "size is not a number of shares from 1/10,000 up: '0'"),
        ({"condition": "x"}, "condition is not a number: 'x'"),
    ],
)
def test_bad_rows_of_stocks(write, changed, reason):
    tape, prints = read_all(write("x.csv", [STOCK_HEADER, stock(), stock(**changed), stock()]))
    assert (faults(tape), prints.height) == ([(2, reason)], 2)
