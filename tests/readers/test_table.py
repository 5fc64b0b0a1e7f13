import io
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from reading import faults, read_all

import flowtape
from flowtape.errors import RowError, TapeError, UsageError
from flowtape.model.prints import SCHEMA, conform
from flowtape.pipeline.ingest import Request, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import Options, guess, open_tapes
from flowtape.readers.frames import READ
from flowtape.storage import open_store

TEXT_TS = "2024-06-14T14:00:00Z"

NS = 1_718_373_600_000_000_000
"""2024-06-14 14:00 UTC."""
COUNT = 3000
MONEY = ("strike", "price", "bid", "ask", "underlying")


def usd(count=COUNT):
    """Return a table with the columns of a print, prices in USD, and its expected prints."""
    n = pl.int_range(count)
    units = pl.DataFrame({"n": range(count)}).select(
        (NS + n * 1_000_001).cast(pl.Datetime("ns", "UTC")).alias("ts"),
        pl.lit("option").alias("asset"),
        pl.when(n % 3 == 0).then(pl.lit("SPX")).otherwise(pl.lit("AAPL")).alias("symbol"),
        pl.when(n % 3 == 0).then(pl.lit("SPXW")).otherwise(pl.lit("AAPL")).alias("root"),
        pl.lit(date(2024, 6, 21)).alias("expiry"),
        pl.when(n % 2 == 0).then(pl.lit("C")).otherwise(pl.lit("P")).alias("right"),
        ((n % 40 + 1) * 5000).alias("strike"),
        (n % 977 * 5).alias("price"),
        (n % 9 + 1).alias("size"),
        pl.when(n % 7 > 0).then(n % 977 * 5 - 5).alias("bid"),
        pl.when(n % 7 > 0).then(n % 977 * 5 + 5).alias("ask"),
        pl.when(n % 7 > 0).then(n % 50).alias("bid_size"),
        pl.when(n % 7 > 0).then(n % 60).alias("ask_size"),
        pl.when(n % 7 > 0).then(NS + n * 1_000_000).cast(pl.Datetime("ns", "UTC")).alias("quote_ts"),
        pl.when(n % 4 == 0).then(pl.lit("AUTO")).otherwise(pl.lit("unknown")).alias("condition"),
        pl.lit("5").alias("venue"),
        n.cast(pl.Int64).alias("seq"),
        pl.lit(5_432_101, pl.Int64).alias("underlying"),
    )
    table = units.with_columns(pl.col(name) / 10_000 for name in MONEY)
    return table, conform(units)


def csv_of(frame):
    return frame.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.f%:z").encode()


def ipc_stream(frame, rows=700):
    buffer = io.BytesIO()
    table = frame.to_arrow()
    with pa.ipc.new_stream(buffer, table.schema) as out:
        out.write_table(table, max_chunksize=rows)
    return buffer.getvalue()


def columnar(frame, kind):
    buffer = io.BytesIO()
    getattr(frame, f"write_{kind}")(buffer)
    return buffer.getvalue()


def encoded(frame, name):
    if ".csv" in name:
        return csv_of(frame)
    if name.startswith("stream"):
        return ipc_stream(frame)
    return columnar(frame, "parquet" if name.endswith("parquet") else "ipc")


@pytest.mark.parametrize(
    "name",
    [
        "x.csv",
        "x.csv.gz",
        "x.csv.zst",
        "x.parquet",
        "x.arrow",
        "x.feather",
        "stream.arrow",
        "stream.arrow.zst",
    ],
)
@pytest.mark.parametrize("rows", [500, 500_000])
def test_all_kinds_of_files_give_the_same_prints(write, name, rows):
    table, expected = usd()
    path = write(name, encoded(table, name))
    assert guess(path) == "table"
    [tape] = open_tapes([path], options=Options(batch_rows=rows))
    batches = list(tape.batches)
    assert_frame_equal(pl.concat([batch.prints for batch in batches]), expected, categorical_as_str=True)
    assert max(batch.prints.height for batch in batches) <= rows
    assert sum(batch.rows for batch in batches) == COUNT
    assert batches[-1].done == 1.0
    assert (tape.source, tape.rejects.count) == ("table", 0)
    assert not tape.notes


