"""What readers share: CSV in pieces, and text → typed columns with every bad row reported.

`head` and `open_stream`, the decompressed bytes of a file, are those of `stream`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.conditions import from_numbers
from flowtape.errors import TapeError
from flowtape.prints import MAX_PRICE, MAX_SIZE, MAX_STRIKE, NEW_YORK, PRICE_SCALE, Timestamp
from flowtape.readers import Rejects
from flowtape.readers.stream import Stream, head, open_stream

__all__ = [
    "FIELDS", "ROW", "Chunk", "Csv", "Field", "Places", "Stream", "condition", "expiry", "from_wall", "head",
    "header_of", "instants", "nanoseconds", "note_unknown", "number", "open_stream", "parse", "price",
    "quote", "quote_size", "right", "size", "strike", "text", "units", "whole",
]  # fmt: skip

ROW = "#row"
"""The column that holds a row's 1-based number in its file (a header is no row) while it is being read."""
FIELDS = "#fields"
"""In a ragged CSV, the column that holds how many fields each line has."""
CHUNK_BYTES = 8 * 2**20
MAX_LINE = 16 * 2**20

_Places = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

_BOM = b"\xef\xbb\xbf"


def header_of(start: bytes) -> list[str]:
    """The column names in the first line of a text file; none if it is no text."""
    line = start.removeprefix(_BOM).split(b"\n", 1)[0].rstrip(b"\r")
    try:
        names = next(csv.reader([line.decode()]), []) if b"\0" not in line else []
    except (UnicodeDecodeError, csv.Error):
        names = []
    return [name.strip() for name in names]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows of a CSV file: text columns and `ROW`, the count of data rows they came of (bad ones
    included), and the share of the file read so far."""

    frame: pl.DataFrame
    rows: int
    done: float


class Csv:
    """A CSV file read in chunks of whole lines, every column as text (a blank field is null).

    A row is a line: a line break inside quotes is not supported. Lines with a wrong number of fields, broken
    quotes, a NUL or invalid UTF-8 are rejected. With `ragged` a line may have more fields than the header has
    names; those come as columns named by their place, `"17"`, `"18"`, ….
    """

    def __init__(self, path: Path, expected: str, required: Sequence[str], *, ragged: bool = False) -> None:
        """Read the header. `expected` is what such a file is called in the error for one that is none.

        Raises `TapeError` for a missing, empty, binary or wrong-format file.
        """
        start = head(path)
        self.path, self.ragged = path, ragged
        self.names = header_of(start)
        missing = [name for name in required if name not in self.names]
        if b"\0" in start:
            raise TapeError(f"{path.name}: expected {expected}, found a binary file")
        if missing:
            found = ",".join(self.names)[:120]
            raise TapeError(f"{path.name}: expected {expected}; no column {', '.join(missing)} in {found!r}")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise TapeError(f"{path.name}: two columns are called {twice!r}")

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        """The file's rows: `columns` of each (all of them if ragged), at most `max_rows` at a time.

        Raises `TapeError` where the file has no rows or its last line is cut off.
        """
        row = 0
        with open_stream(self.path) as stream:
            for data in self._blocks(stream):
                ended = data.endswith(b"\n")
                lines = _Lines(data if ended else data + b"\n", len(self.names), exact=not self.ragged)
                if not ended:
                    self._check_end(lines, row)
                    notes["last line without a line end: it may have been cut"] += 1
                for reason, bad in lines.faults:
                    rejects.add(self.path.name, (bad + row + 1).tolist(), reason)
                frame = self._parse(lines, columns, row)
                for low in range(row, row + lines.count, max_rows):
                    high = min(low + max_rows, row + lines.count)
                    part = (
                        frame
                        if high - low == lines.count
                        else frame.filter(pl.col(ROW).is_between(low + 1, high))
                    )
                    yield Chunk(part, high - low, stream.done)
                row += lines.count
        if not row:
            raise TapeError(f"{self.path.name}: no rows, only a header")

    def _blocks(self, stream: Stream) -> Iterator[bytes]:
        """Whole lines without the header, some MB at a time; only the file's last may lack its line end."""
        held = b""
        for number, piece in enumerate(_gathered(stream, CHUNK_BYTES)):
            held += piece
            if not number:
                held = held.removeprefix(_BOM).partition(b"\n")[2]
            cut = held.rfind(b"\n") + 1
            if cut:
                yield held[:cut]
            held = held[cut:]
            if len(held) > MAX_LINE:
                raise TapeError(f"{self.path.name}: a line of more than {MAX_LINE:,} bytes: not a CSV file")
        if held:
            yield held

    def _check_end(self, lines: _Lines, row: int) -> None:
        if lines.fields[-1] < len(self.names):
            raise TapeError(
                f"{self.path.name}: truncated: row {row + lines.count} is cut off after "
                f"{lines.fields[-1]} of {len(self.names)} fields"
            )

    def _parse(self, lines: _Lines, columns: Sequence[str], row: int) -> pl.DataFrame:
        numbers = pl.Series(ROW, np.flatnonzero(lines.good) + row + 1, dtype=pl.Int64)
        names = self.names + [
            str(place) for place in range(len(self.names), int(lines.fields.max(initial=0)))
        ]
        if not self.ragged:
            names = [name for name in self.names if name in columns]
        if numbers.is_empty():
            numeric = [FIELDS, ROW] if self.ragged else [ROW]
            text = [(name, pl.String()) for name in names]
            return pl.DataFrame(schema=text + [(name, pl.Int64()) for name in numeric])
        # Without a header as wide as the widest line, polars takes the first line's width for every line's.
        header = ",".join(names).encode() + b"\n" if self.ragged else b""
        frame = pl.read_csv(
            header + lines.kept(),
            has_header=self.ragged,
            columns=None if self.ragged else [self.names.index(name) for name in names],
            infer_schema=False,
            quote_char='"' if lines.quoted else None,
        )
        frame.columns = names
        if self.ragged:
            frame = frame.with_columns(pl.Series(FIELDS, lines.fields[lines.good], dtype=pl.Int64))
        return frame.with_columns(numbers)


