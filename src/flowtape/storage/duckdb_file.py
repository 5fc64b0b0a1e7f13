"""One DuckDB file: opening and closing it, its one writing transaction, and snapshots for readers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from flowtape.errors import StoreBusy, StoreError, UsageError
from flowtape.files import Held, private
from flowtape.settings import need_folder
from flowtape.storage import other_format
from flowtape.storage.catalog import SERIES, VENUES, Catalog, typed
from flowtape.storage.duckdb_tables import DDL, VERSION

CONFIG: dict[str, Any] = {
    # DuckDB would fetch an extension from the network where a name or a query seems to need one.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
CHECKPOINT_AT = 64_000_000
"""Bytes of the log at which a commit writes a checkpoint. It runs beside readers, since no statement updates rows."""
SERVING_MEMORY, BULK_MEMORY = "128MB", "600MB"
"""DuckDB's memory, which includes the blocks that it keeps at hand: of a server, and of bulk work beside it."""
CLOSE_WAIT = 5.0
"""Seconds that closing waits for a transaction to end."""
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
SNAPSHOT_SECONDS = 5.0
"""Seconds after which the next commit ends a snapshot."""
_TOO_LONG = (
    "the answer took so long to read that newer prints ended it; ask for fewer minutes, or again when the server is"
    " less busy"
)


class _Arrow:
    """A frame or a query's result shown by its Arrow C stream alone: DuckDB would ask for pyarrow if it knew
    the frame for what it is, and Polars would keep DuckDB's types alive past the interpreter's end."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


class _Snapshot:
    """The read transaction of one thread. `lock` is held while a query runs on it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reader: Any = None
        self.begun = 0.0
        self.expired = False

    def begin(self, reader: Any) -> None:
        """Begin the transaction on a connection."""
        self.reader, self.begun = reader, time.monotonic()
        reader.execute("BEGIN")

    def expire(self) -> None:
        """End it from another thread: its query is interrupted, and every later one refused."""
        self.expired = True
        if self.lock.acquire(blocking=False):
            try:
                self.end()
            finally:
                self.lock.release()
        else:
            self.reader.interrupt()

    def end(self) -> None:
        """Close the connection."""
        if self.reader is not None:
            with suppress(duckdb.Error):
                self.reader.close()


