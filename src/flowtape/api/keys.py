"""API keys and their daily use, in one SQLite file beside the store.

Only the SHA-256 of a key is kept, so a key can be shown once, when it is made. Any number of processes may
hold the file: `flowtape keys` changes it while a server runs, and the server reads it again when the count
of changes has moved.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from flowtape.api.counts import SharedCounts
from flowtape.api.logs import event
from flowtape.errors import StoreError, UsageError
from flowtape.settings import PLANS, Plan, Settings

DAY = 86_400 * 10**9
"""Nanoseconds in a day; a day's number is the count of whole days since 1970, UTC."""
CHECK_EVERY = 0.25
"""Seconds between looks for keys made or revoked by another process."""
WRITE_EVERY = 1.0
"""Seconds between writes of the use of unlimited keys: what a kill can lose."""

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL UNIQUE, plan TEXT NOT NULL, label TEXT NOT NULL,
    created INTEGER NOT NULL, revoked INTEGER
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS live_labels ON keys (label) WHERE revoked IS NULL AND label != '';
CREATE TABLE IF NOT EXISTS usage (
    key TEXT NOT NULL, day INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (key, day)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO changes VALUES (1, 0);
"""
_SPEND = """
INSERT INTO usage VALUES (?, ?, 1)
ON CONFLICT DO UPDATE SET used = used + 1 WHERE used < ? RETURNING used
"""
_ADD = "INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET used = used + excluded.used"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: its short `id` and `label` are no secret; `created` is ns since 1970, UTC."""

    id: str
    plan: Plan
    label: str
    created: int
    stored: bool = True
    """False for a key that lives only in this process."""


def plan_named(name: str) -> Plan:
    """The plan of this name, in any case; raises `UsageError` naming the value."""
    for plan in PLANS:
        if plan.lower() == name.strip().lower():
            return plan
    raise UsageError(f"there is no plan {name!r}; plans are {', '.join(PLANS)}")


def keys_of(settings: Settings) -> Keys:
    """The keys that the settings name, counted where they say. Raises `StoreError`, `UsageError`."""
    shared = SharedCounts(settings.quotas) if settings.quotas else None
    return Keys(settings.keys_path, shared=shared)


class Keys:
    """The keys of one file, and the requests each has made on each UTC day: counted in that file, or in `shared`.

    `clock` gives ns since 1970, UTC. Raises `StoreError` where the file cannot be opened, read or written.
    """

    def __init__(
        self, path: Path, clock: Callable[[], int] = time.time_ns, shared: SharedCounts | None = None
    ) -> None:
        self.path = path
        self.shared = shared
        self._clock = clock
        self._ephemeral: dict[bytes, Key] = {}
        self._by_digest: dict[bytes, Key] = {}
        self._used: dict[str, int] = {}
        self._used_day = -1
        self._pending: dict[tuple[str, int], int] = {}
        self._unfolded = False
        self._changes = -1
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made here, so that the file never stands open to others, not even for a moment.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            self._db = self._connect()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(_SCHEMA)
        self.reload()

    def create(self, plan: str, label: str = "") -> str:
        """Make a key on a plan and return it; it cannot be shown again. A label is taken only once."""
        raw, key, digest = self._new(plan, label, stored=True)
        try:
            with self._errors(), self._change():
                self._db.execute(
                    "INSERT INTO keys VALUES (?, ?, ?, ?, ?, NULL)",
                    (key.id, digest, key.plan, key.label, key.created),
                )
        except sqlite3.IntegrityError:
            raise UsageError(f"there is already a key with the label {label!r}") from None
        self.reload()
        return raw

    def add_ephemeral(self, plan: str) -> str:
        """Make a key that lives only in this process and is written nowhere."""
        raw, key, digest = self._new(plan, "", stored=False)
        self._ephemeral[digest] = key
        self._by_digest = {**self._by_digest, digest: key}
        return raw

    def _new(self, plan: str, label: str, *, stored: bool) -> tuple[str, Key, bytes]:
        raw = "ft_" + secrets.token_urlsafe(24)
        key = Key(
            id="k_" + secrets.token_hex(4),
            plan=plan_named(plan),
            label=label,
            created=self._clock(),
            stored=stored,
        )
        return raw, key, hashlib.sha256(raw.encode()).digest()

    def list(self) -> list[Key]:
        """The keys that may be used, oldest first."""
        return sorted(self._by_digest.values(), key=lambda key: (key.created, key.id))

    def revoke(self, name: str) -> Key:
        """Revoke the key of this id or label; raises `UsageError` when there is none."""
        self.reload()
        found = [key for key in self.list() if key.stored and name in (key.id, key.label) and name]
        if not found:
            raise UsageError(f"there is no key with the id or label {name!r}")
        with self._errors(), self._change():
            self._db.execute("UPDATE keys SET revoked = ? WHERE id = ?", (self._clock(), found[0].id))
        self.reload()
        return found[0]

    def find(self, raw: bytes) -> Key | None:
        """The key that was presented, if it may be used.

        Looked up by its digest, so that how long it takes tells nothing of the keys there are.
        """
        return self._by_digest.get(hashlib.sha256(raw).digest())

    def reload(self) -> None:
        """Read the keys again."""
        with self._errors():
            self._changes = self._count_of_changes()
            rows = self._db.execute("SELECT digest, id, plan, label, created FROM keys WHERE revoked IS NULL")
            stored = {
                row[0]: Key(id=row[1], plan=plan_named(row[2]), label=row[3], created=row[4]) for row in rows
            }
        self._by_digest = {**stored, **self._ephemeral}

    def used(self, key: Key, day: int) -> int:
        """Requests of a key on a day, as far as this process knows."""
        if day != self._used_day:
            self._used, self._used_day = {} if self.shared else self._counted(day), day
        return self._used.get(key.id, 0)

    def _counted(self, day: int) -> dict[str, int]:
        with self._errors():
            return dict(self._db.execute("SELECT key, used FROM usage WHERE day = ?", (day,)).fetchall())

    def used_by_all(self, key: Key, day: int) -> int:
        """Requests of a key on a day, counted by all servers; by this one alone while shared counts are away."""
        known = self.used(key, day)
        if self.shared and key.stored:
            told = self.shared.get(key.id, day)
            if told is not None:
                # What is not written yet is this process's own.
                self._used[key.id] = known = told + self._pending.get((key.id, day), 0)
        return known

    def count(self, key: Key, day: int) -> None:
        """Count a request of a key without a limit; written within about a second."""
        self._used[key.id] = self.used(key, day) + 1
        if key.stored:
            entry = key.id, day
            self._pending[entry] = self._pending.get(entry, 0) + 1

    def spend(self, key: Key, day: int, limit: int) -> bool:
        """Count a request if fewer than `limit` (≥ 1) are counted on that day; False when none is left.

        The count is in the file before this returns, so it outlives the process, and it is exact however
        many processes share the file.
        """
        known = self.used(key, day)
        if not key.stored:
            self._used[key.id] = min(known + 1, limit)
            return known < limit
        if self.shared:
            return self._spend_shared(self.shared, key, day, limit)
        with self._errors():
            rows = self._db.execute(_SPEND, (key.id, day, limit)).fetchall()
        self._used[key.id] = rows[0][0] if rows else limit
        self._unfolded = True
        return bool(rows)

    def _spend_shared(self, shared: SharedCounts, key: Key, day: int, limit: int) -> bool:
        alone = shared.away
        told = shared.add(key.id, day)
        many = self.used(key, day) + 1 if told is None else told
        self._used[key.id] = min(many, limit)
        if alone and many <= limit:
            entry = key.id, day
            self._pending[entry] = self._pending.get(entry, 0) + 1
        return many <= limit

    def flush(self) -> None:
        """Write what `count` has gathered. Not for use beside a running `watch`."""
        self._write(self._take())

    def _take(self) -> dict[tuple[str, int], int]:
        batch, self._pending = self._pending, {}
        return batch

    def _write(self, batch: dict[tuple[str, int], int]) -> None:
        """Move a batch of counts to where they are kept, and fold SQLite's log into the file. Runs in any thread."""
        if self.shared:
            self._share(self.shared, batch)
            return
        self._unfolded = False
        with self._errors(), closing(self._connect()) as db:
            if batch:
                db.execute("BEGIN IMMEDIATE")
                db.executemany(_ADD, [(name, day, number) for (name, day), number in batch.items()])
                db.execute("COMMIT")
                batch.clear()
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _share(self, shared: SharedCounts, batch: dict[tuple[str, int], int]) -> None:
        """Move a batch to the shared counts; what they do not take stays in it."""
        shared.probe()
        for (name, day), number in list(batch.items()):
            if shared.away:
                break
            shared.add(name, day, number)
            del batch[name, day]

    async def watch(self) -> None:
        """Follow changes made by other processes, and write counts, until cancelled."""
        loop = asyncio.get_running_loop()
        written = loop.time()
        while True:
            await asyncio.sleep(CHECK_EVERY)
            try:
                self._follow()
                away = self.shared is not None and self.shared.away
                if loop.time() - written >= WRITE_EVERY and (self._pending or self._unfolded or away):
                    written = loop.time()
                    await self._write_aside()
            except StoreError as error:
                event(_log, logging.WARNING, "keys file failed", reason=str(error))

    def _follow(self) -> None:
        with self._errors():
            changed = self._count_of_changes() != self._changes
        if changed:
            self.reload()
            event(_log, logging.INFO, "keys reloaded", count=len(self._by_digest))

    async def _write_aside(self) -> None:
        batch = self._take()
        try:
            await asyncio.to_thread(self._write, batch)
        finally:
            for entry, number in batch.items():
                self._pending[entry] = self._pending.get(entry, 0) + number

    def close(self) -> None:
        """Write what is left and close the file. May be called again."""
        if self._pending:
            self.flush()
        if self.shared:
            self.shared.close()
        self._db.close()

    def _connect(self) -> sqlite3.Connection:
        # No automatic checkpoint: it would sync the disk in the middle of a request; `flush` does it.
        db = sqlite3.connect(self.path, timeout=0.5, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        return db

    def _count_of_changes(self) -> int:
        return int(self._db.execute("SELECT number FROM changes").fetchall()[0][0])

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

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the keys file {self.path}: {error}") from error
