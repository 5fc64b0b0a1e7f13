"""API keys: who may ask. Where they are kept is a `Ledger`: a file (`keyfile`) or the store (`keystore`).

Only the SHA-256 of a key is kept, so a key can be shown once, when it is made. Any number of processes may use a
ledger: `flowtape keys` changes it while a server runs, and the server reads it again when it has changed.
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
"""Seconds between looks for keys made or revoked by another process."""

LONGEST = 256
"""Bytes of the longest text that is looked at as a key."""

_log = logging.getLogger(__name__)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: its short `id` and `label` are no secret; `created` is ns since 1970, UTC."""

    id: str
    plan: Plan
    label: str
    created: int
    stored: bool = True
    """False for a key that lives only in this process."""


class Ledger(Protocol):
    """Where keys are kept. Every method raises `StoreError` where that cannot be read or written; any thread may call,
    one at a time."""

    def version(self) -> int:
        """Another number whenever a key was made or revoked, whoever did; cheap."""

    def read(self) -> dict[bytes, Key]:
        """The keys that may be used, by their SHA-256."""

    def add(self, digest: bytes, key: Key) -> None:
        """Keep a key; raises `UsageError` where another that may be used has its label."""

    def revoke(self, key: Key, at: int) -> None:
        """From now on a key may not be used; `at` is ns since 1970, UTC."""

    def close(self) -> None:
        """Let go. May be called again."""


def plan_named(name: str) -> Plan:
    """The plan of this name, in any case; raises `UsageError` naming the value."""
    for plan in PLANS:
        if plan.lower() == name.strip().lower():
            return plan
    raise UsageError(f"there is no plan {name!r}; plans are {', '.join(PLANS)}")


def label_taken(label: str) -> UsageError:
    """What a ledger raises where a label is taken."""
    return UsageError(f"there is already a key with the label {label!r}")


def check_place(settings: Settings) -> None:
    """Raise `UsageError` where the setting `keys` or `store` names no place for them, and `StoreError` where
    the store is a folder, pipe or device."""
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
        # Not shown: who takes it for the store's address may have put a password into it.
        raise UsageError(
            f"setting keys takes a file's path, or {KEYS_IN_STORE!r} alone for keys in the store; this is neither"
        )


def keys_of(settings: Settings) -> Keys:
    """The keys that the settings name. Raises `StoreError`, `UsageError`."""
    check_place(settings)
    if settings.keys_path is None:
        from flowtape.server.auth.keystore import StoreLedger
        from flowtape.storage.clickhouse.connection import parse

        return Keys(StoreLedger(parse(settings.store)))
    from flowtape.server.auth.keyfile import FileLedger

    return Keys(FileLedger(settings.keys_path))


class Keys:
    """The keys of a ledger, held in memory; what is known stays good while the ledger is away.

    `clock` gives ns since 1970, UTC. Raises `StoreError` where the ledger cannot be read or written.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], int] = time.time_ns) -> None:
        self._ledger = ledger
        self._clock = clock
        self._one_at_a_time = threading.Lock()
        self._ephemeral: dict[bytes, Key] = {}
        self._by_digest: dict[bytes, Key] = {}
        self._version = -1
        self._outage = Outage(_log, "keys cannot be read, those known stay", "keys are read again")
        try:
            self.reload()
        except FlowtapeError:
            ledger.close()
            raise

    def create(self, plan: str, label: str = "") -> str:
        """Make a key on a plan and return it; it cannot be shown again. A label is taken only once."""
        raw, key, digest = self._new(plan, label, stored=True)
        with self._one_at_a_time:
            self._ledger.add(digest, key)
            self._by_digest = {**self._by_digest, digest: key}
        return raw

    def add_ephemeral(self, plan: str) -> str:
        """Make a key that lives only in this process and is written nowhere."""
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
        """The keys that may be used, oldest first."""
        return sorted(self._by_digest.values(), key=lambda key: (key.created, key.id))

    def revoke(self, name: str) -> Key:
        """Revoke the key of this id or label; raises `UsageError` when there is none."""
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
        """The key that was presented, if it may be used.

        Looked up by its digest, so that how long it takes tells nothing of the keys there are.
        """
        return self._by_digest.get(hashlib.sha256(raw).digest()) if len(raw) <= LONGEST else None

    def reload(self) -> None:
        """Read the keys again."""
        with self._one_at_a_time:
            # Asked first: what changes between the two is seen at the next look.
            self._version = self._ledger.version()
            self._by_digest = {**self._ledger.read(), **self._ephemeral}

    async def watch(self) -> None:
        """Follow changes made by other processes until cancelled, without keeping the event loop from its work."""
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
        """Let go of the ledger, after what is under way. May be called again."""
        with self._one_at_a_time:
            self._ledger.close()
