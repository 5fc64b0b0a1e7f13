"""Keys in a store that many processes share: one row when a key is made, another when it is revoked.

No row is changed or deleted, so the number of rows is the number of changes, and two processes may revoke a key at
the same instant.
"""

from __future__ import annotations

import hashlib

import polars as pl

from flowtape.errors import StoreError
from flowtape.server.auth.keys import Key, label_taken, plan_named
from flowtape.storage.clickhouse.connection import Address, Link
from flowtape.storage.clickhouse.rows import quoted

PATIENCE = 5
"""Seconds to wait for the store."""


class StoreLedger:
    """The keys of a store (`keys.Ledger`). Raises `StoreError` if the store is unreachable or has no table of keys."""

    def __init__(self, address: Address) -> None:
        self._link = Link(address, PATIENCE)
        self._table = f"{address.database}.keys"
        try:
            if not self._link.has("keys"):
                raise StoreError(f"{address}: it has no table of keys; `flowtape store migrate` makes it")
        except StoreError:
            self._link.close()
            raise

    def version(self) -> int:
        """Return a number that changes whenever a key is made or revoked."""
        return int(self._link.ask(f"SELECT count() AS n FROM {self._table}").item())

    def read(self) -> dict[bytes, Key]:
        """Return the valid keys by their SHA-256."""
        rows = self._link.ask(
            "SELECT id, max(digest) AS digest, max(plan) AS plan, max(label) AS label, max(created) AS created"
            f" FROM {self._table} GROUP BY id HAVING max(revoked) = 0"
        )
        return {
            bytes.fromhex(digest): Key(id=name, plan=plan_named(plan), label=label, created=created)
            for name, digest, plan, label, created in rows.iter_rows()
        }

    def add(self, digest: bytes, key: Key) -> None:
        """Store a key. Raises `UsageError` if a valid key has its label."""
        before = self._with_label(key.label)
        if not all(before.values()):
            raise label_taken(key.label)
        # ClickHouse has no unique index, but of several inserts with one token it keeps the first. Of the processes
        # that saw the same keys of a label, one succeeds; the others read again and do not find their key.
        turn = f"{len(before)} {key.label}" if key.label else key.id
        self._put(key, digest.hex(), 0, hashlib.sha256(turn.encode()).hexdigest())
        if key.label and key.id not in self._with_label(key.label):
            raise label_taken(key.label)

    def _with_label(self, label: str) -> dict[str, int]:
        """Return when each key with a label was revoked, by id; 0 for a valid one."""
        if not label:
            return {}
        rows = self._link.ask(
            f"SELECT id, max(revoked) AS gone FROM {self._table} WHERE label = {quoted(label)} GROUP BY id"
        )
        return dict(rows.iter_rows())

    def revoke(self, key: Key, at: int) -> None:
        """Make a key invalid; `at` is ns since 1970 UTC."""
        self._put(key, "", at, f"{key.id}-revoked-{at}")

    def _put(self, key: Key, digest: str, revoked: int, token: str) -> None:
        row = {"id": key.id, "digest": digest, "plan": key.plan, "label": key.label, "created": key.created}
        self._link.put(self._table, pl.DataFrame({**row, "revoked": revoked}), token)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()