class _Lines:
    """A block of lines, how many fields each has, which are good, and what is wrong with the others."""

    def __init__(self, block: bytes, width: int, *, exact: bool) -> None:
        self.block = block
        self._bytes = np.frombuffer(block, np.uint8)
        self.ends = np.flatnonzero(self._bytes == ord("\n"))
        self.starts = np.concatenate(([0], self.ends[:-1] + 1))
        self.count = len(self.ends)
        self.quoted = b'"' in block
        commas, torn = self._unquoted(np.flatnonzero(self._bytes == ord(",")))
        self.fields = np.diff(np.searchsorted(commas, self.ends), prepend=0) + 1
        lengths = self.ends - self.starts
        blank = (lengths == 0) | ((lengths == 1) & (self._bytes[self.starts] == ord("\r")))
        wrong = self.fields != width if exact else self.fields < width
        found = (
            ("a NUL byte", self._holding(self._bytes == 0) if b"\0" in block else None),
            ("invalid UTF-8", self._undecodable()),
            ("a quotation mark without its pair", torn),
            (f"not {width} fields" if exact else f"fewer than {width} fields", wrong & ~blank),
        )
        self.good = ~blank
        self.faults: list[tuple[str, _Places]] = []
        for reason, bad in found:
            if bad is not None and (bad & self.good).any():
                self.faults.append((reason, np.flatnonzero(bad & self.good)))
                self.good &= ~bad

    def kept(self) -> bytes:
        """The good lines."""
        if self.good.all():
            return self.block
        return bytes(self._bytes[np.repeat(self.good, self.ends - self.starts + 1)].data)

    def _holding(self, marked: _Mask) -> _Mask:
        mask = np.zeros(self.count, np.bool_)
        mask[np.searchsorted(self.ends, np.flatnonzero(marked))] = True
        return mask

    def _unquoted(self, commas: _Places) -> tuple[_Places, _Mask | None]:
        """The commas that part fields, and the lines with an odd number of quotation marks."""
        if not self.quoted:
            return commas, None
        marks = np.cumsum(self._bytes == ord('"'))
        before = marks[self.starts] - (self._bytes[self.starts] == ord('"'))
        inside = (marks[commas] - before[np.searchsorted(self.ends, commas)]) % 2 == 1
        return commas[~inside], (marks[self.ends] - before) % 2 == 1

    def _undecodable(self) -> _Mask | None:
        if self.block.isascii():
            return None
        mask = self._holding(self._bytes > 127)
        for line in np.flatnonzero(mask):
            try:
                self.block[self.starts[line] : self.ends[line]].decode()
                mask[line] = False
            except UnicodeDecodeError:
                continue
        return mask


