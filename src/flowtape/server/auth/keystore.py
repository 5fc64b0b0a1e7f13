"""Keys in a store that many processes share: one row tells that a key was made, another that it was revoked.

No row is changed and none is taken away, so the number of rows is the number of changes, and of two processes that
revoke a key at the same instant both are right.
"""

from __future__ import annotations

import hashlib

import polars as pl

from flowtape.errors import StoreError
from flowtape.server.auth.keys import Key, label_taken, plan_named
from flowtape.storage.clickhouse.connection import Address, Link
from flowtape.storage.clickhouse.rows import quoted

PATIENCE = 5
"""Seconds that an answer of the store is waited for."""


class StoreLedger:
    """The keys of a store: see `keys.Ledger`. Raises `StoreError` where the store is away or was made before it kept
    keys."""

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
        """See `Ledger.version`."""
        return int(self._link.ask(f"SELECT count() AS n FROM {self._table}").item())

    def read(self) -> dict[bytes, Key]:
        """See `Ledger.read`."""
        rows = self._link.ask(
            "SELECT id, max(digest) AS digest, max(plan) AS plan, max(label) AS label, max(created) AS created"
            f" FROM {self._table} GROUP BY id HAVING max(revoked) = 0"
        )
        return {
            bytes.fromhex(digest): Key(id=name, plan=plan_named(plan), label=label, created=created)
            for name, digest, plan, label, created in rows.iter_rows()
        }

    def add(self, digest: bytes, key: Key) -> None:
        """See `Ledger.add`."""
        before = self._with_label(key.label)
        if not all(before.values()):
            raise label_taken(key.label)
        # ClickHouse has no unique index. But of inserts under one token it keeps the first that comes, so of those who
        # found the same keys of a label before theirs, one gets in; the others look, and do not find themselves.
        turn = f"{len(before)} {key.label}" if key.label else key.id
        self._put(key, digest.hex(), 0, hashlib.sha256(turn.encode()).hexdigest())
        if key.label and key.id not in self._with_label(key.label):
            raise label_taken(key.label)

    def _with_label(self, label: str) -> dict[str, int]:
        """When each key that ever had a label was revoked, by id; 0 for one that may be used."""
        if not label:
            return {}
        rows = self._link.ask(
            f"SELECT id, max(revoked) AS gone FROM {self._table} WHERE label = {quoted(label)} GROUP BY id"
        )
        return dict(rows.iter_rows())

    def revoke(self, key: Key, at: int) -> None:
        """See `Ledger.revoke`."""
        self._put(key, "", at, f"{key.id}-revoked-{at}")

    def _put(self, key: Key, digest: str, revoked: int, token: str) -> None:
        row = {"id": key.id, "digest": digest, "plan": key.plan, "label": key.label, "created": key.created}
        self._link.put(self._table, pl.DataFrame({**row, "revoked": revoked}), token)

    def close(self) -> None:
        """See `Ledger.close`."""
        self._link.close()
