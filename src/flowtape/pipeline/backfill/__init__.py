"""Backfill: many files into a store by parallel workers, planned by trading day, retried, and recorded in the
store.

Files that share a trading day make one task. Its files are ingested one after the other in the order given, with
the same reader and ingestor as `flowtape ingest`. No two tasks write the same day, so the stored prints do not
depend on the number or speed of the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from typing import NamedTuple

import msgspec

from flowtape.pipeline.backfill.files import File, Reading, find, units_of
from flowtape.pipeline.backfill.pools import Failed, Pool
from flowtape.pipeline.backfill.tasks import Done, Entry, Place, Survey, Task, carry_out, key_of, survey
from flowtape.storage import open_store

Unit = tuple[File, ...]


class Step(NamedTuple):
    """The progress of a backfill: the current step, the files done and in all, and the rows of those done."""

    doing: str
    done: int
    all: int
    rows: int


class Summary(msgspec.Struct):
    """The result of a backfill; `before` counts files that an earlier run ingested."""

    before: int
    done: list[Done]

    @property
    def failed(self) -> list[Done]:
        """Return the files that were not ingested."""
        return [one for one in self.done if one.error]


def backfill(
    place: Place,
    sources: Sequence[str],
    reading: Reading,
    pool: Pool,
    progress: Callable[[Step], None] = lambda step: None,
) -> Summary:
    """Ingest the files that no earlier run has ingested.

    A file that cannot be read, or whose worker was lost too often, is in the summary with its error; the others are
    ingested. Raises `TapeError` if a source names no file, `UsageError`, `StoreError`.
    """
    units = units_of(find(sources), reading)
    known = _journal(place, reading)
    open_units = [unit for unit in units if not _is_done(known, reading, unit)]
    done: list[Done] = []
    days = _surveyed(place, reading, open_units, known, pool, done, progress)
    tasks = plan([unit for unit in open_units if unit in days], days)
    rows = 0
    progress(Step("taking", 0, len(open_units), 0))
    for number, found in pool.run(carry_out, [(place, reading, task) for task in tasks]):
        taken: list[Done] = found
        if isinstance(found, Failed):
            taken = [Done(names(unit), error=found.reason, again=True) for unit in tasks[number].units]
        done += taken
        rows += sum(outcome.rows for one in taken for outcome in one.outcomes)
        progress(Step("taking", len(done), len(open_units), rows))
    order = {names(unit): number for number, unit in enumerate(units)}
    return Summary(len(units) - len(open_units), sorted(done, key=lambda one: order[one.files]))


def names(unit: Unit) -> tuple[str, ...]:
    """Return the names of a unit's files, as they were given."""
    return tuple(file.url for file in unit)


def plan(units: Sequence[Unit], days: dict[Unit, tuple[date, ...]]) -> list[Task]:
    """Return tasks, by their first day, such that no two tasks have a day in common."""
    root = {day: day for unit in units for day in days[unit]}

    def top(day: date) -> date:
        while root[day] != day:
            root[day] = root[root[day]]
            day = root[day]
        return day

    for unit in units:
        for day in days[unit][1:]:
            root[top(day)] = top(days[unit][0])
    tasks: dict[date, Task] = {}
    empty = []
    for unit in units:
        if not days[unit]:
            empty.append(Task([unit], []))
            continue
        task = tasks.setdefault(top(days[unit][0]), Task([], []))
        task.units.append(unit)
        task.days = sorted({*task.days, *days[unit]})
    return sorted(tasks.values(), key=lambda task: task.days[0]) + empty


def _journal(place: Place, reading: Reading) -> dict[str, Entry]:
    kept = open_store(place.store)
    try:
        found = kept.cursors(key_of(reading))
    finally:
        kept.close()
    return {name: msgspec.json.decode(text, type=Entry) for name, text in found.items()}


def _is_done(known: dict[str, Entry], reading: Reading, unit: Unit) -> bool:
    entry = known.get(key_of(reading, unit))
    return entry is not None and entry.of(unit) and entry.done


def _surveyed(
    place: Place,
    reading: Reading,
    units: Iterable[Unit],
    known: dict[str, Entry],
    pool: Pool,
    done: list[Done],
    progress: Callable[[Step], None],
) -> dict[Unit, tuple[date, ...]]:
    """Return the trading days of each readable unit; put the errors of the others into `done`."""
    days: dict[Unit, tuple[date, ...]] = {}
    ask: list[Unit] = []
    for unit in units:
        entry = known.get(key_of(reading, unit))
        if entry is not None and entry.of(unit):
            days[unit] = tuple(entry.days)
        else:
            ask.append(unit)
    fresh: dict[str, Entry] = {}
    progress(Step("looking for days", 0, len(ask), 0))
    for many, (number, found) in enumerate(pool.run(survey, [(reading, unit) for unit in ask]), 1):
        unit = ask[number]
        if isinstance(found, Survey) and not found.error:
            days[unit] = tuple(found.days)
            fresh[key_of(reading, unit)] = Entry(list(unit), found.days)
        elif isinstance(found, Survey):
            done.append(Done(names(unit), error=found.error))
        else:
            done.append(Done(names(unit), error=found.reason, again=True))
        progress(Step("looking for days", many, len(ask), 0))
    if fresh:
        _remember(place, fresh)
    return days


def _remember(place: Place, entries: dict[str, Entry]) -> None:
    kept = open_store(place.store)
    try:
        with kept.transaction():
            for name, entry in entries.items():
                kept.set_cursor(name, msgspec.json.encode(entry).decode())
    finally:
        kept.close()