def _gathered(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    held: list[bytes] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= size:
            yield b"".join(held)
            held = []
    if held:
        yield b"".join(held)


@dataclass(frozen=True, slots=True)
class Field:
    """How a column of prints is made of a file's columns.

    `value` gives null where the source's value is no such thing; what is null, or outside `low`..`high`, is a
    bad row. `column` is the source's column, named in the report. With `required` off a blank is fine.
    """

    name: str
    column: str
    value: pl.Expr
    what: str
    low: int | None = None
    high: int | None = None
    required: bool = True


def parse(raw: pl.DataFrame, fields: Sequence[Field], rejects: Rejects, file: str) -> pl.DataFrame:
    """The prints' columns of a frame of source rows (with `ROW`), without the bad rows, each of them reported
    once, by the first of `fields` it fails."""
    parsed = raw.select(pl.col(ROW), *(field.value.alias(field.name) for field in fields))
    good: pl.Series | None = None
    for field in fields:
        bad = _bad(parsed[field.name], raw[field.column], field)
        if bad is None:
            continue
        bad = bad if good is None else bad & good
        if bad.any():
            rejects.add(
                file, raw[ROW].filter(bad).to_list(), field.what, raw[field.column].filter(bad).to_list()
            )
        good = ~bad if good is None else good & ~bad
    return parsed if good is None else parsed.filter(good)


def _bad(values: pl.Series, source: pl.Series, field: Field) -> pl.Series | None:
    """Which values are bad; None if none is. The common case costs a null count, a minimum and a maximum."""
    blank = 0 if field.required else source.null_count()
    outside = (
        any(
            limit is not None and found is not None and (cast(int, found) - limit) * sign < 0
            for limit, found, sign in ((field.low, values.min(), 1), (field.high, values.max(), -1))
        )
        if field.low is not None or field.high is not None
        else False
    )
    if values.null_count() == blank and not outside:
        return None
    bad = values.is_null() if field.required else values.is_null() & source.is_not_null()
    if field.low is not None:
        bad = bad | (values < field.low).fill_null(False)
    if field.high is not None:
        bad = bad | (values > field.high).fill_null(False)
    return bad


def units(column: str) -> pl.Expr:
    """USD (text or number) → integer price units of 1e-4 USD, to the nearest: 40.480000000000004 → 404800.
    Null where it is no finite number. Exact below 10^11 units, far under the 2^53 of a float."""
    return (pl.col(column).cast(pl.Float64, strict=False) * PRICE_SCALE).round().cast(pl.Int64, strict=False)


def whole(column: str) -> pl.Expr:
    """A whole number, as text (`10`, `10.0`) or number; null where it is none."""
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number == number.floor()).then(number).cast(pl.Int64, strict=False)


def price(column: str = "price") -> Field:
    """The price of a print, in USD."""
    return Field("price", column, units(column), f"{column} is not a price in USD from 0 up", 0, MAX_PRICE)


def quote(name: str, column: str) -> Field:
    """A price that may be blank, and that the side rule judges when it is negative: bid, ask."""
    what = f"{column} is not a price in USD"
    return Field(name, column, units(column), what, -MAX_PRICE, MAX_PRICE, required=False)


def size(column: str = "size") -> Field:
    """The size of a print."""
    return Field("size", column, whole(column), f"{column} is not a whole number from 1 up", 1, MAX_SIZE)


def quote_size(name: str, column: str) -> Field:
    """The size at a quote; may be blank."""
    what = f"{column} is not a whole number from 0 up"
    return Field(name, column, whole(column), what, 0, 2**53, required=False)


def strike(column: str = "strike") -> Field:
    """A strike in USD, a whole multiple of 0.001 as in an OSI symbol."""
    value = units(column)
    value = pl.when(value % 10 == 0).then(value)
    return Field("strike", column, value, f"{column} is not a strike in USD", 10, MAX_STRIKE)


def right(column: str = "right") -> Field:
    """Call or put: `C`, `P`, `CALL`, `PUT`, in any case."""
    table = {"C": "C", "CALL": "C", "P": "P", "PUT": "P"}
    value = pl.col(column).str.to_uppercase().replace_strict(table, default=None, return_dtype=pl.String)
    return Field("right", column, value, f"{column} is neither call nor put")


def text(name: str, column: str) -> Field:
    """A name that must not be blank, in upper case."""
    value = pl.col(column).str.strip_chars().str.to_uppercase()
    return Field(name, column, pl.when(value != "").then(value), f"{column} is blank")


