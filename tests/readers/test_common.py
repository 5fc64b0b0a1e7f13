import gzip
from collections import Counter
from datetime import UTC, date, datetime
from functools import partial

import polars as pl
import pytest
import zstandard

from flowtape.errors import TapeError
from flowtape.model.prints import SIZE_SCALE
from flowtape.readers import Rejects, common, delimited, guess
from flowtape.readers import stream as stream_module

ROWS = 60_000
TEXT = b"".join(b"%d,%d\n" % (number, number * number) for number in range(ROWS))


def rows_of(path, names=("a", "b"), chunk=None, max_rows=10**6, **options):
    rejects, notes = Rejects(), Counter()
    table = common.Csv(path, "a test file", names, **options)
    frames = [chunk.frame for chunk in table.chunks(names, rejects, notes, max_rows)]
    return pl.concat(frames), rejects, notes


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.csv.zst"])
def test_compression_is_recognised_by_content(write, name):
    plain = write(name, TEXT)
    path = plain.rename(plain.with_name("no-suffix"))
    assert common.head(path, 10) == TEXT[:10]
    with common.open_stream(path) as stream:
        assert stream.read(3) == TEXT[:3]
        assert b"".join(iter(lambda: stream.read(1000), b"")) == TEXT[3:]
        assert stream.done == 1.0
        assert stream.read(1) == b""
    with common.open_stream(path) as stream:
        assert stream.read() == TEXT


def test_several_gzip_members_and_zstd_frames_are_read(tmp_path):
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    halves = TEXT[:1000], TEXT[1000:]
    (tmp_path / "gz").write_bytes(b"".join(map(gzip.compress, halves)) + bytes(512))
    (tmp_path / "zst").write_bytes(skippable + b"".join(map(zstandard.compress, halves)))
    for name in ("gz", "zst"):
        with common.open_stream(tmp_path / name) as stream:
            assert stream.read() == TEXT


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("kept", [0.3, 0.9999])
def test_a_truncated_compressed_file_is_an_error(write, suffix, kept):
    path = write(f"x.csv.{suffix}", TEXT)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with common.open_stream(path) as stream, pytest.raises(TapeError, match=rf"x\.csv\.{suffix}: truncated"):
        stream.read()


