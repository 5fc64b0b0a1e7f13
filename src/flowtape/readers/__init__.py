"""Files → prints. One module a format; this one says what a reader gives and finds the right one.

A reader is a function `read(files, options) -> Tape`; a new format is one module with `read` and `matches`
and one line in `FORMATS`.
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
from flowtape.orderflow.identity import Copies

FORMATS = {
    "cboe": "flowtape.readers.cboe",
    "databento": "flowtape.readers.databento",
    "thetadata": "flowtape.readers.thetadata",
    "massive": "flowtape.readers.massive",
    "table": "flowtape.readers.table",
}
"""Format name → module. Guessing asks each in this order; `table` takes what no vendor's format claims."""

BATCH_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Reject:
    """One row left out: file name, 1-based data row (a header is no row), and why."""

    file: str
    row: int
    reason: str

    @property
    def shown(self) -> str:
        """The row, as the first of those left out, for a message."""
        return f"the first is {self.file}, row {self.row}: {self.reason}"


@dataclass(slots=True)
class Rejects:
    """The rows a reader left out: how many, why, and the first of them with their numbers."""

    strict: bool = False
    keep: int = 1000
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: list[Reject] = field(default_factory=list)
    remarks: dict[str, tuple[int, Reject]] = field(default_factory=dict)
    """Rows that were kept without a value that cannot be used: how many by reason, and the first of them."""
    earliest: Reject | None = None
    """The bad row that comes first in its file."""

    def add(
        self,
        file: str,
        rows: Sequence[int] | npt.NDArray[np.int64],
        reason: str,
        values: Sequence[object] | None = None,
    ) -> None:
        """Count bad rows, numbers ascending; `values` names the offending value of each that is kept."""
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
        """Count rows that are kept without a value that cannot be used."""
        if rows:
            count, first = self.remarks.get(reason, (0, Reject(file, rows[0], repr(values[0]))))
            self.remarks[reason] = count + len(rows), first

    def check(self) -> None:
        """Raise `RowError` for the bad row that comes first in its file, in a strict read that found one."""
        if self.strict and self.earliest is not None:
            raise RowError(self.earliest.file, self.earliest.row, self.earliest.reason)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prints in `prints.SCHEMA`, the number of data rows they came of, and the share of the tape read so far."""

    prints: pl.DataFrame
    rows: int
    done: float


@dataclass(frozen=True, slots=True)
class Options:
    """How to read: `strict` stops at the first bad row, `mapping` is a TOML file for `table`, `source`
    overrides the name of where the tape comes from."""

    strict: bool = False
    mapping: Path | None = None
    source: str | None = None
    batch_rows: int = BATCH_ROWS


@dataclass(slots=True)
class Tape:
    """One readable tape: where it comes from, its files, and its batches, which can be iterated once.

    `notes` counts what was kept but deserves a word (an unmapped condition number, say); `corrections` counts rows that
    are left out since their source marks them as replaced or taken back, `official` those that repeat a print as an
    official price. `identified` says that the reader gives `copy` itself, by what its source tells of each row; else
    `open_tapes` numbers equal rows.
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
    """Prints in the batches so far."""

    def __post_init__(self) -> None:
        self.batches = _checked(self, self.batches)

    @property
    def name(self) -> str:
        """The file names, for messages."""
        return ", ".join(path.name for path in self.files)

    @property
    def nothing_read(self) -> str | None:
        """What to say of a tape that has been read and of which every row is bad; None of any other."""
        first = self.rejects.earliest
        if self.kept or first is None:
            return None
        return f"{self.name}: none of {self.rejects.count:,} rows is a print; {first.shown}"


Read = Callable[[Sequence[Path], Options], "list[Tape]"]
Matches = Callable[[Path, bytes], bool]


def open_tapes(
    paths: Sequence[str | Path], format: str | None = None, options: Options | None = None
) -> list[Tape]:
    """Open files as tapes, guessing each file's format from its content unless `format` is given.

    Files that belong together (trades with their quotes or definitions) become one tape; others one each,
    in the order given. A mapping implies the format `table`. Raises `UsageError` for an unknown format or a
    mapping with another one, `TapeError` for a file that is missing, empty or of no known format.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"format: {format!r} is none of {', '.join(FORMATS)}")
    options = options or Options()
    if options.mapping is not None:
        if format not in (None, "table"):
            raise UsageError(f"mapping: goes with the format table, not with {format}")
        known: str | None = "table"
    else:
        known = format
    groups: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        groups.setdefault(known or guess(path), []).append(path)
    tapes: list[Tape] = []
    for name, files in groups.items():
        tapes += importlib.import_module(FORMATS[name]).read(files, options)
    for tape in tapes:
        tape.batches = _identified(tape, tape.batches)
    return tapes


def _identified(tape: Tape, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches without the rows that repeat a print, which are noted and counted, and with equal rows numbered over all
    of the tape."""
    copies = Copies(tape.name)
    for batch in batches:
        prints = without_official(batch.prints, tape.notes)
        tape.official += batch.prints.height - prints.height
        yield replace(batch, prints=prints if tape.identified else copies.number(prints))


def _checked(tape: Tape, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of a tape up to its first bad row, if it is read strictly; its remarks are added to its notes."""
    rejects = tape.rejects
    try:
        for batch in batches:
            rejects.check()
            tape.kept += batch.prints.height
            yield batch
    except TapeError:
        # A bad row before the fault comes first.
        rejects.check()
        raise
    rejects.check()
    for reason, (count, first) in rejects.remarks.items():
        tape.notes[f"{reason} (the first: {first.file}: row {first.row}: {first.reason})"] += count


def guess(path: Path) -> str:
    """The format of a file, by its content. Raises `TapeError` where none fits."""
    from flowtape.readers.common import head
    from flowtape.readers.delimited import check_encoding, header_of, separated_by

    start = head(path)
    for name, module in FORMATS.items():
        if importlib.import_module(module).matches(path, start):
            return name
    check_encoding(path.name, start)
    names = header_of(start)
    seen = f"; its first line has {len(names)} names between {separated_by(start)}" if len(names) > 1 else ""
    raise TapeError(
        f"{path.name}: not a tape of a known format ({', '.join(FORMATS)}){seen}; name the format with --format, or,"
        " for a table with column names of its own, its columns with --mapping (docs/how-to/csv.md)"
    )
