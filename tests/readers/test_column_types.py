"""Each type of a table's column gives values, unknown values, or an error with column and type."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import faults, read_all

import flowtape
from flowtape.errors import NothingRead, TapeError
from flowtape.model.prices import shortest_floats
from flowtape.model.prints import NEW_YORK

TS = datetime(2026, 5, 12, 14, tzinfo=UTC)
DAY = date(2026, 5, 15)
GOOD = {
    "ts": TS, "symbol": "SPY", "expiry": DAY, "right": "C", "strike": 500.0, "price": 1.05, "size": 3, "bid": 1.0,
    "ask": 1.1, "bid_size": 10, "ask_size": 20, "quote_ts": TS - timedelta(seconds=1), "condition": "a",
    "venue": "X", "seq": 7, "underlying": 501.2, "root": "SPY", "asset": "option", "source": "mine",
}  # fmt: skip
WRONG = {
    "boolean": [True], "binary": [b"x"], "list": [[1]], "struct": [{"a": 1}], "duration": [timedelta(1)],
    "time": [datetime(2026, 1, 1, tzinfo=UTC).time()], "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
}  # fmt: skip


def write_typed(tmp_path, **columns):
    path = tmp_path / "x.parquet"
    arrays = {name: [value] for name, value in GOOD.items()} | columns
    pq.write_table(pa.table(arrays), path)
    return path


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_type_is_an_error_with_column_and_type(tmp_path, name, kind):
    if name == "condition" and kind == "list":
        return
    with pytest.raises(
        TapeError, match=rf"x\.parquet: the column {name} is of the type \w.*; {name} is read from "
    ):
        read_all(write_typed(tmp_path, **{name: WRONG[kind]}))


@pytest.mark.parametrize(("name", "values", "shown"), [
    ("ts", pa.array([1.7e18]), "Float64"), ("ts", pa.array([DAY]), "Date"), ("ts", pa.nulls(1), "Null"),
    ("quote_ts", pa.array([DAY]), "Date"), ("symbol", pa.array([5]), "Int64"), ("symbol", pa.nulls(1), "Null"),
    ("price", pa.array([TS]), "Datetime"), ("right", pa.array([1.0]), "Float64"), ("price", pa.nulls(1), "Null"),
])  # fmt: skip
def test_some_types_are_valid_for_some_columns_only(tmp_path, name, values, shown):
    with pytest.raises(TapeError, match=rf"the column {name} is of the type {shown}"):
        read_all(write_typed(tmp_path, **{name: values}))


@pytest.mark.parametrize(
    "name", ["bid", "ask", "bid_size", "ask_size", "quote_ts", "underlying", "condition", "venue"]
)
@pytest.mark.parametrize(
    "empty", [pa.nulls(1), pa.array([None], pa.float32()), pa.array([None], pa.string())]
)
def test_a_column_without_values_is_unknown(tmp_path, name, empty):
    if name == "quote_ts" and pa.types.is_floating(empty.type):
        return
    if name == "condition" and pa.types.is_floating(empty.type):
        return
    tape, prints = read_all(write_typed(tmp_path, **{name: empty}))
    assert (prints.height, tape.rejects.count) == (1, 0)
    assert prints[name].item() == {"condition": "unknown", "venue": ""}.get(name)


@pytest.mark.parametrize("values", [
    pa.array([3.0]), pa.array(["3"]), pa.array(["3.0"]), pa.array([3], pa.uint8()), pa.array([3], pa.uint64()),
    pa.array([Decimal("3.0")]), pa.array([3.0], pa.float32()), pa.array(["3"]).dictionary_encode(),
    pa.array([3]).dictionary_encode(), pa.array(["3"], pa.large_string()), pa.array(["3"], pa.string_view()),
])  # fmt: skip
@pytest.mark.parametrize("name", ["seq", "size", "bid_size", "price", "strike", "underlying"])
def test_numbers_of_every_type_are_read(tmp_path, name, values):
    _, prints = read_all(write_typed(tmp_path, **{name: values}))
    assert prints[name].item() == 3 * (10_000 if name in ("price", "strike", "underlying") else 1)


@pytest.mark.parametrize("value", [4.5, "4.5", Decimal("4.5"), pa.scalar(2**64 - 1, pa.uint64())])
def test_a_fractional_sequence_number_is_a_bad_row(tmp_path, value):
    tape, prints = read_all(write_typed(tmp_path, seq=pa.array([value])))
    assert (prints.height, [row for row, _ in faults(tape)]) == (0, [1])
    assert faults(tape)[0][1].startswith("seq is not a whole number: ")


@pytest.mark.parametrize("values", [
    pa.array([DAY]), pa.array([datetime(2026, 5, 15)]),  # noqa: DTZ001
    pa.array([datetime(2026, 5, 15, tzinfo=ZoneInfo("Europe/Berlin"))], pa.timestamp("us", "Europe/Berlin")),
    pa.array([datetime(2026, 5, 15, 20, 15, tzinfo=NEW_YORK)], pa.timestamp("ms", "America/New_York")),
    pa.array([20260515]), pa.array([20260515], pa.uint32()), pa.array([20260515.0]), pa.array(["20260515"]),
    pa.array(["2026-05-15"]), pa.array(["2026-05-15 00:00:00"]), pa.array(["2026-05-15T20:15:00-04:00"]),
    pa.array(["2026-05-15"]).dictionary_encode(), pa.array([DAY], pa.date64()),
])  # fmt: skip
def test_expiries_of_every_type_are_local_dates(tmp_path, values):
    _, prints = read_all(write_typed(tmp_path, expiry=values))
    assert prints["expiry"].to_list() == [DAY]


@pytest.mark.parametrize("value", [
    "05/06/2026", "05/15/2026", "15MAY26", "2026-5-15", "26-05-15", "2026-02-30", "19891231", "2100-01-01",
    20588, 1778803200, 20261301, 20260515.5, date(1985, 1, 1), date(9999, 12, 31), datetime(2200, 1, 1),  # noqa: DTZ001
])  # fmt: skip
def test_an_invalid_expiry_is_a_bad_row(tmp_path, value):
    tape, prints = read_all(write_typed(tmp_path, expiry=pa.array([value])))
    [(row, reason)] = faults(tape)
    assert (row, prints.height) == (1, 0)
    assert reason.startswith("expiry is not a date from 1990 to 2099, YYYY-MM-DD or YYYYMMDD: ")


def test_a_float32_becomes_its_shortest_decimal(tmp_path):
    cents = range(1, 2_000_000, 331)
    usd = pl.Series([cent / 100 for cent in cents])
    short = usd.cast(pl.Float32)
    assert short.cast(pl.Float64).to_list() != usd.to_list()
    assert shortest_floats(short.to_frame("a"))["a"].to_list() == usd.to_list()
    frame = pl.DataFrame(GOOD).drop("strike", "price", "bid", "ask", "underlying", "seq").join(
        pl.DataFrame(dict.fromkeys(("price", "strike", "bid", "ask", "underlying"), short) | {"seq": list(cents)}),
        how="cross",
    )  # fmt: skip
    frame.write_parquet(tmp_path / "x.parquet")
    tape, prints = read_all(tmp_path / "x.parquet")
    assert tape.rejects.count == 0
    for name in ("price", "strike", "bid", "ask", "underlying"):
        assert prints[name].to_list() == [cent * 100 for cent in cents]
    assert (flowtape.sign(prints)["side"] == "mid").all()


def test_a_float16_becomes_its_shortest_decimal():
    usd = [1.1, 5.99, 0.05, None, 65.0]
    assert shortest_floats(pl.DataFrame({"a": pl.Series(usd, dtype=pl.Float16)}))["a"].to_list() == usd


def test_a_file_with_only_bad_rows_has_its_own_error(write):
    path = write(
        "x.csv", ["ts,symbol,price,size", "2026-05-12T14:00:00Z,A,x,1", "2026-05-12T14:00:00Z,A,1,0"]
    )
    with pytest.raises(
        NothingRead, match=r"x\.csv: none of 2 rows is a print; the first is x\.csv, row 1: price .*: 'x'$"
    ):
        flowtape.read(path)
    assert NothingRead.exit_code == 8
