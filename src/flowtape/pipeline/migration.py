"""Migration of a store from an older format version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import polars as pl

from flowtape.errors import UsageError
from flowtape.model.prints import conform
from flowtape.pipeline.ingestor import Ingestor
from flowtape.pipeline.maintenance import seal_all
from flowtape.pipeline.provenance import SIMULATED
from flowtape.storage.duckdb import DuckStore
from flowtape.storage.duckdb_exchange import in_place_of, version_of
from flowtape.storage.duckdb_old import COLLAPSED, OldStore
from flowtape.storage.duckdb_tables import VERSION

Progress = Callable[[str, int, float], None]
"""Called with the current step, the prints so far and the share that is done."""


class Migrated(msgspec.Struct):
    """The result of a migration: the old version (empty if no migration was needed), the prints migrated, and the
    prints left out because they violate today's bounds."""

    version: str
    prints: int
    left_out: int


def migrate(path: Path, max_quote_age: timedelta | None, progress: Progress = lambda *told: None) -> Migrated:
    """Migrate an embedded store of version 2 or 3 to a new file, which then replaces it.

    The prints are ingested again, so sides, minute bars and removals are those of an ingested file. Prints of
    version 2 get the source `NAME (version 2)`, since the keys of a file's rows may differ today: `--replace`
    replaces them, and otherwise the file is refused. Cursors and prevailing quotes are kept. A run that was killed
    leaves the old file, and may be repeated. Raises `StoreError`, `StoreBusy`.
    """
    with in_place_of(path) as (connection, new):
        if version_of(connection) == VERSION:
            return Migrated("", 0, 0)
        old = OldStore(connection)
        many, done, left_out = old.count(), 0, 0
        store = DuckStore(new)
        try:
            ingestor = Ingestor(store, max_quote_age=max_quote_age)
            for rows in old.rows():
                for (source,), of_source in rows.partition_by("source", as_dict=True).items():
                    for prints in _accepted(of_source.drop("source")):
                        report = ingestor.take(prints, _name(str(source), old.version))
                        left_out += report.refused - prints.height
                done += rows.height
                left_out += rows.height
                progress("prints carried over", done, done / max(1, many))
            with store.transaction():
                for source, position in old.cursors():
                    store.set_cursor(source, position)
                    store.set_standing(source, old.standing(source))
            seal_all(store, lambda day, share: progress(f"sealing {day}", done, share))
        finally:
            store.close()
        return Migrated(old.version, done - left_out, left_out)


def _name(source: str, version: str) -> str:
    return f"{source} (version {version})" if version == COLLAPSED and source != SIMULATED else source


def _accepted(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the rows as prints, without those that violate today's bounds."""
    try:
        yield conform(rows)
    except UsageError:
        half = rows.height // 2
        if half:
            yield from _accepted(rows.head(half))
            yield from _accepted(rows.tail(rows.height - half))
