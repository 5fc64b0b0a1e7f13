"""The SQLite file of a node: keys, and the requests each has made on each UTC day.

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
    """The keys of a file: see `keys.Ledger`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db, self._held = _open(path, _KEYS)

    def version(self) -> int:
        """See `Ledger.version`."""
        with _errors(self._path):
            return int(self._db.execute("SELECT number FROM changes").fetchall()[0][0])

    def read(self) -> dict[bytes, Key]:
        """See `Ledger.read`."""
        with _errors(self._path):
            rows = self._db.execute("SELECT digest, id, plan, label, created FROM keys WHERE revoked IS NULL")
            return {
                row[0]: Key(id=row[1], plan=plan_named(row[2]), label=row[3], created=row[4]) for row in rows
            }

    def add(self, digest: bytes, key: Key) -> None:
        """See `Ledger.add`."""
        row = (key.id, digest, key.plan, key.label, key.created)
        try:
            with _errors(self._path), self._change():
                self._db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, NULL)", row)
        except sqlite3.IntegrityError:
            raise label_taken(key.label) from None

    def revoke(self, key: Key, at: int) -> None:
        """See `Ledger.revoke`."""
        with _errors(self._path), self._change():
            self._db.execute("UPDATE keys SET revoked = ? WHERE id = ?", (at, key.id))

    def close(self) -> None:
        """See `Ledger.close`."""
        self._db.close()
        self._held.release()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """A transaction that tells other processes that the keys have changed."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("UPDATE changes SET number = number + 1")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


class FileCounts:
    """Requests by key and UTC day, in a file. Raises `StoreError` where it cannot be opened, read or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db, self._held = _open(path, _USAGE)
        self.unfolded = False
        """Whether SQLite's log holds counts that are not in the file itself."""

    def counted(self, day: int) -> dict[str, int]:
        """Requests of each key on a day."""
        with _errors(self._path):
            rows = self._db.execute("SELECT key, used FROM usage WHERE day = ?", (day,))
            return dict(rows.fetchall())

    def reserve(self, key: str, day: int, many: int, limit: int) -> int | None:
        """Count requests of a key before they are made, where with them no more than `limit` (≥ `many`) are counted.

        Returns how many are counted with them, None where they would be too many. They are in the file before this
        returns, so they outlive the process, and the count is exact however many processes share the file.
        """
        with _errors(self._path):
            rows = self._db.execute(_RESERVE, (key, day, many, limit)).fetchall()
        self.unfolded = True
        return int(rows[0][0]) if rows else None

    def write(self, batch: dict[tuple[str, int], int]) -> None:
        """Add requests by key and day, negative ones for what was reserved and not used, and fold SQLite's log into the
        file. What is written is taken from the batch. Runs in any thread."""
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
    """Open the file, made where there is none, with the tables of `schema`."""
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
    """Make the file, open to its owner alone from the first moment, or check the one that is there by its path.

    A file that is there is never opened here: this process may have it open in SQLite, and closing another descriptor
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
    # No automatic checkpoint: it would sync the disk in the middle of a request; `FileCounts.write` does it.
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
    """What is wrong, for people: SQLite does not say which of the file and its folder it could not use."""
    reason = getattr(error, "strerror", None) or str(error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return f"{reason}; the file and its folder {path.parent} must be writable (SQLite keeps a -wal file beside it)"
    return reason