class DuckFile:
    """The part of a `Store` that opens one DuckDB file, writes in one transaction at a time and reads in snapshots."""

    def __init__(
        self,
        path: Path,
        read_only: bool = False,
        *,
        snapshot_seconds: float = SNAPSHOT_SECONDS,
        checkpoint_at: int = CHECKPOINT_AT,
    ) -> None:
        self.path = path
        self._snapshot_seconds, self._checkpoint_at = snapshot_seconds, checkpoint_at
        # Not one of a thread's own: who ends a transaction may not be who began it.
        self._write = threading.Lock()
        self._mine = threading.local()
        self._snapshots: set[_Snapshot] = set()
        self._bulk, self._bulk_lock = 0, threading.Lock()
        try:
            if not read_only:
                need_folder(path)
            if path.exists() and not path.is_file():
                raise OSError("it is not a regular file")
            with private():
                # Absolute: DuckDB takes what stands before a colon at the beginning for a kind of database.
                self._db = duckdb.connect(str(path.absolute()), read_only=read_only, config=CONFIG)
        except (duckdb.Error, OSError) as error:
            raise opening(path, error) from None
        self._held = Held(path)
        try:
            with private():
                self._prepare(read_only)
        except (duckdb.Error, StoreError) as error:
            self._db.close()
            self._held.release()
            raise opening(path, error) from None

    def _prepare(self, read_only: bool) -> None:
        # Statements that need an order name it; keeping the order of insertion costs a third of the write speed.
        self._db.execute(f"SET preserve_insertion_order = false; SET memory_limit = '{SERVING_MEMORY}'")
        self._db.execute(f"SET checkpoint_threshold = '{self._checkpoint_at}B'")
        tables = {row[0] for row in self._db.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        if not tables and not read_only:
            self._db.execute(f"BEGIN; {DDL} COMMIT")
        elif "meta" not in tables:
            raise StoreError("it is a DuckDB file, but not a flowtape store")
        (version,) = self._db.execute("SELECT value FROM meta WHERE name = 'version'").fetchall()[0]
        if version != VERSION:
            raise StoreError(other_format(version, VERSION))
        series = self._frame('SELECT series, asset, symbol, root, expiry, "right", symbol_id FROM series')
        venues = self._frame("SELECT venue, name FROM venues")
        self.catalog = Catalog.of(typed(series, SERIES), typed(venues, VENUES))

    def close(self) -> None:
        """Commit what DuckDB still holds back and release the file; a transaction that is open is undone."""
        self._stop_maintenance()
        free = self._write.acquire(timeout=CLOSE_WAIT)
        try:
            # What is committed is in the file or in its log, also where closing could not fold the log into the file.
            with suppress(duckdb.Error):
                self._db.close()
            self._held.release()
        finally:
            if free:
                self._write.release()

    def _stop_maintenance(self) -> None:
        """End what another thread does to the file."""

    def check(self) -> None:
        # DuckDB goes on reading a file that was taken from under it; what it then says would not outlive it.
        if not self.path.exists():
            raise StoreError(f"{self.path.name}: the store's file is gone")
        self._frame("SELECT value FROM meta")

    @contextmanager
    def bulk(self) -> Iterator[None]:
        with self._bulk_lock:
            self._bulk += 1
            self._limit_memory()
        try:
            yield
        finally:
            with self._bulk_lock:
                self._bulk -= 1
                self._limit_memory()

    def _limit_memory(self) -> None:
        limit = BULK_MEMORY if self._bulk else SERVING_MEMORY
        # More may be in use right now than the lower limit; the next bulk work sets it again.
        with suppress(duckdb.Error), self._cursor() as connection:
            connection.execute(f"SET memory_limit = '{limit}'")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._write:
            try:
                self._db.execute("BEGIN")
                yield
                # The write-ahead log is made here, where there is none yet.
                with private():
                    self._db.execute("COMMIT")
            except BaseException as error:
                self.catalog.rollback()
                self._forget_transaction()
                with suppress(duckdb.Error):  # the fault itself is what gets told
                    self._db.execute("ROLLBACK")
                if isinstance(error, duckdb.Error):
                    raise StoreError(f"{self.path.name}: {first_line(error)}") from error
                raise
            self.catalog.settle()
            self._end_old_snapshots()

    def _forget_transaction(self) -> None:
        """Hold no more than the store does, after a transaction was undone."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self._mine.snapshot = held = _Snapshot()
        try:
            yield
        finally:
            self._mine.snapshot = None
            self._snapshots.discard(held)
            held.end()

    def _one_state(self) -> AbstractContextManager[None]:
        """Let all reads within be of one state: that of the snapshot at hand, or of one for their time."""
        return nullcontext() if getattr(self._mine, "snapshot", None) else self.snapshot()

    def _end_old_snapshots(self) -> None:
        # Blocks of deleted rows are not used again while a reader may see these.
        oldest = time.monotonic() - self._snapshot_seconds
        for held in list(self._snapshots):
            if held.begun < oldest:
                held.expire()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Give a further connection to the database; DuckDB calls it a cursor."""
        cursor = self._db.cursor()
        try:
            yield cursor
        finally:
            with suppress(duckdb.Error):
                cursor.close()

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        """Give a connection that sees what is committed, within `snapshot` its state; it never waits for a writer."""
        held = getattr(self._mine, "snapshot", None)
        if held is None:
            with self._cursor() as reader:
                yield reader
            return
        with held.lock:
            if held.expired:
                raise StoreError(f"{self.path.name}: {_TOO_LONG}")
            if held.reader is None:
                held.begin(self._db.cursor())
                self._snapshots.add(held)
            try:
                yield held.reader
            except duckdb.InterruptException:
                raise StoreError(f"{self.path.name}: {_TOO_LONG}") from None

    def _frame(self, sql: str, own: bool = False, /, **frames: pl.DataFrame) -> pl.DataFrame:
        """Run a query over the store and the given frames; `own` sees the open transaction."""
        try:
            with nullcontext(self._db) if own else self._reader() as connection:
                return queried(connection, sql, frames)
        except duckdb.Error as error:
            raise StoreError(f"{self.path.name}: {first_line(error)}") from error

    def _run(self, sql: str, parameters: list[Any] | None = None, /, **frames: pl.DataFrame) -> None:
        """Run a statement in the open transaction."""
        try:
            for name, frame in frames.items():
                self._db.register(name, _Arrow(frame))
            self._db.execute(sql, parameters)
        finally:
            _let_go(self._db, frames)


def queried(connection: Any, sql: str, frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of a query over a connection and the given frames."""
    try:
        for name, frame in frames.items():
            connection.register(name, _Arrow(frame))
        return pl.DataFrame(_Arrow(connection.sql(sql)))
    finally:
        _let_go(connection, frames)


def _let_go(connection: Any, frames: Iterable[str]) -> None:
    """Take back the names of frames. A database that is invalid refuses that too, which must not hide its own error."""
    for name in frames:
        with suppress(duckdb.Error):
            connection.unregister(name)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return str(error).splitlines()[0]


def opening(path: Path, error: Exception) -> StoreError:
    """Return what is told where a file cannot be opened as a store."""
    text = first_line(error)
    if "lock" in text.lower() and "Could not set lock" in str(error):
        return StoreBusy(f"{path.name}: another process holds this store")
    if "sqlite_scanner" in text:
        text = "it is an SQLite file"
    return StoreError(f"{path.name}: cannot be opened as a store: {text}")


def check_reads(sql: str) -> None:
    """Raise `UsageError` unless a text is one statement of DuckDB that only reads."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise UsageError(f"query: {error}") from None
    if [one.type in _READING for one in statements] != [True]:
        raise UsageError(f"query: takes one statement that reads, such as SELECT, not {sql[:60]!r}")
