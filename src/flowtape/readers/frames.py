"""Read tables (Parquet, Arrow IPC file or stream, CSV) as frames in bounded pieces, and the TOML file that maps their
columns."""

from __future__ import annotations

import io
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from flowtape.errors import TapeError, UsageError
from flowtape.files import read_text
from flowtape.model.prints import SCHEMA
from flowtape.readers import Rejects
from flowtape.readers.ahead import ahead
from flowtape.readers.common import ROW, Chunk, Csv, Stream, check_unnamed, head, header_of, open_stream

READ = tuple(
    name for name in SCHEMA if name not in ("quote_seq", "quote_class", "copy", "corrects", "price_flags")
)
"""The columns of a print that a table may have. The others follow from these."""
_PARQUET = b"PAR1"
_ARROW_FILE = b"ARROW1"
_ARROW_STREAM = b"\xff\xff\xff\xff"
_END_OF_STREAM = _ARROW_STREAM + bytes(4)
_SCHEMA_MESSAGE, _DICTIONARY, _RECORDS = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Mapping:
    """The meaning of a table's columns: the file's name for each column of a print, and the way to read it."""

    columns: dict[str, str] = field(default_factory=dict)
    time_zone: str = "UTC"
    price_unit: float | None = None
    source: str | None = None
    condition_vocabulary: Literal["massive", "nanex"] | None = None


def load_mapping(path: Path | None) -> Mapping:
    """Return a mapping from its file. Raises `UsageError`, which names the bad key and its value."""
    if path is None:
        return Mapping()
    try:
        given = tomllib.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"mapping {path.name}: {error}") from None

    def check(key: str, value: object, good: bool, wanted: str) -> None:
        if not good:
            raise UsageError(f"mapping {path.name}: {key} = {value!r}: {wanted}")

    names = Mapping.__slots__
    for key, value in given.items():
        check(key, value, key in names, f"unknown key; there are {', '.join(names)}")
    columns = given.get("columns", {})
    check("columns", columns, isinstance(columns, dict), "must be a table")
    for name, column in columns.items():
        known = name in READ or name == "source"
        check(f"columns.{name}", column, known, f"unknown column; there are {', '.join(READ)}, source")
        check(f"columns.{name}", column, isinstance(column, str), "must be a column's name")
    unit = given.get("price_unit", 1)
    check(
        "price_unit", unit, type(unit) in (int, float) and 0 < unit <= 1e6, "must be a number of USD a unit"
    )
    for key in ("source", "time_zone"):
        value = given.get(key, "UTC")
        check(key, value, isinstance(value, str) and value != "", "must be text")
    vocabulary = given.get("condition_vocabulary", "nanex")
    check("condition_vocabulary", vocabulary, vocabulary in ("nanex", "massive"), "must be nanex or massive")
    check(
        "time_zone",
        given.get("time_zone"),
        _is_zone(given.get("time_zone", "UTC")),
        "no time zone of this name",
    )
    return Mapping(**given)


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


class Table(Protocol):
    """A table read in pieces. `price_unit` is in USD, from the file's metadata if they have it."""

    path: Path
    schema: dict[str, pl.DataType]
    price_unit: float

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        """Yield pieces of at most `max_rows` rows. Raises `TapeError`."""
        ...


def is_columnar(start: bytes) -> bool:
    """Return whether a file's first bytes are those of Parquet or Arrow."""
    return start.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM))


def open_table(path: Path) -> Table:
    """Return a table, opened by its content. Raises `TapeError`."""
    start = head(path)
    if start.startswith(_ARROW_STREAM):
        return _ArrowStream(path)
    if is_columnar(start):
        kind = "Parquet" if start.startswith(_PARQUET) else "Arrow"
        with path.open("rb") as raw:
            if raw.read(4) != start[:4]:
                raise TapeError(f"{path.name}: {kind} inside gzip or zstd; decompress it first")
        return _Scanned(path, kind)
    return _Text(path)


class _Named:
    """A table without a column of symbols, with a column `symbol` that holds one symbol in every row."""

    def __init__(self, table: Table, symbol: str) -> None:
        self._table, self._symbol = table, symbol
        self.path, self.price_unit = table.path, table.price_unit
        self.schema = {**table.schema, "symbol": pl.String()}

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        """Return the table's pieces with the column `symbol`."""
        kept = [name for name in columns if name != "symbol"]
        for chunk in self._table.chunks(kept, rejects, notes, max_rows):
            frame = chunk.frame.with_columns(pl.lit(self._symbol).alias("symbol"))
            yield Chunk(frame, chunk.rows, chunk.done)


def named(table: Table, symbol: str | None, names: Collection[str]) -> Table:
    """Return a table with a given symbol in every row.

    `names` are those of the table's and of its mapping's columns. Raises `UsageError` where they have a symbol already.
    """
    if symbol is None:
        return table
    if not {"symbol", "root", "ticker"}.isdisjoint(names):
        check_unnamed(table.path, symbol)
    return _Named(table, symbol)


class Texts:
    """A Parquet or Arrow file read like a CSV file: every column as text, the items of lists separated by commas."""

    def __init__(self, path: Path, expected: str, required: Sequence[str]) -> None:
        """Read the schema. Raises `TapeError` if a column of `required` is missing; `expected` is as for `Csv`."""
        self._table = open_table(path)
        self.path, self.names = path, list(self._table.schema)
        if missing := [name for name in required if name not in self.names]:
            raise TapeError(f"{path.name}: expected {expected}; no column {', '.join(missing)}")

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        """Yield the file's rows with those of `columns` that it has."""
        wanted = [name for name in self.names if name in columns]
        for chunk in self._table.chunks(wanted, rejects, notes, max_rows):
            texts = [_text(chunk.frame[name]) for name in wanted]
            yield Chunk(chunk.frame.with_columns(texts), chunk.rows, chunk.done)


