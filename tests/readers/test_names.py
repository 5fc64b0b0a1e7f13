"""Invalid names and files that are not tapes are refused, and counts add up."""

import gzip
import resource
import time

import polars as pl
import pytest
import zstandard
from reading import faults, read_all
from test_cboe import HEADER as CBOE
from test_cboe import row as cboe_row
from test_massive import NS, QUOTES, TRADES, quote
from test_massive import trade as massive_trade
from test_thetadata import HEADER as THETADATA
from test_thetadata import row as thetadata_row

from flowtape.errors import TapeError
from flowtape.model.prints import MAX_NAMES
from flowtape.pipeline.ingest import Request, ingest
from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import guess
from flowtape.readers.delimited import MAX_BLANK
from flowtape.readers.tickers import symbol_of
from flowtape.storage import open_store

TABLE = "ts,symbol,price,size,venue"
NO_SYMBOL = "blank or no symbol of at most 32 characters"
NO_NAME = "blank or no name of at most 32 printable characters"


def line(symbol: str = "XYZ", venue: str = "C", at: int = 0) -> str:
    return f"{NS + at},{symbol},1.0,3,{venue}"


@pytest.mark.parametrize("name", ["S" * 33, "S\x1bP", "S\tP", "SÉ", "S P", "S\x7f"])
def test_an_invalid_symbol_is_a_bad_row_in_every_reader(write, name: str) -> None:
    files = {
        "table": ([TABLE, line(), line(name)], "symbol", NO_SYMBOL),
        "cboe": ([CBOE, cboe_row(), cboe_row(root=name)], "root", NO_SYMBOL),
        "thetadata": ([THETADATA, thetadata_row(), thetadata_row(symbol=name)], "symbol", NO_SYMBOL),
    }
    for kind, (lines, column, what) in files.items():
        tape, prints = read_all(write(f"{kind}.csv", [*lines]), kind=kind)
        assert faults(tape) == [(2, f"{column} is {what}: {name!r}")]
        assert prints.height == 1


@pytest.mark.parametrize("name", ["V" * 33, "V\x1b", "É"])
def test_an_invalid_venue_is_a_bad_row(write, name: str) -> None:
    tape, _ = read_all(write("x.csv", [TABLE, line(), line(venue=name)]))
    assert faults(tape) == [(2, f"venue is {NO_NAME}: {name!r}")]
    tape, _ = read_all(write("y.csv", [TRADES, massive_trade(), massive_trade(exchange=name)]))
    assert faults(tape) == [(2, f"exchange is {NO_NAME}: {name!r}")]


def test_names_are_converted_to_one_form(write) -> None:
    _, prints = read_all(write("x.csv", [TABLE, line(" ^xyz ", " xnas "), line("ES=F", "")]))
    assert prints.select("symbol", "root", "venue").rows() == [("XYZ", "XYZ", "XNAS"), ("ES=F", "ES=F", "")]


def test_overlong_tickers_have_no_symbol() -> None:
    assert symbol_of("A" * 33) is None
    assert symbol_of("A" * 20 + "~~~~~~~") is None
    assert symbol_of("A" * 16) == "A" * 16


@pytest.mark.parametrize(("column", "many"), MAX_NAMES.items())
def test_too_many_symbols_are_an_error(tmp_path, column: str, many: int) -> None:
    names = {"symbol": "XYZ", "venue": "C"} | {column: [f"N{n}" for n in range(many + 1)]}
    path = tmp_path / "x.parquet"
    pl.DataFrame({"ts": [NS] * (many + 1), **names, "price": 1.0, "size": 1}).write_parquet(path)
    with pytest.raises(TapeError, match=rf"x\.parquet: more than {many:,} distinct names as {column} \('"):
        read_all(path)


