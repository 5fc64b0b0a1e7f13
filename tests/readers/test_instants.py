"""Instants out of range, before the exchanges' calendar or ahead of the clock, are bad rows."""

import time
from datetime import UTC, date, datetime, timedelta

import dbn_files
import polars as pl
import pytest
import test_cboe
import test_massive
import test_thetadata
from reading import faults, read_all

from flowtape.errors import RowError, UsageError
from flowtape.model.prints import EARLIEST, LATEST

BEFORE = datetime(1989, 12, 31, 12, tzinfo=UTC)
TOMORROW = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=23)
AFTER = TOMORROW + timedelta(hours=3)
AHEAD = pytest.param(AFTER.isoformat(), id="more than a day ahead")
"""Named apart from the clock, so that parallel test processes agree on the names of tests."""
NEVER = ["2610-12-01T14:34:33Z", "1500-12-01T14:34:33Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"]
REASON = "is before 1990-01-01 or more than a day ahead of the clock"


def table(*times, name="ts"):
    good = "2026-05-12T14:00:00Z"
    ts = [text if name == "ts" else good for text in times]
    return ["ts,symbol,price,size,bid,ask,quote_ts", *(
        f"{at},A,1,1,0.9,1.1,{text if name == 'quote_ts' else ''}" for at, text in zip(ts, times, strict=True)
    )]  # fmt: skip


@pytest.mark.parametrize("text", [*NEVER, BEFORE.isoformat(), AHEAD, "2610-12-01 14:34", "26101201T143433Z"])
def test_a_csv_time_out_of_range_is_a_bad_row(write, text):
    path = write("x.csv", table("2026-05-12T14:00:00Z", text, TOMORROW.isoformat()))
    tape, prints = read_all(path)
    assert faults(tape) == [(2, f"ts {REASON}: {text!r}")]
    assert prints["ts"].to_list()[1] == TOMORROW
    with pytest.raises(RowError, match=r"x\.csv: row 2: ts is before 1990"):
        read_all(path, strict=True)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("end", [-1, 1])
