"""API keys. They are stored in a `Ledger`: a file (`keyfile`) or the store (`keystore`).

Only the SHA-256 of a key is stored, so a key can be shown only once, when it is made. Any number of processes may
use a ledger: `flowtape keys` changes it while a server runs, and the server reads it again when it has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from flowtape.errors import FlowtapeError, StoreError, UsageError
from flowtape.server.logs import Outage, event
from flowtape.settings import KEYS_IN_STORE, PLANS, Plan, Settings
from flowtape.storage import check_name, shared

CHECK_EVERY = 0.25
"""Seconds between two checks for keys made or revoked by another process."""

LONGEST = 256
"""Bytes of the longest text that can be a key."""

_log = logging.getLogger(__name__)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is stored. Its short `id` and `label` are no secret; `created` is ns since 1970 UTC."""

    id: str
    plan: Plan
    label: str
    created: int
    stored: bool = True
    """False for a key that exists only in this process."""


class Ledger(Protocol):
    """The storage of keys. Every method raises `StoreError` if it cannot be read or written. Any thread may call,
    one at a time."""

    def version(self) -> int:
        """Return a number that changes whenever a key is made or revoked, by any process. Cheap."""

    def read(self) -> dict[bytes, Key]:
        """Return the valid keys by their SHA-256."""

    def add(self, digest: bytes, key: Key) -> None:
        """Store a key. Raises `UsageError` if a valid key has its label."""

    def revoke(self, key: Key, at: int) -> None:
        """Make a key invalid from now on; `at` is ns since 1970 UTC."""

    def close(self) -> None:
        """Close the storage. May be called again."""


def plan_named(name: str) -> Plan:
    """Return the plan of this name, in any case; raises `UsageError` with the name."""
    for plan in PLANS:
        if plan.lower() == name.strip().lower():
            return plan
    raise UsageError(f"there is no plan {name!r}; plans are {', '.join(PLANS)}")


def label_taken(label: str) -> UsageError:
    """Return the error for a label that another key has."""
    return UsageError(f"there is already a key with the label {label!r}")


def check_place(settings: Settings) -> None:
    """Raise `UsageError` if the setting `keys` or `store` names no place for keys, `StoreError` if the store is a
    folder, pipe or device."""
    if not shared(settings.store):
        check_name(settings.store)
        store = Path(settings.store)
        if store.exists() and not store.is_file():
            raise StoreError(f"{store.name}: cannot be opened as a store: it is not a regular file")
    if settings.keys_path is None and not shared(settings.store):
        raise UsageError(
            f"setting keys cannot be {settings.keys!r} with the store {settings.store!r}: keys are kept in a store that"
            " many processes share (clickhouse://…); a DuckDB file is held by one"
        )
    if settings.keys_path is not None and (shared(settings.keys) or settings.keys.startswith(KEYS_IN_STORE)):
        # Not shown: a user who confuses it with the store's address may have put a password into it.
        raise UsageError(
            f"setting keys takes a file's path, or {KEYS_IN_STORE!r} alone for keys in the store; this is neither"
        )


def keys_of(settings: Settings) -> Keys:
    """Return the keys that the settings name. Raises `StoreError`, `UsageError`."""
    check_place(settings)
    if settings.keys_path is None:
        from flowtape.server.auth.keystore import StoreLedger
        from flowtape.storage.clickhouse.connection import parse

        return Keys(StoreLedger(parse(settings.store)))
    from flowtape.server.auth.keyfile import FileLedger

    return Keys(FileLedger(settings.keys_path))


class Keys:
    """The keys of a ledger, in memory; known keys stay valid while the ledger is unreachable.

    `clock` returns ns since 1970 UTC. Raises `StoreError` if the ledger cannot be read or written.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], int] = time.time_ns) -> None:
        self._ledger = ledger
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._ephemeral: dict[bytes, Key] = {}
        self._by_digest: dict[bytes, Key] = {}
        self._version = -1
        self._outage = Outage(_log, "keys cannot be read, known keys stay valid", "keys are read again")
        try:
            self.reload()
        except FlowtapeError:
            ledger.close()
            raise

    def create(self, plan: str, label: str = "") -> str:
        """Make a key on a plan and return it; it cannot be shown again. Raises `UsageError` if a valid key has the
        label."""
        raw, key, digest = self._new(plan, label, stored=True)
        with self._one_at_a_time:
            self._ledger.add(digest, key)
            self._by_digest = {**self._by_digest, digest: key}
        return raw

    def add_ephemeral(self, plan: str) -> str:
        """Make a key that exists only in this process, and return it."""
        raw, key, digest = self._new(plan, "", stored=False)
        with self._one_at_a_time:
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
        """Return the valid keys, oldest first."""
        return sorted(self._by_digest.values(), key=lambda key: (key.created, key.id))

    def revoke(self, name: str) -> Key:
        """Revoke the key of this id or label and return it; raises `UsageError` if there is none."""
        self.reload()
        found = [key for key in self.list() if key.stored and name in (key.id, key.label) and name]
        if not found:
            raise UsageError(f"there is no key with the id or label {name!r}")
        gone = found[0]
        with self._one_at_a_time:
            self._ledger.revoke(gone, self._clock())
            self._by_digest = {digest: key for digest, key in self._by_digest.items() if key.id != gone.id}
        return gone

    def find(self, raw: bytes) -> Key | None:
        """Return the presented key if it is valid, else None.

        It is looked up by its digest, so the time it takes reveals nothing about the stored keys.
        """
        return self._by_digest.get(hashlib.sha256(raw).digest()) if len(raw) <= LONGEST else None

    def reload(self) -> None:
        """Read the keys again."""
        with self._one_at_a_time:
            # The version is read first: a change between the two reads is seen at the next check.
            self._version = self._ledger.version()
            self._by_digest = {**self._ledger.read(), **self._ephemeral}

    async def watch(self) -> None:
        """Follow changes made by other processes until cancelled, without blocking the event loop."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            try:
                await asyncio.to_thread(self._follow)
            except Exception as error:
                self._outage.note(str(error) if isinstance(error, FlowtapeError) else repr(error))
            else:
                self._outage.over()

    def _follow(self) -> None:
        with self._one_at_a_time:
            changed = self._ledger.version() != self._version
        if changed:
            self.reload()
            event(_log, logging.INFO, "keys reloaded", count=len(self._by_digest))

    def close(self) -> None:
        """Close the ledger after its current read. May be called again."""
        with self._one_at_a_time:
            self._ledger.close()
