"""Read CSV files in chunks of whole lines, with every column as text, and report every malformed line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.errors import TapeError
from flowtape.readers import Rejects
from flowtape.readers.stream import Stream, head, open_stream

ROW = "#row"
"""The column with a row's number in its file, from 1 (without the header), during a read."""
FIELDS = "#fields"
"""In a ragged CSV, the column with the number of fields of each line."""
CHUNK_BYTES = 8 * 2**20
MAX_LINE = 16 * 2**20
MAX_BLANK = 1_000_000
"""The largest number of blank lines in blocks that hold little else."""
_SHORT = 4
"""A block whose average line is shorter than this is mostly blank lines, or not a table."""
BLANK = "blank lines"

_Places = npt.NDArray[np.intp]
_Mask = npt.NDArray[np.bool_]

_BOM = b"\xef\xbb\xbf"


_OTHER_TEXT = (
    (b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"),
)  # fmt: skip
"""The byte order marks of text files in other encodings."""
_LATIN_1 = re.compile(rb"[\x20-\x7e\t\r\x80-\xff]+[,;\t|][\x20-\x7e\t\r\x80-\xff]+")
_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_UNNAMED = "\0"
"""The prefix of a substitute name for a column without a name, or with the name of an earlier column."""


def header_of(start: bytes) -> list[str]:
    """Return the column names in the first line of a text file; empty if it is not text."""
    return _header(start)[0]


def separated_by(start: bytes) -> str:
    """Return the separator of the columns in the first line of a text file, as a word for an error."""
    return _SEPARATORS[_header(start)[1]]


def check_encoding(name: str, start: bytes) -> None:
    """Raise `TapeError` if the first bytes of a file (called `name`) are text in another encoding than UTF-8."""
    for mark, found in _OTHER_TEXT:
        if start.startswith(mark):
            raise TapeError(f"{name}: text in {found}, not UTF-8; save it as UTF-8")
    line = start.split(b"\n", 1)[0]
    if re.fullmatch(rb"(?:[\x20-\x7e\t\r]\0)+\0?|(?:\0[\x20-\x7e\t\r])+\0?", line) is not None:
        raise TapeError(f"{name}: text in UTF-16, not UTF-8; save it as UTF-8")
    if _LATIN_1.fullmatch(line) is None:
        return
    try:
        line.decode()
    except UnicodeDecodeError:
        raise TapeError(f"{name}: a header that is not UTF-8 (Latin-1?); save it as UTF-8") from None


def _header(start: bytes) -> tuple[list[str], str]:
    """Return the names in the first line and their separator, which is the one that gives the most names."""
    line = start.removeprefix(_BOM).split(b"\n", 1)[0].rstrip(b"\r")
    if b"\0" in line:
        return [], ","
    try:
        text = line.decode()
        found = {sign: next(csv.reader([text], delimiter=sign), []) for sign in _SEPARATORS}
    except (UnicodeDecodeError, csv.Error):
        return [], ","
    sign = max(found, key=lambda sign: len(found[sign]))
    return [name.strip() for name in found[sign]], sign


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of a CSV file: text columns and `ROW`, the number of data rows (with bad rows, without blank lines), and the
    share of the file read so far."""

    frame: pl.DataFrame
    rows: int
    done: float


class Csv:
    """A CSV file read in chunks of whole lines, with every column as text (a blank field is null).

    A row is a line; line breaks inside quotes are not supported. Lines with a wrong number of fields, broken quotes, a
    NUL or invalid UTF-8 are rejected. With `ragged`, a line may have more fields than the header has names; the extra
    columns are named by their position, `"17"`, `"18"`, …. Unnamed columns, and repeats of a name, cannot be read.
    """

    def __init__(self, path: Path, expected: str, required: Sequence[str], *, ragged: bool = False) -> None:
        """Read the header. `expected` describes the file in the error for another kind of file.

        Raises:
            TapeError: the file is missing, empty or binary, or lacks a required column.
        """
        start = head(path)
        check_encoding(path.name, start)
        self.path, self.ragged = path, ragged
        self.names, self.separator = _header(start)
        missing = [name for name in required if name not in self.names]
        if b"\0" in start:
            raise TapeError(f"{path.name}: expected {expected}, found a binary file")
        if missing:
            found = self.separator.join(self.names)[:120]
            raise TapeError(f"{path.name}: expected {expected}; no column {', '.join(missing)} in {found!r}")
        self._repeated = {name for name in self.names if self.names.count(name) > 1}
        self.names = [
            f"{_UNNAMED}{place}" if not name or name in self.names[:place] else name
            for place, name in enumerate(self.names)
        ]
        self._check_repeated(required)

    @property
    def named(self) -> list[str]:
        """Return the names of the columns that have a unique name."""
        return [name for name in self.names if not name.startswith(_UNNAMED)]

    def _check_repeated(self, columns: Sequence[str]) -> None:
        for name in columns:
            if name in self._repeated:
                raise TapeError(f"{self.path.name}: two columns are called {name!r}")

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        """Yield the file's rows with `columns` (with all columns if ragged), at most `max_rows` at a time.

        Raises:
            TapeError: the file has no rows, or its last line is cut off.
        """
        self._check_repeated(columns)
        row = seen = blank = 0
        with open_stream(self.path) as stream:
            for data in self._blocks(stream):
                blank = self._check_blank(data, blank)
                ended = data.endswith(b"\n")
                lines = _Lines(
                    data if ended else data + b"\n", len(self.names), self.separator, exact=not self.ragged
                )
                if not ended:
                    self._check_end(lines, row)
                    notes["last line without a line end: it may have been cut"] += 1
                frame = self._parse(lines, columns, row)
                for low in range(row, row + lines.count, max_rows):
                    high = min(low + max_rows, row + lines.count)
                    for reason, bad in lines.faults:
                        rows = (bad + row + 1)[(bad >= low - row) & (bad < high - row)]
                        rejects.add(self.path.name, rows, reason)
                    part = (
                        frame
                        if high - low == lines.count
                        else frame.filter(pl.col(ROW).is_between(low + 1, high))
                    )
                    count = high - low - int(lines.blank[low - row : high - row].sum())
                    seen += count
                    yield Chunk(part, count, stream.done)
                if without := int(lines.blank.sum()):
                    notes[BLANK] += without
                row += lines.count
        if not seen:
            raise TapeError(f"{self.path.name}: no rows, only a header")

    def _blocks(self, stream: Stream) -> Iterator[bytes]:
        """Yield whole lines without the header, some MB at a time. Only the file's last line may lack its line end."""
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

    def _check_blank(self, block: bytes, before: int) -> int:
        """Return the number of blank lines so far in blocks of short lines; `before` is the number before this
        block."""
        if block.count(b"\n") * _SHORT < len(block):
            return before
        # Counted before the lines are split, which takes a hundred bytes of memory for each.
        count = before + len(block) - len(block.replace(b"\n\n", b"\n")) + block.count(b"\n\r\n")
        if count > MAX_BLANK:
            raise TapeError(f"{self.path.name}: more than {MAX_BLANK:,} blank lines: not a tape")
        return count

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
        # Polars takes the width of the first line for every line, so the header must be as wide as the widest line.
        header = self.separator.join(f"c{place}" for place in range(len(names))).encode() + b"\n"
        try:
            frame = pl.read_csv(
                header + lines.kept() if self.ragged else lines.kept(),
                has_header=self.ragged,
                separator=self.separator,
                columns=None if self.ragged else [self.names.index(name) for name in names],
                infer_schema=False,
                quote_char='"' if lines.quoted else None,
            )
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise TapeError(f"{self.path.name}: not a CSV file from row {row + 1} on: {reason}") from None
        frame.columns = names
        if lines.quoted:
            frame = frame.with_columns(pl.when(pl.col(pl.String) != "").then(pl.col(pl.String)))
        if self.ragged:
            frame = frame.with_columns(pl.Series(FIELDS, lines.fields[lines.good], dtype=pl.Int64))
        return frame.with_columns(numbers)


class _Lines:
    """A block of lines: the number of fields of each, which lines are good, and the faults of the others."""

    def __init__(self, block: bytes, width: int, separator: str, *, exact: bool) -> None:
        self.block = block
        self._bytes = np.frombuffer(block, np.uint8)
        self.ends = np.flatnonzero(self._bytes == ord("\n"))
        self.starts = np.concatenate(([0], self.ends[:-1] + 1))
        self.count = len(self.ends)
        self.quoted = b'"' in block
        separators, torn, misplaced = self._unquoted(separator)
        self.fields = np.diff(np.searchsorted(separators, self.ends), prepend=0) + 1
        lengths = self.ends - self.starts
        self.blank = blank = (lengths == 0) | ((lengths == 1) & (self._bytes[self.starts] == ord("\r")))
        wrong = self.fields != width if exact else self.fields < width
        found = (
            ("a NUL byte", self._holding(self._bytes == 0) if b"\0" in block else None),
            ("invalid UTF-8", self._undecodable()),
            ("a quotation mark without its pair", torn),
            ("a quotation mark inside a field", misplaced),
            (f"not {width} fields" if exact else f"fewer than {width} fields", wrong & ~blank),
        )
        self.good = ~blank
        self.faults: list[tuple[str, _Places]] = []
        for reason, bad in found:
            if bad is not None and (bad & self.good).any():
                self.faults.append((reason, np.flatnonzero(bad & self.good)))
                self.good &= ~bad

    def kept(self) -> bytes:
        """Return the good lines."""
        if self.good.all():
            return self.block
        return bytes(self._bytes[np.repeat(self.good, self.ends - self.starts + 1)].data)

    def _holding(self, marked: _Mask) -> _Mask:
        mask = np.zeros(self.count, np.bool_)
        mask[np.searchsorted(self.ends, np.flatnonzero(marked))] = True
        return mask

    def _unquoted(self, separator: str) -> tuple[_Places, _Mask | None, _Mask | None]:
        """Return the positions of separators between fields, a mask of lines with an odd number of quotation marks, and
        a mask of lines with a mark that is neither at the edge of a field nor beside another mark."""
        separators = np.flatnonzero(self._bytes == ord(separator))
        if not self.quoted:
            return separators, None, None
        is_mark = self._bytes == ord('"')
        marks = np.cumsum(is_mark)
        before = marks[self.starts] - is_mark[self.starts]
        inside = (marks[separators] - before[np.searchsorted(self.ends, separators)]) % 2 == 1
        places = np.flatnonzero(is_mark)
        opening = (marks[places] - before[np.searchsorted(self.ends, places)]) % 2 == 1
        beside = np.where(opening, self._bytes[places - 1], self._bytes[places + 1])
        beside[places == 0] = ord("\n")
        fits = np.isin(beside, np.frombuffer(f'{separator}"\r\n'.encode(), np.uint8))
        misplaced = np.zeros(self.count, np.bool_)
        misplaced[np.searchsorted(self.ends, places[~fits])] = True
        return separators[~inside], (marks[self.ends] - before) % 2 == 1, misplaced

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