def test_a_typed_time_out_of_range_is_a_bad_row(tmp_path, unit, zone, end):
    extreme = 2**63 - 1
    times = (
        pl.Series("ts", [1_778_594_400, 0], dtype=pl.Int64) * {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    )
    times = times.set(pl.Series([False, True]), end * extreme).cast(pl.Datetime(unit, zone))
    frame = pl.DataFrame({"ts": times, "symbol": "A", "price": 1.0, "size": 1})
    path = tmp_path / "x.parquet"
    frame.write_parquet(path)
    tape, prints = read_all(path)
    assert [row for row, _ in faults(tape)] == [2]
    assert REASON in faults(tape)[0][1]
    assert prints["ts"].dt.year().to_list() == [2026]


@pytest.mark.parametrize(("number", "reason"), [
    (2**63 - 1, f"ts {REASON}: 9223372036854775807"), (LATEST + 1, f"ts {REASON}"), (EARLIEST - 1, "ts is not a time"),
    (1_778_594_400, "ts is not a time"), (1_778_594_400_000_000, "ts is not a time"), (-1, "ts is not a time"),
])  # fmt: skip
def test_a_number_out_of_range_is_a_bad_row(tmp_path, number, reason):
    frame = pl.DataFrame({"ts": [number, EARLIEST], "symbol": "A", "price": 1.0, "size": 1})
    frame.write_parquet(tmp_path / "x.parquet")
    tape, prints = read_all(tmp_path / "x.parquet")
    [(row, found)] = faults(tape)
    assert (row, found.startswith(reason)) == (1, True)
    assert prints["ts"].to_physical().to_list() == [EARLIEST]


def test_pandas_latest_time_is_a_bad_row(tmp_path):
    pandas = pytest.importorskip("pandas")
    ts = [
        pandas.Timestamp("2026-05-12T14:00Z"),
        pandas.Timestamp.max.tz_localize("UTC"),
        pandas.Timestamp.min.tz_localize("UTC"),
    ]
    pandas.DataFrame({"ts": ts, "symbol": "A", "price": 1.0, "size": 1}).to_parquet(tmp_path / "x.parquet")
    tape, prints = read_all(tmp_path / "x.parquet")
    assert [row for row, _ in faults(tape)] == [2, 3]
    assert prints.height == 1


def test_a_vendor_time_out_of_range_is_a_bad_row(write):
    for header, good, bad, column in (
        (test_cboe.HEADER, test_cboe.row(), test_cboe.row(time="2610-12-01 14:34:33.5"), "quote_datetime"),
        (
            test_thetadata.HEADER,
            test_thetadata.row(),
            test_thetadata.row(trade="1985-06-14 10:00:00-04:00"),
            "trade_timestamp",
        ),
        (test_massive.TRADES, test_massive.trade(), test_massive.trade(ts=4 * 10**18), "sip_timestamp"),
    ):
        tape, prints = read_all(write("x.csv", [header, good, bad]))
        [(row, reason)] = faults(tape)
        assert (row, prints.height) == (2, 1)
        assert reason.startswith(f"{column} {REASON}: ")


def test_a_dbn_time_out_of_range_is_a_bad_record(tmp_path):
    late = time.time_ns() + 25 * 3600 * 10**9
    records = [dbn_files.tcbbo(), dbn_files.tcbbo(ts=late, recv=late), dbn_files.tcbbo(ts=1, recv=2)]
    symbols = {(7, date(1970, 1, 1), date(2200, 1, 1)): "AAPL  250221C00250000"}
    tape, prints = dbn_files.read(dbn_files.write(tmp_path / "t.dbn", "tcbbo", records, symbols=symbols))
    assert faults(tape) == [(2, f"ts_event {REASON}: {late}"), (3, f"ts_event {REASON}: 1")]
    assert prints.height == 1


@pytest.mark.parametrize("text", [*NEVER, AHEAD, "1970-01-01T00:00:00Z"])
def test_a_quote_with_time_out_of_range_is_unknown(write, text):
    path = write("x.csv", table("2026-05-12T13:59:59Z", text, text, name="quote_ts"))
    for strict in (False, True):
        tape, prints = read_all(path, strict=strict)
        assert (prints.height, tape.rejects.count) == (3, 0)
        assert prints.select("bid", "ask", "quote_ts").null_count().row(0) == (2, 2, 2)
        [(note, count)] = tape.notes.items()
        assert count == 2
        assert note == f"quote_ts {REASON}: quote taken as unknown (the first: x.csv: row 2: {text!r})"


def test_a_strict_read_names_the_first_bad_row(write):
    lines = [f"2026-05-12T14:00:{second:02}Z,A,1,1" for second in range(60)]
    lines[50] = "2610-12-01T14:34:33Z,A,1,1"
    lines[40] = "2026-05-12T14:00:40Z,A,1"
    lines[30] = "2026-05-12T14:00:30Z,A,x,1"
    lines[20] = "2026-05-12T14:00:20Z,A,1,-1"
    for left, rows in ((20, 7), (30, 100), (40, 45), (50, 1000)):
        content = [
            "ts,symbol,price,size",
            *(
                lines[0].join(["", ""]) if n < left and n in (20, 30, 40) else line
                for n, line in enumerate(lines)
            ),
        ]
        with pytest.raises(RowError, match=f"x.csv: row {left + 1}: "):
            read_all(write("x.csv", content), strict=True, batch_rows=rows)


def test_a_mapping_implies_the_format_table(write):
    path = write("x.csv", [test_cboe.HEADER.partition(",{")[0], test_cboe.row()])
    names = {"ts": "quote_datetime", "symbol": "underlying_symbol", "price": "trade_price", "size": "trade_size",
             "expiry": "expiration", "right": "option_type"}  # fmt: skip
    lines = ["[columns]", *(f'{name} = "{column}"' for name, column in names.items())]
    lines.insert(0, 'time_zone = "America/New_York"')
    tape, prints = read_all(path, mapping=write("m.toml", lines))
    assert (tape.format, prints.height) == ("table", 1)
    with pytest.raises(UsageError, match="mapping: goes with the format table, not with cboe"):
        read_all(path, kind="cboe", mapping=write("m.toml", lines))
