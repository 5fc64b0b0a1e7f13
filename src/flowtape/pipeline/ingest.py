"""Ingest of files into a store, by a command or by the server that holds the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import msgspec

from flowtape.errors import StoreError
from flowtape.orderflow.quotes import few_quotes
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.maintenance import seal_closed
from flowtape.pipeline.report import Report
from flowtape.readers import Options, Reject, Tape, open_tapes

BATCH_ROWS = 300_000
"""Rows of a batch: of a million a commit takes as long, and memory twice as much."""
SHOWN_REJECTS = 1000


class Request(msgspec.Struct, kw_only=True):
    """The files to ingest, and the options. Paths are absolute, since another process may carry it out."""

    files: list[str]
    format: str | None = None
    strict: bool = False
    replace: bool = False
    mapping: str | None = None
    source: str | None = None
    symbol: str | None = None


class RejectedRow(msgspec.Struct):
    """One rejected row, and the reason."""

    file: str
    row: int
    reason: str


class RefusedDay(msgspec.Struct):
    """A symbol's trading day that the store has from another source."""

    asset: str
    symbol: str
    day: date
    held_by: str


class Outcome(msgspec.Struct, kw_only=True):
    """The result of one tape; the counts are those of `report.Report`."""

    name: str
    source: str
    format: str
    rows: int
    added: int
    duplicates: int
    replaced_quotes: int
    corrections: int
    official: int
    rejected: int
    refused: int
    cancels: int
    removed: int
    unquoted: int
    warnings: list[str]
    reasons: dict[str, int]
    notes: dict[str, int]
    first: list[RejectedRow]
    refusals: list[RefusedDay]
    nothing_read: str | None = None
    """The error message of a tape without a valid row."""


class Step(msgspec.Struct):
    """The progress of a run: the current tape, its rows so far, and the share of it that is read."""

    name: str
    rows: int
    done: float


def ingest(
    ingestor: Ingestor,
    request: Request,
    progress: Callable[[Step], None] = lambda step: None,
    stop: threading.Event | None = None,
) -> list[Outcome]:
    """Ingest files, one tape after the other, then seal the days that are closed.

    Returns one outcome per tape. Raises `TapeError`, `UsageError` and `StoreError`, as the readers and
    `Ingestor.ingest` do.
    """
    if request.strict:
        # A strict file is ingested whole or not at all, so it is read to its end first.
        for tape in _open(request):
            for batch in tape.batches:
                progress(Step(f"checking {tape.name}", 0, batch.done))
    outcomes = []
    for tape in _open(request):
        # A lease: two processes that ingest the same rows at the same time would both add them.
        ingestor.store.take_over(f"files of {tape.source}")
        try:
            with ingestor.store.bulk():
                report = ingestor.ingest(
                    tape,
                    replace=request.replace,
                    progress=lambda report, done, name=tape.name: progress(Step(name, report.rows, done)),  # type: ignore[misc]
                    stop=stop,
                )
        except BaseException:
            # An unreachable store refuses the release too; the first error is the one to raise.
            with suppress(StoreError):
                ingestor.store.release(f"files of {tape.source}")
            raise
        ingestor.store.release(f"files of {tape.source}")
        outcomes.append(outcome_of(tape, report))
    seal_closed(
        ingestor.store,
        time.time_ns(),
        lambda day, done: progress(Step(f"sealing {day}", 0, done)),
        stop,
    )
    return outcomes


def _open(request: Request) -> list[Tape]:
    mapping = None if request.mapping is None else Path(request.mapping)
    options = Options(
        strict=request.strict,
        mapping=mapping,
        source=request.source,
        symbol=request.symbol,
        batch_rows=BATCH_ROWS,
    )
    return open_tapes(request.files, request.format, options)


def outcome_of(tape: Tape, report: Report) -> Outcome:
    """Return the outcome of a tape from its reader's counts and the ingestor's report."""
    refusals = sorted(report.refusals, key=lambda refusal: (refusal.day, refusal.asset, refusal.symbol))
    return Outcome(
        name=tape.name,
        source=tape.source,
        format=tape.format,
        rows=report.rows,
        added=report.added,
        duplicates=report.duplicates,
        replaced_quotes=report.replaced_quotes,
        corrections=report.corrections,
        official=report.official,
        rejected=report.rejected,
        refused=report.refused,
        cancels=report.cancels,
        removed=report.removed,
        unquoted=report.unquoted,
        warnings=[text for text in (few_quotes(report.unquoted, report.counted),) if text],
        reasons=dict(tape.rejects.reasons),
        notes=dict(report.notes),
        first=[_row(reject) for reject in tape.rejects.first[:SHOWN_REJECTS]],
        nothing_read=tape.nothing_read,
        refusals=[RefusedDay(one.asset, one.symbol, one.day, one.held_by) for one in refusals],
    )


def _row(reject: Reject) -> RejectedRow:
    return RejectedRow(reject.file, reject.row, reject.reason)
