"""Variants of CSV: quotes, separators, words for missing values, headers, times."""

from datetime import UTC, datetime

import polars as pl
import pytest
import test_cboe
import test_massive
import test_thetadata
from reading import faults, read_all

from flowtape.errors import TapeError

HEADER = "ts,symbol,price,size,bid,ask,bid_size,ask_size,quote_ts,underlying,condition,venue,seq"
TS = datetime(2026, 5, 12, 14, tzinfo=UTC)


def line(**changed):
    values = {"ts": "2026-05-12T14:00:00Z", "symbol": "A", "price": "1.05", "size": "3", "bid": "1.0", "ask": "1.1",
              "bid_size": "1", "ask_size": "2", "quote_ts": "2026-05-12T13:59:59Z", "underlying": "50",
              "condition": "", "venue": "X", "seq": "7"}  # fmt: skip
    return ",".join((values | changed).values())


VENDORS = {
    "cboe": (test_cboe.HEADER, test_cboe.row(exchanges=[(1, 2, 3, 4, 5)]), test_cboe.row),
    "thetadata": (test_thetadata.HEADER, test_thetadata.row(), test_thetadata.row),
    "massive": (test_massive.TRADES, test_massive.trade(), test_massive.trade),
    "table": (HEADER, line(), line),
}


@pytest.mark.parametrize("kind", VENDORS)
@pytest.mark.parametrize("sign", ["\t", ";", "|"])
@pytest.mark.parametrize("quoted", [False, True])
def test_tabs_semicolons_and_bars_are_separators(write, kind, sign, quoted):
    header, row, _ = VENDORS[kind]
    mark = '"' if quoted else ""
    lines = [sign.join(f"{mark}{cell}{mark}" for cell in text.split(",")) for text in (header, row, row)]
    expected = read_all(write("x.csv", [header, row, row]))[1]
    tape, prints = read_all(write("y.csv", lines))
    assert (tape.format, tape.rejects.count) == (kind, 0)
    assert prints.equals(expected)


@pytest.mark.parametrize("kind", VENDORS)
def test_headers_without_a_name_or_repeated_are_ignored(write, kind):
    header, row, _ = VENDORS[kind]
    names, cells = header.split(","), row.split(",")
    expected = read_all(write("x.csv", [header, row]))[1]
    header = ",".join(["", "note", *names[:5], "note", "", *names[5:]])
    row = ",".join(["0", "a", *cells[:5], "b", "c", *cells[5:]])
    tape, prints = read_all(write("y.csv", [header, row]))
    assert (tape.format, tape.rejects.count) == (kind, 0)
    assert prints.equals(expected)


@pytest.mark.parametrize("kind", VENDORS)
def test_a_column_that_is_used_may_not_be_repeated(write, kind):
    header, row, _ = VENDORS[kind]
    name, cell = header.split(",")[4], row.split(",")[4]
    with pytest.raises(TapeError, match=f"y.csv: two columns are called '{name}'"):
        read_all(write("y.csv", [f"{name},{header}", f"{cell},{row}"]), kind=kind)


@pytest.mark.parametrize("word", ["", '""', "NaN", "nan", "NA", "N/A", "null", "NULL", "None", "NaT", "<NA>"])
@pytest.mark.parametrize("kind", ["cboe", "thetadata", "table"])
def test_words_for_missing_values_make_an_unknown_quote(write, kind, word):
    header, _, make = VENDORS[kind]
    names = ("bid", "ask") if kind == "cboe" else ("bid", "ask", "bid_size", "ask_size")
    if kind == "table":
        names = (*names, "quote_ts", "underlying")
    tape, prints = read_all(write("x.csv", [header, make(**dict.fromkeys(names, word)), make()]))
    assert (prints.height, tape.rejects.count) == (2, 0)
    assert prints.select(names).row(0) == (None,) * len(names)
    assert None not in prints.select(names).row(1)


def test_other_words_in_a_quote_are_a_bad_row(write):
    tape, _ = read_all(write("x.csv", [HEADER, line(bid="n.a."), line(quote_ts="never"), line(ask="-")]))
    assert [row for row, _ in faults(tape)] == [1, 2, 3]


