"""Read files as prints. Each format has one module; this one defines what a reader returns and finds the right one.

A reader is a function `read(files, options) -> list[Tape]`. A new format is one module with `read` and `matches`, and
one line in `FORMATS`.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.errors import RowError, TapeError, UsageError
from flowtape.model.conditions import without_official
from flowtape.model.prints import is_symbol
from flowtape.orderflow.identity import Copies

FORMATS = {
    "cboe": "flowtape.readers.cboe",
    "databento": "flowtape.readers.databento",
    "thetadata": "flowtape.readers.thetadata",
    "massive": "flowtape.readers.massive",
    "table": "flowtape.readers.table",
}
"""The module of each format. The format of a file is guessed in this order; `table` matches what no vendor's does."""

NAMEABLE = ("thetadata", "table")
"""Formats that have files without a symbol."""
BATCH_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Reject:
    """One bad row: the file name, the number of the row (from 1, without the header), and the reason."""

    file: str
    row: int
    reason: str

    @property
    def shown(self) -> str:
        """Return the row as a message that names it as the first bad one."""
        return f"the first is {self.file}, row {self.row}: {self.reason}"


@dataclass(slots=True)
class Rejects:
    """The bad rows of a tape: their number by reason, and the first of them with their row numbers."""

    strict: bool = False
    keep: int = 1000
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: list[Reject] = field(default_factory=list)
    remarks: dict[str, tuple[int, Reject]] = field(default_factory=dict)
    """Rows that were kept without an unusable value: their number by reason, and the first of them."""
    earliest: Reject | None = None
    """The first bad row of its file."""

    def add(
        self,
        file: str,
        rows: Sequence[int] | npt.NDArray[np.int64],
        reason: str,
        values: Sequence[object] | None = None,
    ) -> None:
        """Count bad rows, given by ascending numbers; `values` holds the bad value of each."""
        if not len(rows):
            return
        for place, row in enumerate(map(int, rows[: max(1, self.keep - len(self.first))])):
            reject = Reject(file, row, reason if values is None else f"{reason}: {values[place]!r}")
            if len(self.first) < self.keep:
                self.first.append(reject)
            found = self.earliest
            if found is None or (found.file == file and row < found.row):
                self.earliest = reject
        self.count += len(rows)
        self.reasons[reason] += len(rows)

    def remark(self, file: str, rows: Sequence[int], reason: str, values: Sequence[object]) -> None:
        """Count rows that are kept without an unusable value."""
        if rows:
            count, first = self.remarks.get(reason, (0, Reject(file, rows[0], repr(values[0]))))
            self.remarks[reason] = count + len(rows), first

    def check(self) -> None:
        """In a strict read, raise `RowError` for the first bad row of its file, if there is one."""
        if self.strict and self.earliest is not None:
            raise RowError(self.earliest.file, self.earliest.row, self.earliest.reason)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prints (`prints.SCHEMA`), the number of data rows read for them, and the share of the tape read so far."""

    prints: pl.DataFrame
    rows: int
    done: float


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a read.

    `strict` stops at the first bad row. `mapping` is a TOML file for the format `table`. `source` replaces the name of
    the tape's source. `symbol` is the symbol of all rows, for files that carry none.
    """

    strict: bool = False
    mapping: Path | None = None
    source: str | None = None
    symbol: str | None = None
    batch_rows: int = BATCH_ROWS


@dataclass(slots=True)
class Tape:
    """A tape: its source, its files and its batches, which can be iterated once.

    `notes` counts remarkable but valid rows (with an unknown condition number, for example). `corrections` counts rows
    that were left out because their source marks them as replaced or withdrawn, `official` rows that repeat a print as
    an official price. If `identified`, the reader sets `copy` from what its source says of each row; else `open_tapes`
    numbers equal rows.
    """

    source: str
    format: str
    files: tuple[Path, ...]
    batches: Iterator[Batch]
    rejects: Rejects
    notes: Counter[str] = field(default_factory=Counter)
    corrections: Counter[str] = field(default_factory=Counter)
    official: int = 0
    identified: bool = False
    kept: int = 0
    """The number of prints in the batches so far."""

    def __post_init__(self) -> None:
        self.batches = _checked(self, self.batches)

    @property
    def name(self) -> str:
        """Return the file names, for messages."""
        return ", ".join(path.name for path in self.files)

    @property
    def nothing_read(self) -> str | None:
        """Return a message if the tape has been read and all its rows are bad; else None."""
        first = self.rejects.earliest
        if self.kept or first is None:
            return None
        return f"{self.name}: none of {self.rejects.count:,} rows is a print; {first.shown}"


