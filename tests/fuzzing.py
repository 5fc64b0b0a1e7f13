"""Random tapes and frames, and the properties of every read of them.

Only a `FlowtapeError` may be raised. Every row is a print, or is counted with its reason, or both. Kept and omitted
rows add up to all rows. No result depends on the order of rows, the batch size or the file format.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

import flowtape
from flowtape.errors import FlowtapeError, RowError, UsageError
from flowtape.model.prices import MAX_PRICE
from flowtape.model.prints import EARLIEST, FIRST_DAY, LAST_DAY, MAX_SIZE, REQUIRED, SCHEMA, latest_instant
from flowtape.readers import Options, Tape, open_tapes

NS = 1_778_594_400 * 10**9
"""2026-05-12 14:00 UTC."""
CELLS = (
    "", "NaN", "null", "None", "N/A", "-", "x", "0", "-1",
    "1", "3", "3.0", "4.5", "1e5", "1e400", "inf", "-inf", "1.05",
    "1.00005", "1.25005", "0.25015", "1.2500500001", "99999999999", "9223372036854775807", "-9223372036854775808",
    "18446744073709551615", "2610-12-01T14:34:33Z", "1500-01-01T00:00:00Z", "2026-05-12 10:00:00.5-04", "2026-05-12",
    "2026-05-12T14:00:00.123456789Z", "20260512T140000Z", "2026-05-15",
    "20260515", "05/06/2026", "2026-11-01 01:30:00",
    "2026-03-08 02:30:00", "C", "put", "option",
    "STOCK", "AAPL  250221C00250000", "O:SPY260515C00500000", "^SPX", "SPXW",
    "BRK.B", "A" * 40, "é", "\x01", "=1+1", "CANC", "A", "a", "O",
    "M", "9", "18", "209", " 1 ", "1,5", '"', "'", "0x10", "１２",
    str(NS), str(NS // 10**6), "true",
)  # fmt: skip
INTEGERS = (
    0,
    1,
    -1,
    3,
    18,
    209,
    20260515,
    20588,
    NS // 10**9,
    NS // 10**6,
    NS,
    EARLIEST,
    2**63 - 1,
    -(2**63),
    2**53 + 1,
)
FLOATS = (
    0.0,
    1.0,
    -1.0,
    3.0,
    4.5,
    1.05,
    1.25005,
    0.1,
    5012.35,
    20260515.0,
    1e9,
    1e18,
    1e300,
    float("nan"),
    float("inf"),
)
TYPES = (
    pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null(),
    pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "America/New_York"),
    pa.timestamp("ns"), pa.timestamp("ns", "Europe/Berlin"), pa.duration("us"), pa.time64("ns"), pa.decimal128(20, 5),
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.list_(pa.int64()), pa.list_(pa.string()),
    pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.int64()), pa.struct([("a", pa.int64())]),
)  # fmt: skip
TABLE = {
    "ts": "2026-05-12T14:00:00Z", "asset": "option", "symbol": "SPY",
    "root": "SPY", "expiry": "2026-05-15", "right": "C",
    "strike": "500", "price": "1.05", "size": "3", "bid": "1.0", "ask": "1.1", "bid_size": "10", "ask_size": "20",
    "quote_ts": "2026-05-12T13:59:59Z", "condition": "a", "venue": "X", "seq": "7", "underlying": "501.25",
}  # fmt: skip
CBOE = {
    "underlying_symbol": "^SPX", "quote_datetime": "2026-05-12 10:00:00.123", "sequence_number": "7", "root": "SPXW",
    "expiration": "2026-05-15", "strike": "500.000", "option_type": "C", "exchange_id": "5", "trade_size": "3",
    "trade_price": "1.05", "trade_condition_id": "18", "canceled_trade_condition_id": "0", "best_bid": "1.00",
    "best_ask": "1.10", "underlying_bid": "14.0001", "underlying_ask": "14.0002",
}  # fmt: skip
THETADATA = {
    "symbol": "SPXW", "expiration": "2026-05-15", "strike": "500.0", "right": "CALL",
    "trade_timestamp": "2026-05-12 10:00:00.500-04:00", "quote_timestamp": "2026-05-12 10:00:00.400-04:00",
    "sequence": "5", "ext_condition1": "255",
    "ext_condition2": "255", "ext_condition3": "255", "ext_condition4": "255",
    "condition": "130", "size": "2", "exchange": "6",
    "price": "1.05", "bid_size": "10", "bid": "1.0", "ask_size": "20",
    "ask": "1.1",
}  # fmt: skip
MASSIVE = {
    "ticker": "O:SPY260515C00500000", "conditions": "209", "correction": "0", "exchange": "312", "price": "1.05",
    "sip_timestamp": str(NS), "size": "3",
}  # fmt: skip
STOCKS = {
    "massive-stocks": MASSIVE | {"ticker": "SPY", "conditions": "12,37", "sequence_number": "7"},
    "thetadata-stocks": {n: v for n, v in THETADATA.items() if n not in ("expiration", "strike", "right")},
}
FORMS = {"table": TABLE, "cboe": CBOE, "thetadata": THETADATA, "massive": MASSIVE, **STOCKS}
_VARIED = {
    "price": ("1.05", "1.0", "1.1", "1.075"), "trade_price": ("1.05", "1.0", "1.1"), "size": ("1", "2", "300"),
    "trade_size": ("1", "5"), "seq": ("0", "7", "8"), "sequence": ("1", "2"), "sequence_number": ("1", "2"),
    "bid": ("1.0", "1.05", ""), "condition": ("a", "CANC", "", "18"),
    "ts": ("2026-05-12T14:00:00Z", "2026-05-12T14:01:00.5Z"),
    "sip_timestamp": (str(NS), str(NS + 10**9)), "asset": ("option", "option", "stock"),
}  # fmt: skip
"""Values that good rows of a file differ by: equal rows are common."""


@dataclass
class Reading:
    """The result of a read: the prints and the omitted rows, or the class of the error."""

    prints: pl.DataFrame | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    error: type[FlowtapeError] | None = None


def read(path: Path, rows: int | None, batch_rows: int, kind: str | None = None) -> Reading:
    """Read a file and check its properties; `rows` is its number of rows (None: unknown)."""
    options = Options(batch_rows=batch_rows)
    try:
        [tape] = open_tapes([path], kind, options)
        batches = list(tape.batches)
    except FlowtapeError as error:
        return Reading(error=type(error))
    prints = pl.concat([batch.prints for batch in batches]) if batches else pl.DataFrame(schema=SCHEMA)
    _check_counts(tape, sum(batch.rows for batch in batches), prints.height, rows)
    check_prints(prints)
    if batch_rows % 2:
        _check_strict(path, tape, options, kind)
    return Reading(prints, tape.rejects.reasons)


def _check_counts(tape: Tape, given: int, kept: int, rows: int | None) -> None:
    rejects = tape.rejects
    assert rejects.count == rejects.reasons.total()
    named = [reject.row for reject in rejects.first]
    assert len(named) == len(set(named)) == min(rejects.count, rejects.keep)
    others = tape.corrections.total() + tape.official
    assert given == kept + rejects.count + others
    assert rows is None or (given == rows and all(1 <= row <= rows for row in named))
    assert bool(tape.nothing_read) == (rejects.count > 0 and kept + others == 0)


def _check_strict(path: Path, tape: Tape, options: Options, kind: str | None) -> None:
    """Check that a strict read fails at the first bad row, and only if there is one."""
    strict = Options(batch_rows=options.batch_rows, strict=True)
    try:
        for batch in open_tapes([path], kind, strict)[0].batches:
            assert batch.rows >= 0
    except RowError as error:
        assert error.row == min(reject.row for reject in tape.rejects.first)  # noqa: PT017
    else:
        assert tape.rejects.count == 0


def check_prints(prints: pl.DataFrame) -> None:
    """Check the properties of all prints."""
    assert dict(prints.schema) == SCHEMA
    low, high = EARLIEST, latest_instant() + 10**9
    option = pl.col("asset") == "option"
    parts = pl.col("expiry", "right", "strike")
    wrong = prints.filter(
        pl.any_horizontal(pl.col(*REQUIRED, "copy").is_null())
        | ~pl.all_horizontal(pl.col("ts", "quote_ts").to_physical().is_between(low, high).fill_null(value=True))
        | ~pl.col("price").is_between(0, MAX_PRICE) | ~pl.col("size").is_between(1, MAX_SIZE * 10_000)
        | ~pl.col("expiry").is_between(FIRST_DAY, LAST_DAY).fill_null(value=True)
        | (option & pl.any_horizontal(parts.is_null())) | (~option & pl.any_horizontal(parts.is_not_null()))
        | (pl.col("strike") % 10 != 0) | (pl.col("symbol").cast(pl.String).str.len_chars() == 0)
    )  # fmt: skip
    assert wrong.is_empty(), wrong.rows(named=True)


def same(one: Reading, other: Reading) -> None:
    """Check that two reads give the same results, whatever the order of rows, batch size or file format."""
    assert one.error == other.error
    if one.prints is None or other.prints is None:
        return
    assert one.reasons == other.reasons
    names = [name for name in SCHEMA if name != "copy"]
    first, second = (_plain(reading.prints).sort(names, nulls_last=True) for reading in (one, other))
    differing = [name for name in names if not first[name].equals(second[name])]
    assert not differing, [(first[name].to_list(), second[name].to_list()) for name in differing]
    assert first["copy"].sort().equals(second["copy"].sort())
    made, other_made = bars(one.prints), bars(other.prints)
    differing = [name for name in made.columns if not made[name].equals(other_made[name])]
    assert not differing, [(name, made[name].to_list(), other_made[name].to_list()) for name in differing]


def _plain(prints: pl.DataFrame) -> pl.DataFrame:
    return prints.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))


def bars(prints: pl.DataFrame) -> pl.DataFrame:
    """Return the minute bars of prints, sorted."""
    made = _plain(flowtape.minutes(flowtape.sign(prints)))
    return made.sort(made.columns, nulls_last=True)


@st.composite
def rows_of(draw: st.DrawFn, form: dict[str, str]) -> list[dict[str, str]]:
    """Return up to nine rows of a format, some with random cells."""
    many = draw(st.integers(1, 9))
    varied = [name for name in form if name in _VARIED]
    rows = [form | {name: draw(st.sampled_from(_VARIED[name])) for name in varied[:6]} for _ in range(many)]
    for _ in range(draw(st.integers(0, 4))):
        row, name = draw(st.integers(0, many - 1)), draw(st.sampled_from(sorted(form)))
        rows[row] = rows[row] | {name: draw(st.sampled_from(CELLS))}
    return rows


def as_csv(rows: list[dict[str, str]], sign: str, *, quoted: bool) -> bytes:
    """Return rows as a CSV file."""
    out = io.StringIO()
    writer = csv.writer(
        out, delimiter=sign, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL, lineterminator="\n"
    )
    writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    return out.getvalue().encode()


@st.composite
def typed_tables(draw: st.DrawFn) -> pa.Table:
    """Return a table of prints with some columns missing, of another type, or random."""
    many = draw(st.integers(1, 6))
    names = [name for name in TABLE if draw(st.integers(0, 15))]
    columns: dict[str, pa.Array] = {name: _good(name, many, draw) for name in names}
    for _ in range(draw(st.integers(0, 3)) if names else 0):
        name, kind = draw(st.sampled_from(names)), draw(st.sampled_from(TYPES))
        columns[name] = pa.array([draw(_values(kind)) for _ in range(many)], kind)
    return pa.table(columns)


def _good(name: str, many: int, draw: st.DrawFn) -> pa.Array:
    texts = [
        draw(st.sampled_from(_VARIED[name])) if name in ("price", "seq", "asset") else TABLE[name]
        for _ in range(many)
    ]
    if name in ("ts", "quote_ts"):
        return pa.array([NS + int(name == "ts") * 10**9] * many, pa.timestamp("ns", "UTC"))
    if name == "expiry":
        return pa.array([date(2026, 5, 15)] * many)
    if name in ("strike", "price", "bid", "ask", "underlying"):
        return pa.array([float(text) for text in texts])
    if name in ("size", "bid_size", "ask_size", "seq"):
        return pa.array([int(text) for text in texts])
    return pa.array(texts)


_OF_TYPE = (
    (pa.types.is_null, (None,)),
    (pa.types.is_boolean, (True, False)),
    (pa.types.is_float16, FLOATS[:8]),
    (pa.types.is_floating, FLOATS),
    (pa.types.is_decimal, tuple(map(Decimal, ("1.05", "3", "4.5", "-1", "20260515", "0.00001")))),
    (pa.types.is_date, (date(2026, 5, 15), date(1985, 1, 1), date(9999, 12, 31), date(1, 1, 1))),
    (pa.types.is_duration, (timedelta(1),)),
    (pa.types.is_time, (datetime(2026, 1, 1, 10).time(),)),  # noqa: DTZ001
    (pa.types.is_struct, ({"a": 1},)),
    (pa.types.is_binary, tuple(cell.encode() for cell in CELLS)),
)
"""Values by what tells a type; of the other types those that fit it of `INTEGERS`, or `CELLS`."""


@cache
def _values(kind: pa.DataType) -> st.SearchStrategy[object]:
    """Return a strategy of values of a type, or null."""
    if pa.types.is_dictionary(kind):
        return _values(kind.value_type)
    if pa.types.is_list(kind):
        return st.none() | st.lists(_values(kind.value_type), max_size=2)
    for tells, values in _OF_TYPE:
        if tells(kind):
            return st.none() | st.sampled_from(values)
    if not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
        return st.none() | st.sampled_from(CELLS)
    low, high = (-(2**63), 2**63 - 1)
    if pa.types.is_integer(kind):
        bits = kind.bit_width
        low, high = (
            (0, 2**bits - 1)
            if pa.types.is_unsigned_integer(kind)
            else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
    elif kind.unit == "s":
        # Polars converts seconds to milliseconds before the reader sees them.
        low, high = -(2**53), 2**53
    return st.none() | st.sampled_from([number for number in INTEGERS if low <= number <= high])


def write_table(table: pa.Table, path: Path, form: str) -> None:
    """Write a table to a file."""
    if form == "parquet":
        pq.write_table(table, path)
        return
    with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(path, table.schema) as out:
        out.write_table(table, max_chunksize=2)


def use_frame(frame: pl.DataFrame) -> pl.DataFrame | type[FlowtapeError]:
    """Return the library's bars of a frame, or the class of the error."""
    try:
        signed = flowtape.sign(frame)
        made = _plain(flowtape.minutes(signed))
        flowtape.cumulative(flowtape.minutes(signed), "SPY", 60)
    except UsageError as error:
        return type(error)
    check_prints(signed.select(list(SCHEMA)))
    return made.sort(made.columns, nulls_last=True)


def reordered(table: pa.Table, order: list[int]) -> pa.Table:
    """Return the rows of a table in another order."""
    return pa.concat_tables([table.slice(row, 1) for row in order]) if order else table