def test_a_ticker_may_equal_a_word_for_missing(write):
    _, prints = read_all(write("x.csv", [HEADER, line(symbol="NA"), line(symbol="nan", seq="8")]))
    assert prints["symbol"].to_list() == ["NA", "NAN"]


def test_quoted_cells_are_read_like_plain_ones(write):
    frame = pl.DataFrame({name: [value, None if name in ("bid", "ask", "quote_ts", "seq") else value]
                          for name, value in zip(HEADER.split(","), line().split(","), strict=True)})  # fmt: skip
    plain = read_all(write("x.csv", frame.write_csv().encode()))[1]
    always = read_all(write("x.csv", frame.write_csv(quote_style="always").encode()))[1]
    by_pandas = read_all(write("x.csv", frame.to_pandas().to_csv(index=True, quoting=1).encode()))[1]
    assert plain["bid"].to_list() == [10_000, None]
    assert always.equals(plain)
    assert by_pandas.equals(plain)


@pytest.mark.parametrize(("text", "expected"), [
    ("2026-05-12 10:00:00.5-04", TS.replace(microsecond=500_000)), ("2026-05-12 14:00:00+00", TS),
    ("2026-05-12T14:00Z", TS), ("20260512T140000Z", TS), ("20260512T100000.250-0400", TS.replace(microsecond=250_000)),
    ("2026-05-12t14:00:00z", TS), ("2026-05-12 14:00:00 +00:00", TS), ("2026-05-12 14:00", TS), ("2026-05-12T14Z", TS),
    ("2026-05-12 14:00:00,5Z", TS.replace(microsecond=500_000)), ("2026-05-12T14:00:00.123456789123Z", None),
    ("2026-05-12", "bad"), ("12.05.2026 14:00", "bad"), ("05/12/2026 14:00", "bad"), ("2026-13-12 14:00", "bad"),
    ("2026-05-12 25:00", "bad"), ("2026-05-12 14:00:00+99", "bad"), ("14:00:00", "bad"), ("now", "bad"),
])  # fmt: skip
def test_iso_times_are_read(write, text, expected):
    content = [HEADER, line(ts=f'"{text}"'), line(ts="2026-05-12T14:00:00Z")]
    tape, prints = read_all(write("x.csv", content))
    if expected == "bad":
        assert faults(tape) == [(1, f"ts is not a time: {text!r}")]
    else:
        assert prints["ts"].to_list()[0] == (expected or TS.replace(microsecond=123_456))
        assert prints["ts"].to_list()[1] == TS


def test_short_forms_of_vendor_times_are_read(write):
    rows = [
        test_thetadata.row(trade="2024-06-14 10:00:00.5-04", quote="20240614T140000Z", sequence=n)
        for n in range(3)
    ]
    _, prints = read_all(write("x.csv", [test_thetadata.HEADER, *rows]))
    at = datetime(2024, 6, 14, 14, tzinfo=UTC)
    assert prints["ts"].to_list() == [at.replace(microsecond=500_000)] * 3
    assert prints["quote_ts"].to_list() == [at] * 3


def test_sequence_numbers_are_whole_and_exact(write):
    rows = [
        line(seq="3.0"),
        line(seq="4.5"),
        line(seq="-2147483648"),
        line(seq="9007199254740993"),
        line(seq="x"),
    ]
    tape, prints = read_all(write("x.csv", [HEADER, *rows]))
    assert prints["seq"].to_list() == [3, -2_147_483_648, 9_007_199_254_740_993]
    assert faults(tape) == [(2, "seq is not a whole number: '4.5'"), (5, "seq is not a whole number: 'x'")]


def test_a_blank_sequence_number_is_zero(write):
    tape, prints = read_all(
        write("x.csv", [HEADER, line(seq=""), line(seq="NaN"), line(seq='""'), line(seq="5")])
    )
    assert tape.rejects.count == 0
    assert prints["seq"].to_list() == [0, 0, 0, 5]


def test_the_error_for_an_unknown_header_names_its_separator(write):
    with pytest.raises(TapeError, match="its first line has 3 names between semicolons"):
        read_all(write("x.csv", ["when;what;how much", "1;2;3"]))
