"""Read a whole tape, and list its bad rows."""

from pathlib import Path

import polars as pl

from flowtape.readers import Options, Tape, open_tapes

LATER = ("quote_seq", "quote_class", "copy", "corrects", "price_flags")
"""Columns that follow from a print's others."""


def read_all(*paths: Path, kind: str | None = None, **options: object) -> tuple[Tape, pl.DataFrame]:
    """Return the only tape of some files, and all its prints."""
    [tape] = open_tapes(paths, kind, Options(**options))
    frames = [batch.prints for batch in tape.batches]
    return tape, pl.concat(frames)


def faults(tape: Tape) -> list[tuple[int, str]]:
    """Return the rejected rows with their reasons, by row."""
    return sorted((reject.row, reject.reason) for reject in tape.rejects.first)