def number(name: str, column: str) -> Field:
    """A whole number of any sign, exact over all of 64 bits."""
    return Field(name, column, pl.col(column).cast(pl.Int64, strict=False), f"{column} is not a whole number")


def expiry(column: str = "expiry") -> Field:
    """A date, `YYYY-MM-DD` or `YYYYMMDD`."""
    text = pl.col(column)
    value = pl.coalesce(text.str.to_date(form, strict=False) for form in ("%Y-%m-%d", "%Y%m%d"))
    return Field("expiry", column, value, f"{column} is not a date")


def condition(column: str, vendor: str) -> pl.Expr:
    """A vendor's condition numbers, as text, in the one vocabulary; null only where the text is no number."""
    known = pl.col(column).is_null() | pl.col(column).cast(pl.Int64, strict=False).is_not_null()
    return pl.when(known).then(from_numbers(pl.col(column), vendor))


def note_unknown(conditions: pl.Series, source: pl.Series, notes: Counter[str]) -> None:
    """Note which of the source's conditions have no name here; their prints are kept as `unknown`."""
    for value, count in source.filter(conditions == "unknown").drop_nulls().value_counts().iter_rows():
        notes[f"condition {value} has no name here: kept as unknown"] += count


class Places:
    """A sequence number where the source has none: a row's place, from 0, among the rows of one key.

    Counts go on from batch to batch while the key is the last row's, or that of the newest `ts`: enough where
    rows of one key stand together or the file is in order of time.
    """

    def __init__(self, key: Sequence[str]) -> None:
        """`key` names the columns that are alike in such rows; `ts` and the contract are among them."""
        self._key = list(key)
        self._counts: pl.DataFrame | None = None

    def of(self, frame: pl.DataFrame) -> pl.Series:
        """The places of the next rows, type Int64."""
        keys = frame.select(self._key)
        places = keys.select(pl.int_range(pl.len(), dtype=pl.Int64).over(self._key).alias("seq"))
        if self._counts is not None:
            before = keys.join(
                self._counts, on=self._key, how="left", nulls_equal=True, maintain_order="left"
            )
            places = places.select(pl.col("seq") + before["#count"].fill_null(0))
        if frame.height:
            seen = keys.with_columns((places["seq"] + 1).alias("#count"))
            seen = seen if self._counts is None else pl.concat([self._counts, seen])
            run = pl.all_horizontal(
                pl.col(name).eq_missing(pl.col(name).last()) for name in self._key if name != "venue"
            )
            seen = seen.filter(run | (pl.col("ts") == pl.col("ts").max()))
            self._counts = seen.group_by(self._key).agg(pl.col("#count").max())
        return places["seq"]


def instants(text: pl.Series, notes: Counter[str], zone: str = NEW_YORK.key) -> pl.Series:
    """ISO 8601 date-times → UTC instants; without an offset it is wall time in `zone`; null if neither.

    The hour that autumn's clock change repeats is taken as its first pass, and noted; the hour that spring's
    leaves out never was, and is null.
    """
    text = text.str.replace("T", " ", literal=True)
    offset = text.str.contains(r"(Z|[+-]\d\d:?\d\d)$")
    wall = pl.Series(text.name, [None], dtype=Timestamp).new_from_index(0, len(text))
    if offset.any():
        text = text.str.replace(r"Z$", "+00:00")
        wall = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="ns", time_zone="UTC", strict=False)
    if offset.all():
        return wall
    local = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    return wall.zip_with(offset.fill_null(False), from_wall(local, notes, zone))


def nanoseconds(value: pl.Expr) -> pl.Expr:
    """Integer nanoseconds since 1970 → UTC instants; null outside the years 2001 to 2096, where milliseconds
    or seconds lie."""
    number = value.cast(pl.Int64, strict=False)
    return pl.when(number.is_between(10**18, 4 * 10**18)).then(number).cast(Timestamp)


def from_wall(local: pl.Series, notes: Counter[str], zone: str = NEW_YORK.key) -> pl.Series:
    """Naive date-times in a time zone → UTC instants, as `instants` says of the two odd hours."""
    found = local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    if found.null_count() > local.null_count():
        first = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        notes[f"times in the hour the {zone} clock repeats, taken as the first pass"] += (
            found.null_count() - first.null_count()
        )
        found = first
    return found.dt.convert_time_zone("UTC")