@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_columns_typed_as_prints_are_read(write, kind):
    table, expected = usd()
    typed = table.cast({name: kind for name, kind in SCHEMA.items() if name in READ and name not in MONEY})
    extra = typed.with_columns(true_side=pl.lit("buy"), source=pl.lit("simulated").cast(pl.Categorical))
    tape, prints = read_all(write("x", columnar(extra, kind)))
    assert_frame_equal(prints, expected, categorical_as_str=True)
    assert tape.source == "simulated"


def test_integers_are_usd_unless_a_unit_is_given(write):
    frame = pl.DataFrame({"ts": [NS], "symbol": ["A"], "price": [105], "size": [1]})
    path = write("x.parquet", columnar(frame, "parquet"))
    assert read_all(path)[1]["price"].item() == 1_050_000
    mapping = write("m.toml", ["price_unit = 0.0001"])
    assert read_all(path, mapping=mapping)[1]["price"].item() == 105
    nano = write("n.toml", ["price_unit = 1e-9"])
    frame = frame.with_columns(price=pl.lit(40_480_000_000))
    assert (
        read_all(write("n.parquet", columnar(frame, "parquet")), mapping=nano)[1]["price"].item() == 404_800
    )


def test_a_unit_in_the_file_metadata_applies(write, tmp_path):
    frame = pl.DataFrame({"ts": [NS], "symbol": ["A"], "price": [105], "size": [1]})
    path = tmp_path / "x.parquet"
    frame.write_parquet(path, metadata={"price_unit": "0.0001"})
    assert read_all(path)[1]["price"].item() == 105
    frame.write_parquet(path, metadata={"price_unit": "cents"})
    with pytest.raises(TapeError, match="price_unit 'cents' in the file's metadata is not a number of USD"):
        read_all(path)


@pytest.mark.parametrize(
    "prices",
    [
        pl.Series([40.480000000000004, 0.05]),
        pl.Series([40.48, 0.05], dtype=pl.Float32),
        pl.Series([Decimal("40.4800"), Decimal("0.0500")]),
        pl.Series(["40.48", "0.05"]),
    ],
)
def test_prices_of_every_type_are_read(write, prices):
    frame = pl.DataFrame({"ts": [NS, NS + 1], "symbol": ["A", "A"], "price": prices, "size": [1, 1]})
    _, prints = read_all(write("x.parquet", columnar(frame, "parquet")))
    assert prints["price"].to_list() == [404_800, 500]


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([NS]),
        pl.Series([str(NS)]),
        pl.Series(["2024-06-14T14:00:00Z"]),
        pl.Series(["2024-06-14 10:00:00-04:00"]),
        pl.Series(["2024-06-14 14:00:00.000"]),
        pl.Series([datetime(2024, 6, 14, 14)], dtype=pl.Datetime("ms")),  # noqa: DTZ001
        pl.Series([datetime(2024, 6, 14, 14, tzinfo=UTC)]).dt.convert_time_zone("Asia/Tokyo"),
    ],
)
def test_times_of_every_type_are_read(write, times):
    frame = pl.DataFrame({"ts": times, "root": ["SPXW"], "price": [1.0], "size": [1]})
    _, prints = read_all(write("x.arrow", columnar(frame, "ipc")))
    assert prints["ts"].cast(pl.Int64).item() == NS
    assert prints.select("asset", "symbol", "root", "venue", "condition", "seq").row(0) == (
        "stock", "SPXW", "SPXW", "", "unknown", 0,
    )  # fmt: skip