def test_too_many_roots_are_an_error(write) -> None:
    lines = (massive_trade(f"O:{n:06d}240621C00500000") for n in range(MAX_NAMES["root"] + 1))
    with pytest.raises(TapeError, match="more than 100,000 distinct names as root"):
        read_all(write("x.csv", [TRADES, *lines]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "more than 1,000,000 blank lines: not a tape"),
        (b"\r\n", "more than 1,000,000 blank lines: not a tape"),
    ],
)
def test_a_small_file_of_blank_lines_ends_at_once(tmp_path, content: bytes, message: str) -> None:
    path = tmp_path / "x.csv.zst"
    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as out:
        out.write(TABLE.encode() + b"\n")
        for _ in range(256):
            out.write(content * (2**24 // len(content)))
    assert path.stat().st_size < 500_000
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(TapeError, match=rf"x\.csv\.zst: {message}"):
        read_all(path, kind="table")
    assert time.monotonic() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_data_that_expands_too_much_is_refused(tmp_path, monkeypatch, suffix: str) -> None:
    monkeypatch.setattr("flowtape.readers.stream.FREE_BYTES", 2**24)
    path = tmp_path / f"x.csv.{suffix}"
    data = (TABLE + "\n").encode() + (line() + "\n").encode() * 2**20
    path.write_bytes(gzip.compress(data) if suffix == "gz" else zstandard.compress(data))
    limit = 500 if suffix == "zst" else 100
    monkeypatch.setattr("flowtape.readers.stream.MAX_EXPANSION", limit)
    with pytest.raises(
        TapeError, match=rf"becomes more than {limit} times its size: not a tape; if it is one, decomp"
    ):
        read_all(path)


def outcome_of(folder, *paths):
    store = open_store(str(folder / "flow.duckdb"))
    (outcome,) = ingest(Ingestor(store), Request(files=[str(path) for path in paths]))
    store.close()
    counts = ("added", "duplicates", "replaced_quotes", "corrections", "official", "rejected", "refused")
    assert outcome.rows == sum(getattr(outcome, name) for name in counts)
    return outcome


def test_counts_add_up_with_blank_and_bad_lines(write, tmp_path) -> None:
    path = write("x.csv", [TABLE, "", line(), "", "", line("", at=1), line(at=2), "broken", line(at=2), ""])
    outcome = outcome_of(tmp_path, path)
    assert (outcome.rows, outcome.added, outcome.rejected) == (5, 3, 2)
    assert sorted(reject.row for reject in outcome.first) == [5, 7]
    assert outcome.notes["blank lines"] == 4
    assert outcome_of(tmp_path, path).duplicates == 3


def test_counts_add_up_with_corrections_and_bad_quotes(write, tmp_path) -> None:
    trades = [
        massive_trade(ts=n, correction=correction) for n, correction in enumerate((0, 0, 7, 8, 10, 12, 99))
    ]
    quotes = [quote(ts=-1), "", quote(ts=0, bid="x"), quote(ts=1, ask="y"), "short"]
    paths = write("t.csv", [TRADES, *trades, ""]), write("q.csv", [QUOTES, *quotes])
    outcome = outcome_of(tmp_path, *paths)
    assert (outcome.rows, outcome.added, outcome.corrections, outcome.rejected) == (10, 2, 4, 4)


def test_a_file_of_blank_lines_has_no_rows(write) -> None:
    with pytest.raises(TapeError, match="no rows, only a header"):
        read_all(write("x.csv", [TABLE, *[""] * 10]))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(write, encoding: str) -> None:
    path = write("x.csv", f"{TABLE}\n{line()}\n".encode(encoding))
    with pytest.raises(TapeError, match=r"x\.csv: text in UTF-(16|32), not UTF-8; save it as UTF-8"):
        guess(path)
    with pytest.raises(TapeError, match=r"x\.csv: text in UTF-(16|32), not UTF-8; save it as UTF-8"):
        read_all(path, kind="table")


def test_a_header_that_is_not_utf_8_is_named(write) -> None:
    with pytest.raises(
        TapeError, match=r"x\.csv: a header that is not UTF-8 \(Latin-1\?\); save it as UTF-8"
    ):
        guess(write("x.csv", f"{TABLE},Größe\n{line()},1\n".encode("latin-1")))
    assert MAX_BLANK == 1_000_000


@pytest.mark.parametrize(("column", "many"), MAX_NAMES.items())
def test_the_limit_of_names_includes_known_names(tmp_path, column: str, many: int) -> None:
    names = [f"M{n}" for n in range(many + 1)]
    for chosen in (names[: many // 2], names[many // 2 :], names):
        path = tmp_path / "x.parquet"
        named = {"symbol": "XYZ", "venue": "C"} | {column: chosen}
        frame = pl.DataFrame({"ts": [NS] * len(chosen), **named, "price": 1.0, "size": 1})
        frame.with_columns(pl.col(column).cast(pl.Categorical)).write_parquet(path)
        if len(chosen) > many:
            with pytest.raises(TapeError, match=f"more than {many:,} distinct names as {column}"):
                read_all(path)
        else:
            assert read_all(path)[1].height == len(chosen)


def test_a_repeated_bad_name_is_rejected_each_time(write) -> None:
    lines = [TABLE, line(), line("a b"), line("xyz"), line()]
    for number in range(3):
        tape, prints = read_all(write(f"{number}.csv", lines))
        assert faults(tape) == [(2, f"symbol is {NO_SYMBOL}: 'a b'")]
        assert prints["symbol"].to_list() == ["XYZ", "XYZ", "XYZ"]
