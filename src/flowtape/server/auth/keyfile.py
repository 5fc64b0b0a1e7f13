"""The SQLite file of a node: keys, and the requests of each key by UTC day.

Any number of processes on the machine may share it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flowtape.errors import StoreError
from flowtape.files import Held
from flowtape.server.auth.keys import Key, label_taken, plan_named
from flowtape.settings import need_folder

_KEYS = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, plan TEXT NOT NULL, label TEXT NOT NULL,
    created INTEGER NOT NULL, revoked INTEGER
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS live_labels ON keys (label) WHERE revoked IS NULL AND label != '';
CREATE TABLE IF NOT EXISTS changes (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO changes VALUES (1, 0);
"""
_USAGE = """
CREATE TABLE IF NOT EXISTS usage (
    key TEXT NOT NULL, day INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (key, day)
) STRICT, WITHOUT ROWID;
"""
_RESERVE = """
INSERT INTO usage VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET used = used + ?3 WHERE used + ?3 <= ?4 RETURNING used
"""
_ADD = "INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET used = used + excluded.used"


class FileLedger:
    """The keys of a file (`keys.Ledger`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db, self._held = _open(path, _KEYS)

    def version(self) -> int:
        """Return a number that changes whenever a key is made or revoked."""
        with _errors(self._path):
            return int(self._db.execute("SELECT number FROM changes").fetchall()[0][0])

    def read(self) -> dict[bytes, Key]:
        """Return the valid keys by their SHA-256."""
        with _errors(self._path):
            rows = self._db.execute("SELECT digest, id, plan, label, created FROM keys WHERE revoked IS NULL")
            return {
                row[0]: Key(id=row[1], plan=plan_named(row[2]), label=row[3], created=row[4]) for row in rows
            }

    def add(self, digest: bytes, key: Key) -> None:
        """Store a key. Raises `UsageError` if a valid key has its label."""
        row = (key.id, digest, key.plan, key.label, key.created)
        try:
            with _errors(self._path), self._change():
                self._db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, NULL)", row)
        except sqlite3.IntegrityError:
            raise label_taken(key.label) from None

    def revoke(self, key: Key, at: int) -> None:
        """Make a key invalid; `at` is ns since 1970 UTC."""
        with _errors(self._path), self._change():
            self._db.execute("UPDATE keys SET revoked = ? WHERE id = ?", (at, key.id))

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._held.release()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """A transaction after which other processes see that the keys have changed."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("UPDATE changes SET number = number + 1")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


class FileCounts:
    """Requests by key and UTC day, in a file. Raises `StoreError` if it cannot be opened, read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db, self._held = _open(path, _USAGE)
        self.unfolded = False
        """Whether SQLite's write-ahead log holds counts that are not in the file itself."""

    def counted(self, day: int) -> dict[str, int]:
        """Return the requests of each key on a day."""
        with _errors(self._path):
            rows = self._db.execute("SELECT key, used FROM usage WHERE day = ?", (day,))
            return dict(rows.fetchall())

    def get(self, key: str, day: int) -> int:
        """Requests of a key on a day."""
        with _errors(self._path):
            rows = self._db.execute("SELECT used FROM usage WHERE key = ? AND day = ?", (key, day)).fetchall()
        return int(rows[0][0]) if rows else 0

    def reserve(self, key: str, day: int, many: int, limit: int) -> int | None:
        """Count requests of a key before they are made, if at most `limit` (≥ `many`) are counted with them.

        Returns the count with them, None if they would exceed the limit. They are in the file before this returns,
        so they outlive the process, and the count is exact for any number of processes.
        """
        with _errors(self._path):
            rows = self._db.execute(_RESERVE, (key, day, many, limit)).fetchall()
        self.unfolded = True
        return int(rows[0][0]) if rows else None

    def write(self, batch: dict[tuple[str, int], int]) -> None:
        """Add requests by key and day (negative for unused reservations), and merge SQLite's log into the file.

        Written entries are removed from the batch. Runs in any thread.
        """
        self.unfolded = False
        with _errors(self._path), closing(_connect(self._path)) as db:
            if batch:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(_ADD, [(name, day, number) for (name, day), number in batch.items()])
                db.execute("COMMIT")
                batch.clear()
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close the file. May be called again."""
        self._db.close()
        self._held.release()


def _open(path: Path, schema: str) -> tuple[sqlite3.Connection, Held]:
    """Open the file with the tables of `schema`; create it if it does not exist."""
    with _errors(path):
        need_folder(path)
        _make(path)
        held = Held(path)
        try:
            db = _connect(path)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(schema)
            except BaseException:
                db.close()
                raise
        except BaseException:
            held.release()
            raise
        return db, held


def _make(path: Path) -> None:
    """Create the file, readable by its owner only from the first moment, or check the existing one by its path.

    An existing file is never opened here: this process may have it open in SQLite, and closing another descriptor
    of it would drop SQLite's locks (see `files.Held`).
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise OSError("it is not a regular file") from None
        if mode & 0o077:
            # SQLite gives its -wal and -shm files the mode of the file itself.
            path.chmod(0o600)


def _connect(path: Path) -> sqlite3.Connection:
    # No automatic checkpoint, which would sync the disk within a request; `FileCounts.write` does it.
    db = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    return db


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"the file of keys and counts {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: OSError | sqlite3.Error) -> str:
    """Return the reason of an error for people: SQLite does not say whether it could not use the file or its
    folder."""
    reason = getattr(error, "strerror", None) or str(error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return f"{reason}; the file and its folder {path.parent} must be writable (SQLite keeps a -wal file beside it)"
    return reason