def test_mapping_renames_columns_and_sets_units(write):
    lines = ["time,und,px,qty,cond", "2024-06-14 10:00:00,^xyz,1.05,3,18", "2024-06-14 10:00:01,^xyz,1.05,3,"]
    mapping = write("m.toml", [
        'time_zone = "America/New_York"', 'source = "mine"', 'condition_vocabulary = "nanex"', "[columns]",
        'ts = "time"', 'symbol = "und"', 'price = "px"', 'size = "qty"', 'condition = "cond"',
    ])  # fmt: skip
    tape, prints = read_all(write("x.csv", lines), kind="table", mapping=mapping)
    assert tape.source == "mine"
    assert prints["ts"].cast(pl.Int64).to_list() == [NS, NS + 10**9]
    assert prints.select("symbol", "root", "condition").rows() == [
        ("XYZ", "XYZ", "STK_AUTO"),
        ("XYZ", "XYZ", "STK_REGULAR"),
    ]


def test_a_mapped_column_is_not_read_twice(write):
    path = write("x.csv", ["ts,underlying,price,size,source", "2024-06-14T14:00Z,SPY,1.05,3,XNAS"])
    mapping = write("m.toml", ["[columns]", 'symbol = "underlying"', 'venue = "source"'])
    tape, prints = read_all(path, kind="table", mapping=mapping)
    assert prints.select("symbol", "venue", "underlying").rows() == [("SPY", "XNAS", None)]
    assert tape.source == "table"


def test_a_file_of_foreign_columns_asks_for_a_mapping(write):
    with pytest.raises(TapeError, match=r"x\.csv: not a tape of a known format .* columns with --mapping"):
        read_all(write("x.csv", ["time,und,px,qty", "2024-06-14T14:00Z,SPY,1.05,3"]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("zone = 1", "zone = 1: unknown key; there are columns, time_zone"),
        ('columns = {px = "p"}', "columns.px = 'p': unknown column"),
        ("columns = {price = 1}", "columns.price = 1: must be a column's name"),
        ("columns = 5", "columns = 5: must be a table"),
        ('columns = {price = "none"}', "no column none, which the mapping names"),
        ("price_unit = 0", "price_unit = 0: must be a number of USD a unit"),
        ('price_unit = "x"', "price_unit = 'x': must be a number of USD a unit"),
        ('time_zone = "Mars/North"', "time_zone = 'Mars/North': no time zone of this name"),
        ("time_zone = 5", "time_zone = 5: must be text"),
        ('condition_vocabulary = "own"', "condition_vocabulary = 'own': must be nanex or massive"),
        ("a = ", "mapping m.toml: "),
    ],
)
def test_an_invalid_mapping_is_refused(write, line, message):
    path = write("x.csv", ["ts,symbol,price,size", f"{NS},A,1,1"])
    with pytest.raises((UsageError, TapeError)) as error:
        read_all(path, mapping=write("m.toml", [line]))
    assert message in str(error.value)


def test_a_missing_mapping_is_refused(write, tmp_path):
    path = write("x.csv", ["ts,symbol,price,size", f"{NS},A,1,1"])
    with pytest.raises(UsageError, match=r"mapping none\.toml"):
        read_all(path, mapping=tmp_path / "none.toml")


def test_a_table_has_one_source_or_a_given_one(write):
    lines = ["ts,symbol,price,size,source", f"{NS},A,1,1,one", f"{NS},A,1,1,two"]
    path = write("x.csv", lines)
    with pytest.raises(TapeError, match=r"prints of more than one source \(one, two\)"):
        read_all(path)
    assert read_all(path, source="mine")[0].source == "mine"
    assert read_all(write("y.csv", lines[:2]))[0].source == "one"