def test_a_zstd_file_cut_between_blocks_is_an_error(tmp_path):
    """The stream reader of `zstandard` accepts an incomplete frame."""
    path = tmp_path / "x.csv.zst"
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    path.write_bytes(compressor.compress(TEXT) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    with common.open_stream(path) as stream, pytest.raises(TapeError, match="truncated"):
        stream.read()


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_corrupt_compressed_file_is_an_error(write, suffix):
    path = write(f"x.csv.{suffix}", TEXT)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"\xff" * 50
    path.write_bytes(data)
    with common.open_stream(path) as stream, pytest.raises(TapeError, match=rf"x\.csv\.{suffix}: corrupt"):
        stream.read()


def test_a_highly_compressed_file_is_read_in_pieces(write):
    for suffix in ("gz", "zst"):
        path = write(f"zeros.{suffix}", bytes(100_000_000))
        with common.open_stream(path) as stream:
            assert max(map(len, stream)) < 50_000_000


def test_head_of_an_unreadable_file_is_an_error(tmp_path, write):
    with pytest.raises(TapeError, match=r"x\.csv: empty file"):
        common.head(write("x.csv", b""))
    with pytest.raises(TapeError, match=r"x\.csv\.gz: empty file"):
        common.head(write("x.csv.gz", b""))
    with pytest.raises(TapeError, match=r"none\.csv: cannot be read: No such file"):
        common.head(tmp_path / "none.csv")
    with pytest.raises(TapeError, match="directory"):
        common.head(tmp_path)


def test_a_file_that_is_not_a_tape_is_refused(write):
    for content in (b"hello\n", b"\x89PNG\r\n\x1a\n\0\0\0", b"a,b\n1,2\n"):
        with pytest.raises(TapeError, match="not a tape of a known format"):
            guess(write("x", content))


def test_csv_chunks_equal_the_whole_file(write, monkeypatch):
    path = write("x.csv.gz", b"a,b\n" + TEXT)
    whole, _, _ = rows_of(path)
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(stream_module, "_PIECE", 777)
    pieces, _, _ = rows_of(path, max_rows=50)
    assert whole.equals(pieces)
    assert whole["b"].cast(pl.Int64).to_list() == [number * number for number in range(ROWS)]
    assert whole[common.ROW].to_list() == list(range(1, ROWS + 1))


def test_csv_chunks_are_bounded_in_rows(write):
    path = write("x.csv", b"a,b\n" + TEXT)
    table = common.Csv(path, "a test file", ("a",))
    chunks = list(table.chunks(("b",), Rejects(), Counter(), 4096))
    assert max(chunk.frame.height for chunk in chunks) == 4096
    assert sum(chunk.rows for chunk in chunks) == ROWS
    assert chunks[0].frame.columns == ["b", common.ROW]
    assert [chunk.done for chunk in chunks] == sorted(chunk.done for chunk in chunks)
    assert chunks[-1].done == 1.0


def test_csv_variants_are_read(write):
    content = b'\xef\xbb\xbfa,b\r\n1,"x, y"\r\n\r\n"2",\r\n3,"he said ""no"""\r\n'
    frame, rejects, notes = rows_of(write("x.csv", content))
    assert frame.rows() == [("1", "x, y", 1), ("2", None, 3), ("3", 'he said "no"', 4)]
    assert rejects.count == 0
    assert notes == {"blank lines": 1}


def test_bad_lines_are_rejected_with_their_row_numbers(write):
    lines = [
        b"1,one",
        b"2",
        b"3,three,3",
        b"4,\xff\xfe",
        b'5,"five',
        "6,sept\u00e9".encode(),
        b"7,eight",
    ]
    frame, rejects, _ = rows_of(write("x.csv", b"a,b\n" + b"\n".join(lines) + b"\n"))
    assert frame["a"].to_list() == ["1", "6", "7"]
    assert frame[common.ROW].to_list() == [1, 6, 7]
    assert sorted((reject.row, reject.reason) for reject in rejects.first) == [
        (2, "not 2 fields"),
        (3, "not 2 fields"),
        (4, "invalid UTF-8"),
        (5, "a quotation mark without its pair"),
    ]


def test_a_nul_far_into_the_file_is_a_bad_row(write):
    frame, rejects, _ = rows_of(write("x.csv", b"a,b\n" + b"1,1\n" * 20_000 + b"2,\0\n3,3\n"))
    assert frame.height == 20_001
    assert [(reject.row, reject.reason) for reject in rejects.first] == [(20_001, "a NUL byte")]


def test_extra_and_missing_fields_do_not_cancel_out(write):
    frame, rejects, _ = rows_of(write("x.csv", b"a,b\n1,1\n2\n3,3,3\n"))
    assert frame["a"].to_list() == ["1"]
    assert [reject.row for reject in rejects.first] == [2, 3]


def test_a_cut_last_line_of_a_csv_is_an_error(write):
    with pytest.raises(TapeError, match=r"x\.csv: truncated: row 2 is cut off after 1 of 2 fields"):
        rows_of(write("x.csv", b"a,b\n1,1\n22"))
    frame, _, notes = rows_of(write("x.csv", b"a,b\n1,1\n2,2"))
    assert frame.height == 2
    assert notes == {"last line without a line end: it may have been cut": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n", "no rows, only a header"),
        (b"a,c\n1,1\n", "expected a test file; no column b in 'a,c'"),
        (b"a,b,a\n1,1,1\n", "two columns are called 'a'"),
        (b"a,b\n1,1\n\0\0\0\0", "expected a test file, found a binary file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "expected a test file, found a binary file"),
    ],
)
def test_a_csv_without_the_expected_columns_is_an_error(write, content, message):
    with pytest.raises(TapeError, match=message):
        rows_of(write("x.csv", content))


def test_an_endless_line_is_an_error(write, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_LINE", 1000)
    monkeypatch.setattr(delimited, "CHUNK_BYTES", 100)
    monkeypatch.setattr(stream_module, "_PIECE", 100)
    with pytest.raises(TapeError, match="a line of more than 1,000 bytes"):
        rows_of(write("x.csv.gz", b"a,b\n" + b"x" * 5000))


def text_frame(name, values):
    return pl.DataFrame({name: pl.Series(values, dtype=pl.String)}).with_row_index(common.ROW, 1)


def field_cases():
    """Yield a field, its valid values with their results, and its invalid values."""
    june = date(2024, 6, 21)
    yield (
        common.price,
        {"2.15": 2_150_000_000, "0": 0, "1e1": 10**10, "0.25015": 250_150_000},
        ["-0.01", "10000000.01", "nan", "inf", "x"],
    )
    yield (
        lambda column: common.size("option", column)[0],
        {"1": 1, "10.0": 10, "2147483647": 2**31 - 1},
        ["0", "-1", "1.5", "2147483648", None],
    )
    yield (
        lambda column: common.size("stock", column)[0],
        {"1": 10_000, "12.3456": 123_456, "0.0001": 1, "0.33335": 3334, "0.33325": 3332},
        ["0", "-1", "0.00004", "2147483648", "x", None],
    )
    yield (
        common.strike,
        {"12.500": 125_000, "0.001": 10},
        ["0", "-5", "12.5004", "12.500004", "100000", "x", None],
    )
    yield common.right, {"C": "C", "put": "P", "CALL": "C", "p": "P"}, ["X", None, "CC"]
    yield common.expiry, {"2024-06-21": june, "20240621": june}, ["2024-02-30", "x", None]
    yield partial(common.quote, "bid"), {"-0.5": -500_000_000, "0": 0, "": None}, ["x", "inf", "99999999"]
    for asset, more in (("option", {}), ("stock", {"1.5": 15_000})):
        scale = SIZE_SCALE[asset]
        make = partial(common.quote_size, "bid_size", asset=asset)
        yield make, {"0": 0, "7": 7 * scale, "": None} | more, ["-1", "x"]
    yield partial(common.number, "seq"), {"-19": -19, str(2**62 + 1): 2**62 + 1}, ["1.5", "x", None]
    yield partial(common.text, "root"), {" spx ": "SPX"}, [" ", None]


@pytest.mark.parametrize(("make", "good", "bad"), list(field_cases()))
def test_fields_convert_valid_and_reject_invalid_values(make, good, bad):
    values = [value or None for value in good] + [value or None for value in bad]
    rejects = Rejects()
    parsed = common.parse(text_frame("x", values), [make("x")], rejects, "file")
    assert parsed.columns == [common.ROW, make("x").name]
    assert parsed[:, 1].to_list() == list(good.values())
    assert [reject.row for reject in rejects.first] == list(range(len(good) + 1, len(values) + 1))
    assert rejects.first[0].reason == f"{make('x').what}: {bad[0]!r}"


def test_a_bad_row_is_reported_once():
    raw = pl.DataFrame({common.ROW: [1, 2], "p": ["x", "1"], "s": ["x", "1"]})
    rejects = Rejects()
    parsed = common.parse(raw, [common.price("p"), *common.size("option", "s")], rejects, "file")
    assert parsed.rows() == [(2, 10**9, 1)]
    assert rejects.count == 1


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


def test_iso_instants_are_converted_to_utc():
    notes = Counter()
    texts = pl.Series([
        "2016-06-01 09:30:00", "2016-01-04 09:30:00.5", "2024-06-14T09:55:03.122-04:00",
        "2024-06-14 13:55:03Z", "2024-06-14", "x", None, "2024-06-14 25:00:00",
    ])  # fmt: skip
    found = common.instants(texts, notes)
    assert found.to_list() == [
        utc(2016, 6, 1, 13, 30), utc(2016, 1, 4, 14, 30, 0, 500_000), utc(2024, 6, 14, 13, 55, 3, 122_000),
        utc(2024, 6, 14, 13, 55, 3), None, None, None, None,
    ]  # fmt: skip
    assert not notes
    assert (
        common.instants(pl.Series(["2024-06-14 09:55:03.123456789"]), notes).dt.nanosecond().item()
        == 123_456_789
    )


def test_repeated_and_skipped_hours_of_the_clock():
    notes = Counter()
    texts = pl.Series(
        ["2016-11-06 00:59:59", "2016-11-06 01:30:00", "2016-11-06 02:00:00", "2016-03-13 02:30:00"]
    )
    assert common.instants(texts, notes).to_list() == [
        utc(2016, 11, 6, 4, 59, 59), utc(2016, 11, 6, 5, 30), utc(2016, 11, 6, 7), None,
    ]  # fmt: skip
    assert notes == {"times in the hour the America/New_York clock repeats, taken as the first pass": 1}
