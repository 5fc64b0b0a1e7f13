"""The work of a backfill's worker: finds the trading days of files, and ingests the files of one task."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import msgspec

from flowtape.errors import FlowtapeError, NothingRead, StoreError, TakenOver
from flowtape.model.prints import trading_days
from flowtape.pipeline.backfill.files import File, Reading, near, options
from flowtape.pipeline.ingest import Outcome, outcome_of
from flowtape.pipeline.ingestor import Ingestor
from flowtape.readers import open_tapes
from flowtape.storage import Store, open_store, shared

SHOWN = 20
"""Rejected rows and refused days of a tape that the journal keeps."""
_mine = threading.local()


@dataclass(frozen=True, slots=True)
class Place:
    """The store of a backfill. Its name may hold a password, so no text of this object shows it."""

    store: str = field(repr=False)
    max_quote_age: float | None = None


class Task(msgspec.Struct):
    """Units that are ingested one after the other, and their trading days."""

    units: list[tuple[File, ...]]
    days: list[date]


class Survey(msgspec.Struct):
    """The trading days of a unit, rising, or the reason why it cannot be read."""

    days: list[date]
    error: str = ""


class Done(msgspec.Struct):
    """The result of a unit: the outcomes of its tapes, or an error. `again` is set if another run may succeed."""

    files: tuple[str, ...]
    outcomes: list[Outcome] = []
    error: str = ""
    again: bool = False


class Entry(msgspec.Struct):
    """The journal's entry of a unit: its files, its days, and its result."""

    files: list[File]
    days: list[date]
    done: bool = False
    outcomes: list[Outcome] = []

    def of(self, unit: Sequence[File]) -> bool:
        """Return whether the files are unchanged."""
        return tuple(self.files) == tuple(unit)


def key_of(reading: Reading, unit: Sequence[File] = ()) -> str:
    """Return the key of a unit in the journal; without a unit, the prefix of all units with these options."""
    way = hashlib.sha256(msgspec.json.encode(reading)).hexdigest()[:12]
    return f"backfill {way} " + " ".join(file.url for file in unit)


def survey(reading: Reading, unit: tuple[File, ...]) -> Survey:
    """Read the trading days of a unit."""
    days: set[date] = set()
    try:
        with near(unit) as paths, options(reading) as asked:
            for tape in open_tapes(paths, reading.format, asked):
                for batch in tape.batches:
                    days.update(trading_days(batch.prints["ts"]).unique())
    except FlowtapeError as error:
        return Survey([], str(error))
    return Survey(sorted(days))


def carry_out(place: Place, reading: Reading, task: Task) -> list[Done]:
    """Ingest the units of a task that the journal does not have.

    Raises `StoreError` if another attempt may succeed. Committed prints stay, and the next attempt counts them as
    duplicates.
    """
    store = _store(place.store)
    try:
        for day in task.days:
            store.take_over(f"backfill of {day}")
        age = None if place.max_quote_age is None else timedelta(seconds=place.max_quote_age)
        ingestor = Ingestor(store, max_quote_age=age)
        found = [_take(ingestor, reading, unit, task.days) for unit in task.units]
        for day in task.days:
            store.release(f"backfill of {day}")
    except TakenOver as error:
        _let_go()
        return [Done(tuple(file.url for file in unit), error=str(error), again=True) for unit in task.units]
    except BaseException:
        _let_go()
        raise
    if not shared(place.store):
        _let_go()
    return found


def _take(ingestor: Ingestor, reading: Reading, unit: tuple[File, ...], days: list[date]) -> Done:
    name = key_of(reading, unit)
    told = ingestor.store.cursor(name)
    if told is not None:
        entry = msgspec.json.decode(told, type=Entry)
        if entry.of(unit) and entry.done:
            return Done(tuple(file.url for file in unit), entry.outcomes)
    outcomes: list[Outcome] = []
    try:
        with near(unit) as paths, options(reading) as asked:
            tapes = open_tapes(paths, reading.format, asked)
            outcomes.extend(outcome_of(tape, ingestor.ingest(tape)) for tape in tapes)
        for outcome in outcomes:
            if outcome.nothing_read is not None:
                raise NothingRead(outcome.nothing_read)
    except StoreError:
        raise
    except FlowtapeError as error:
        return Done(tuple(file.url for file in unit), outcomes, str(error))
    for outcome in outcomes:
        del outcome.first[SHOWN:], outcome.refusals[SHOWN:]
    with ingestor.store.transaction():
        entry = Entry(list(unit), days, done=True, outcomes=outcomes)
        ingestor.store.set_cursor(name, msgspec.json.encode(entry).decode())
    return Done(tuple(file.url for file in unit), outcomes)


def _store(name: str) -> Store:
    """Return this thread's store. A shared store stays open for the next task, since each opened one is another
    writer."""
    kept = getattr(_mine, "store", None)
    if kept is None or _mine.name != name:
        _let_go()
        kept = _mine.store = open_store(name)
        _mine.name = name
    found: Store = kept
    return found


def _let_go() -> None:
    kept, _mine.store = getattr(_mine, "store", None), None
    if kept is not None:
        kept.close()