def test_a_table_may_hold_options_and_stocks(write):
    lines = [
        "ts,asset,symbol,expiry,right,strike,price,size",
        f"{NS},stock,A,,,,1,1",
        f"{NS},option,A,2024-06-21,C,5,1,1",
        f"{NS},option,A,2024-06-21,C,,1,1",
        f"{NS},STOCK,A,2024-06-21,C,5,1,1",
        f"{NS},bond,A,,,,1,1",
    ]
    tape, prints = read_all(write("x.csv", lines))
    assert prints.select("asset", "expiry", "right", "strike").rows() == [
        ("stock", None, None, None), ("option", date(2024, 6, 21), "C", 50_000), ("stock", None, None, None),
    ]  # fmt: skip
    assert faults(tape) == [
        (3, "an option without expiry, right or strike"),
        (5, "asset is neither option nor stock: 'bond'"),
    ]


STOCK = ("stock", "BRK.B", "BRK.B", None, None, None)


@pytest.mark.parametrize(
    ("names", "cells"),
    [
        ("symbol", "brk.b"),
        ("root", "brk.b"),
        ("asset,symbol", "Stock,brk.b"),
        ("asset,root", "stock,brk.b"),
        ("asset,symbol,root", "stock,brk.b,other"),
        ("asset,symbol,expiry,right,strike", "stock,brk.b,,,"),
        ("asset,root,expiry,right,strike", "stock,brk.b,2024-06-21,C,5"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_stock_needs_no_contract_columns(write, names, cells, kind):
    lines = [f"ts,price,size,{names}", f"{NS},214.15,100,{cells}"]
    path = write("x.csv", lines)
    if kind == "parquet":
        path = write("x.parquet", columnar(pl.read_csv(path), "parquet"))
    tape, prints = read_all(path)
    assert dict(prints.schema) == SCHEMA
    assert prints.select("asset", "symbol", "root", "expiry", "right", "strike").row(0) == STOCK
    assert prints.select("price", "size", "seq").row(0) == (2_141_500, 1_000_000, 0)
    assert tape.rejects.count == 0


@pytest.mark.parametrize("rows", [1, 100])
def test_only_option_roots_become_underlyings(write, rows):
    """`SPXW` is a root of SPX and `AAPL1` one of AAPL. A stock of that name keeps its symbol."""
    lines = ["ts,asset,root,expiry,right,strike,price,size"]
    for n, root in enumerate(("SPXW", "AAPL1", "SPXW")):
        lines += [f"{NS + n},stock,{root},,,,1,1", f"{NS + n},option,{root},2024-06-21,P,5,1,1"]
    _, prints = read_all(write("x.csv", lines), batch_rows=rows)
    assert prints["root"].to_list() == [name for name in ("SPXW", "AAPL1", "SPXW") for _ in range(2)]
    assert prints["symbol"].to_list() == ["SPXW", "SPX", "AAPL1", "AAPL", "SPXW", "SPX"]
    assert prints["strike"].to_list() == [None, 50_000] * 3
    assert prints["seq"].to_list() == [0] * 6


def test_an_option_without_contract_columns_is_a_bad_row(write):
    lines = ["ts,asset,symbol,price,size", f"{NS},option,A,1,1", f"{NS},stock,A,1,1"]
    tape, prints = read_all(write("x.csv", lines))
    assert faults(tape) == [(1, "an option without expiry, right or strike")]
    assert prints["asset"].to_list() == ["stock"]


def test_equal_rows_without_a_sequence_are_numbered(write):
    lines = [f"{NS + n // 2},A,1,1" for n in range(9)]
    for rows in (1, 2, 100):
        _, prints = read_all(write("x.csv", ["ts,symbol,price,size", *lines]), batch_rows=rows)
        assert prints["seq"].to_list() == [0] * 9
        assert prints["copy"].to_list() == [1, 2, 1, 2, 1, 2, 1, 2, 1]


def test_conditions_are_read_by_code_name_or_number(write):
    frame = pl.DataFrame(
        {
            "ts": [NS] * 4, "symbol": "A", "expiry": date(2024, 6, 21), "right": "C", "strike": 5.0, "price": 1.0,
            "size": 1, "condition": ["a", "A", "MLET", None],
        }
    )  # fmt: skip
    _, prints = read_all(write("x.parquet", columnar(frame, "parquet")))
    assert prints["condition"].to_list() == ["SLAN", "CANC", "MLET", "unknown"]
    numbers = write("n.parquet", columnar(frame.with_columns(condition=pl.lit(227)), "parquet"))
    with pytest.raises(TapeError, match=r"n\.parquet: condition holds numbers; a mapping must tell whose"):
        read_all(numbers)
    mapping = write("m.toml", ['condition_vocabulary = "massive"'])
    assert read_all(numbers, mapping=mapping)[1]["condition"].to_list() == ["SLAN"] * 4


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("ts", None, "ts is not a time: None"),
        ("symbol", "^", "symbol is blank or no symbol of at most 32 characters: '^'"),
        ("root", None, "root is blank or no symbol of at most 32 characters: None"),
        ("expiry", None, "an option without expiry, right or strike"),
        ("right", "X", "right is neither call nor put: 'X'"),
        ("strike", 12.50004, "strike is not a price in USD within bounds: 12.50004"),
        ("strike", 12.5004, "strike is not a price in USD within bounds: 12.5004"),
        ("strike", 0.0, "strike is not a price in USD within bounds: 0.0"),
        ("price", float("nan"), "price is not a price in USD within bounds: nan"),
        ("price", float("inf"), "price is not a price in USD within bounds: inf"),
        ("price", -1.0, "price is not a price in USD within bounds: -1.0"),
        ("price", 1e8, "price is not a price in USD within bounds: 100000000.0"),
        ("bid", float("inf"), "bid is not a price in USD within bounds: inf"),
        ("bid", float("nan"), None),
        ("size", 0, "size is neither contracts (whole, from 1 up) nor shares (from 1/10,000 up): 0"),
        (
            "size",
            2**31,
            "size is neither contracts (whole, from 1 up) nor shares (from 1/10,000 up): 2147483648",
        ),
        ("bid_size", -1, "bid_size is not a number from 0 up: -1"),
        ("seq", None, None),
        ("condition", "ZZZ", "condition is not a condition of OPRA's: 'ZZZ'"),
        ("venue", None, None),
    ],
)  # fmt: skip
def test_bad_rows_are_rejected_with_their_reason(write, column, value, reason):
    table, _ = usd(1200)
    bad = pl.when(pl.int_range(pl.len()) == 1001).then(pl.lit(value, table.schema[column]))
    table = table.with_columns(bad.otherwise(pl.col(column)).alias(column))
    path = write("x.parquet", columnar(table, "parquet"))
    tape, prints = read_all(path, batch_rows=500)
    assert faults(tape) == ([(1002, reason)] if reason else [])
    assert prints.height == (1199 if reason else 1200)
    assert prints["seq"].to_list() == [
        n if n != 1001 or column != "seq" else 0 for n in range(1200) if n != 1001 or not reason
    ]
    if reason:
        with pytest.raises(RowError, match=r"x\.parquet: row 1002: "):
            read_all(path, strict=True)


def test_nan_is_an_unknown_quote(write):
    frame = pl.DataFrame(
        {"ts": [NS], "symbol": ["A"], "price": [1.0], "size": [1], "bid": [float("nan")], "ask": [1.1]}
    )
    _, prints = read_all(write("x.parquet", columnar(frame, "parquet")))
    assert prints.select("bid", "ask").row(0) == (None, 11_000)


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.zst", "x.parquet", "x.arrow", "stream.arrow"])
@pytest.mark.parametrize("kept", [0.6, 0.99])
def test_truncated_tables_are_an_error(write, name, kept):
    table, _ = usd()
    path = write(name, encoded(table, name))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(TapeError, match=f"{name}: truncated"):
        read_all(path, kind="table")


def test_a_last_line_cut_off_is_an_error(write):
    path = write("x.csv", f"ts,symbol,price,size\n{NS},A,1,1\n{NS},A".encode())
    with pytest.raises(TapeError, match="row 2 is cut off after 2 of 4 fields"):
        read_all(path)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.arrow", "stream.arrow"])
def test_a_table_without_rows_is_an_error(write, name):
    table, _ = usd(0)
    with pytest.raises(TapeError, match=f"{name}: no rows"):
        read_all(write(name, encoded(table, name)))


def test_wrong_formats_are_refused(write):
    with pytest.raises(TapeError, match=r"x: expected a table of prints .*, found a binary file"):
        read_all(write("x", b"\x89PNG\r\n\x1a\n\0\0"), kind="table")
    with pytest.raises(
        TapeError, match=r"expected a table of prints; no column ts, price, size, symbol \(or root\) in a, b"
    ):
        read_all(write("x", b"a,b\n1,2\n"), kind="table")
    frame = pl.DataFrame(
        {"ts": [NS], "symbol": ["A"], "price": [1.0], "size": [1], "expiry": [date(2024, 6, 21)]}
    )
    with pytest.raises(TapeError, match="no column right, strike in ts, symbol"):
        read_all(write("x", columnar(frame, "parquet")))
    with pytest.raises(TapeError, match=r"x\.gz: Parquet inside gzip or zstd; decompress it first"):
        read_all(write("x.gz", columnar(frame, "parquet")))
    with pytest.raises(TapeError, match="x: empty file"):
        read_all(write("x", b""), kind="table")


def test_contract_columns_of_a_stock_are_ignored(write):
    header = "ts,symbol,asset,expiry,right,strike,price,size"
    stocks = [
        f"{TEXT_TS},A,stock,{rest},1,1" for rest in (",,0.0", "0,-,0", "1970-01-01,X,nan", "2026-05-15,C,500")
    ]
    tape, prints = read_all(write("x.csv", [header, *stocks, f"{TEXT_TS},A,option,2026-05-15,C,0,1,1"]))
    assert prints.select("asset", "expiry", "right", "strike").rows() == [("stock", None, None, None)] * 4
    assert faults(tape) == [(5, "strike is not a price in USD within bounds: '0'")]


def test_an_exported_view_equals_its_tape(write, tmp_path):
    header = "ts,symbol,asset,expiry,right,strike,price,size,bid,ask,condition,seq"
    rows = [
        f"{TEXT_TS},A,stock,,,,10.05,0.25,10,10.1,@,1", f"{TEXT_TS},A,option,2026-05-15,C,500,1.1,3,1,1.1,I,2",
        f"{TEXT_TS},A,option,2026-05-15,C,500,1.1,3,1,1.1,I,", f"{TEXT_TS},A,option,2026-05-15,C,500,1.1,3,1,1.1,A,4",
    ]  # fmt: skip
    path, stores = write("x.csv", [header, *rows]), [str(tmp_path / "1.duckdb"), str(tmp_path / "2.duckdb")]
    bars = []
    for name in stores:
        store = open_store(name)
        [outcome] = ingest(Ingestor(store), Request(files=[str(path)]))
        store.close()
        assert (outcome.rows, outcome.added, outcome.removed) == (4, 4, 1)
        path = tmp_path / "view.parquet"
        with duckdb.connect(name, read_only=True) as db:
            db.sql(f"COPY (SELECT * FROM prints) TO '{path}'")
            assert db.sql("SELECT count(strike) FROM prints WHERE asset = 'stock'").fetchall() == [(0,)]
            bars.append(db.sql("SELECT * FROM minutes ORDER BY ALL").fetchall())
    assert bars[0] == bars[1]


def test_a_saved_library_frame_is_refused_as_a_tape(write):
    rows = ["ts,symbol,price,size,bid,ask", f"{TEXT_TS},A,1.05,7,1,1.1"]
    prints = flowtape.read(write("x.csv", rows))
    with pytest.raises(TapeError, match="prices are integers of 1/10,000 USD, and a table's are USD"):
        flowtape.read(write("y.parquet", columnar(prints, "parquet")))