Read = Callable[[Sequence[Path], Options], "list[Tape]"]
Matches = Callable[[Path, bytes], bool]


def open_tapes(
    paths: Sequence[str | Path], format: str | None = None, options: Options | None = None
) -> list[Tape]:
    """Open files as tapes.

    Files that belong together (trades with their quotes or definitions) become one tape. Other files become one tape
    each, in the order given.

    Args:
        paths: the files.
        format: a name in `FORMATS`; by default the format of each file is guessed from its content. A mapping implies
            the format `table`.
        options: the options of the read.

    Raises:
        UsageError: the format is unknown, or a mapping is given with another format than `table`.
        TapeError: a file is missing, empty or of no known format.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"format: {format!r} is not one of {', '.join(FORMATS)}")
    options = options or Options()
    if options.symbol is not None:
        symbol = options.symbol.upper() if isinstance(options.symbol, str) else ""
        if not is_symbol(symbol):
            raise UsageError(f"symbol: {options.symbol!r} is not a symbol such as SPY or BRK.B")
        options = replace(options, symbol=symbol)
    if options.mapping is not None:
        if format not in (None, "table"):
            raise UsageError(f"mapping: goes with the format table, not with {format}")
        known: str | None = "table"
    else:
        known = format
    groups: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        groups.setdefault(known or guess(path, named=options.symbol is not None), []).append(path)
    tapes: list[Tape] = []
    for name, files in groups.items():
        if options.symbol is not None and name not in NAMEABLE:
            raise UsageError(
                f"symbol: {files[0].name} is of the format {name}, whose files name their symbols"
            )
        tapes += importlib.import_module(FORMATS[name]).read(files, options)
    for tape in tapes:
        tape.batches = _identified(tape, tape.batches)
    return tapes


def _identified(tape: Tape, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield batches without rows that repeat a print, which are noted and counted, and with equal rows numbered over
    the whole tape."""
    copies = Copies(tape.name)
    for batch in batches:
        prints = without_official(batch.prints, tape.notes)
        tape.official += batch.prints.height - prints.height
        yield replace(batch, prints=prints if tape.identified else copies.number(prints))


def _checked(tape: Tape, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of a tape, in a strict read up to its first bad row. Remarks are added to the tape's notes."""
    rejects = tape.rejects
    try:
        for batch in batches:
            rejects.check()
            tape.kept += batch.prints.height
            yield batch
    except TapeError:
        # A bad row before the fault is reported first.
        rejects.check()
        raise
    rejects.check()
    for reason, (count, first) in rejects.remarks.items():
        tape.notes[f"{reason} (the first: {first.file}: row {first.row}: {first.reason})"] += count


def guess(path: Path, *, named: bool = False) -> str:
    """Return the format of a file, guessed from its content.

    With `named`, the symbol of its rows is given, and a table needs no column for it. Raises `TapeError` if no format
    matches.
    """
    from flowtape.readers.common import head
    from flowtape.readers.delimited import check_encoding, header_of, separated_by

    start = head(path)
    for name, module in FORMATS.items():
        if importlib.import_module(module).matches(path, start):
            return name
    check_encoding(path.name, start)
    names = header_of(start)
    if {"ts", "price", "size"} <= set(names):
        if named:
            return "table"
        raise TapeError(
            f"{path.name}: a table of prints without a column symbol; name its symbol with --symbol"
        )
    seen = f"; its first line has {len(names)} names between {separated_by(start)}" if len(names) > 1 else ""
    raise TapeError(
        f"{path.name}: not a tape of a known format ({', '.join(FORMATS)}){seen}; name the format with --format, or,"
        " for a table with column names of its own, its columns with --mapping (docs/how-to/csv.md)"
    )