def _text(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.List):
        values = values.list.eval(pl.element().cast(pl.String)).list.join(",")
        return values.replace("", None)
    if isinstance(values.dtype, pl.Datetime):
        values = values.dt.cast_time_unit("ns").to_physical()
    return values.cast(pl.String, strict=False)


def columns_of(path: Path, start: bytes) -> list[str]:
    """Return the names of a table's columns. For a text that is no table, these are the parts of its first line."""
    return list(open_table(path).schema) if is_columnar(start) else header_of(start)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise TapeError(f"{path.name}: truncated or corrupt {kind}: {str(error).splitlines()[0]}") from None


class _Text:
    price_unit = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._csv = Csv(path, "a table of prints (Parquet, Arrow or CSV)", ())
        self.schema: dict[str, pl.DataType] = dict.fromkeys(self._csv.named, pl.String())

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        return self._csv.chunks(columns, rejects, notes, max_rows)


class _Scanned:
    """A Parquet or Arrow IPC file, of which Polars can read any range of rows."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self._kind = path, kind
        self.price_unit = 1.0
        with _reading(path, kind):
            self._scan = (
                pl.scan_parquet(path, glob=False) if kind == "Parquet" else pl.scan_ipc(path, glob=False)
            )
            self.schema: dict[str, pl.DataType] = dict(self._scan.collect_schema())
            if kind == "Parquet":
                self.price_unit = _unit(path, pl.read_parquet_metadata(path).get("price_unit", "1"))

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        with _reading(self.path, self._kind):
            height = self._scan.select(pl.len()).collect().item()
        if not height:
            raise TapeError(f"{self.path.name}: no rows")
        wanted = self._scan.select(columns)

        def frames() -> Iterator[tuple[int, pl.DataFrame]]:
            for start in range(0, height, max_rows):
                with _reading(self.path, self._kind):
                    yield start, wanted.slice(start, max_rows).collect()

        # While one piece is checked and summed, the next is decoded.
        for start, frame in ahead(frames()):
            yield Chunk(_numbered(frame, start), frame.height, (start + frame.height) / height)


def _unit(path: Path, text: str) -> float:
    try:
        unit = float(text)
    except ValueError:
        unit = 0.0
    if not 0 < unit <= 1e6:
        raise TapeError(f"{path.name}: price_unit {text!r} in the file's metadata is not a number of USD")
    return unit


def _numbered(frame: pl.DataFrame, before: int) -> pl.DataFrame:
    rows = pl.int_range(before + 1, before + frame.height + 1, dtype=pl.Int64, eager=True)
    return frame.with_columns(rows.alias(ROW))


class _ArrowStream:
    """An Arrow IPC stream, compressed or not, read one record batch at a time."""

    price_unit = 1.0

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_stream(path) as stream, _reading(path, "Arrow stream"):
            first = next(self._messages(stream), (0, b""))
            if first[0] != _SCHEMA_MESSAGE:
                raise TapeError(f"{path.name}: an Arrow stream without a schema")
            self.schema: dict[str, pl.DataType] = dict(_frame([first[1]]).schema)

    def chunks(
        self, columns: Sequence[str], rejects: Rejects, notes: Counter[str], max_rows: int
    ) -> Iterator[Chunk]:
        row = 0
        context: list[bytes] = []
        with open_stream(self.path) as stream:
            for kind, message in self._messages(stream):
                if kind != _RECORDS:
                    context.append(message)
                    continue
                with _reading(self.path, "Arrow stream"):
                    frame = _frame([*context, message]).select(columns)
                for part in frame.iter_slices(max_rows):
                    yield Chunk(_numbered(part, row), part.height, stream.done)
                    row += part.height
        if not row:
            raise TapeError(f"{self.path.name}: no rows")

    def _messages(self, stream: Stream) -> Iterator[tuple[int, bytes]]:
        """Yield the kind and bytes of each message (Arrow columnar format, "Encapsulated message format")."""
        while start := stream.read(8):
            length = int.from_bytes(start[4:], "little")
            if start[:4] == _ARROW_STREAM and length == 0:
                return
            header = stream.read(length)
            if start[:4] != _ARROW_STREAM or len(header) < length:
                raise TapeError(f"{self.path.name}: truncated or corrupt Arrow stream")
            kind, size = _message_of(header)
            body = stream.read(size)
            if len(body) < size:
                raise TapeError(f"{self.path.name}: truncated Arrow stream")
            yield kind, start + header + body


def _frame(messages: Sequence[bytes]) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(b"".join(messages) + _END_OF_STREAM))


def _message_of(header: bytes) -> tuple[int, int]:
    """Return the kind of an Arrow message and the length of its body, fields 1 and 3 of its flatbuffer table."""

    def integer(at: int, size: int) -> int:
        return int.from_bytes(header[at : at + size], "little", signed=size > 2)

    table = integer(0, 4)
    fields = table - integer(table, 4)
    # A flatbuffer table omits its last fields if they all have their defaults.
    held = integer(fields, 2)
    kind, size = (integer(fields + at, 2) if at < held else 0 for at in (4 + 2 * 1, 4 + 2 * 3))
    return (integer(table + kind, 1) if kind else 0), (integer(table + size, 8) if size else 0)
