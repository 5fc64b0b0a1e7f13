"""Files into a store: one run of the reader and the engine, here or in the server that holds the store."""

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

SHOWN_REJECTS = 1000


class Request(msgspec.Struct, kw_only=True):
    """What to ingest and how; paths are absolute, as another process may carry it out."""

    files: list[str]
    format: str | None = None
    strict: bool = False
    replace: bool = False
    mapping: str | None = None
    source: str | None = None
    symbol: str | None = None


class RejectedRow(msgspec.Struct):
    """One row left out, and why."""

    file: str
    row: int
    reason: str


class RefusedDay(msgspec.Struct):
    """A symbol's day that comes from another source already."""

    asset: str
    symbol: str
    day: date
    held_by: str


class Outcome(msgspec.Struct, kw_only=True):
    """What became of one tape; the counts are those of `report.Report`."""

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
    """What to say of a tape of which every row is bad."""


class Step(msgspec.Struct):
    """How far a run is: the tape at hand, rows read of it, share of it read."""

    name: str
    rows: int
    done: float


def ingest(
    ingestor: Ingestor,
    request: Request,
    progress: Callable[[Step], None] = lambda step: None,
    stop: threading.Event | None = None,
) -> list[Outcome]:
    """Ingest files, tape by tape, then seal the days that are over.

    Raises what the readers and the engine raise; see `Ingestor.ingest`.
    """
    if request.strict:
        # A strict file is taken whole or not at all, and how it ends is only known at its end.
        for tape in _open(request):
            for batch in tape.batches:
                progress(Step(f"checking {tape.name}", 0, batch.done))
    outcomes = []
    for tape in _open(request):
        # Two processes that take the same rows at the same time would each find them new.
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
            # A store that is away refuses this too; what ended the run is what gets told.
            with suppress(StoreError):
                ingestor.store.release(f"files of {tape.source}")
            raise
        ingestor.store.release(f"files of {tape.source}")
        outcomes.append(outcome_of(tape, report))
    seal_closed(
        ingestor.store,
        time.time_ns(),
        lambda day, done: progress(Step(f"putting {day} in order", 0, done)),
        stop,
    )
    return outcomes


def _open(request: Request) -> list[Tape]:
    mapping = None if request.mapping is None else Path(request.mapping)
    options = Options(strict=request.strict, mapping=mapping, source=request.source, symbol=request.symbol)
    return open_tapes(request.files, request.format, options)


def outcome_of(tape: Tape, report: Report) -> Outcome:
    """What became of a tape, of its reader's counts and the engine's."""
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
