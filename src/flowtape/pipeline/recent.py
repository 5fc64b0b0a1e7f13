"""The keys of recently stored rows, in memory, so that most live batches need no look-up in the store."""

from __future__ import annotations

import polars as pl

from flowtape.orderflow.identity import PRECEDENCE
from flowtape.storage import Store
from flowtape.storage.catalog import ROW_IDENTITY, STORED

LIMIT = 200_000
"""Keys of one generation; two are held, about 30 MB."""
LARGEST = 50_000
"""Rows of the largest batch whose keys are remembered. Larger batches come from files and are compared by the
store."""
_NONE = pl.DataFrame(
    schema={"row": pl.UInt32} | {name: STORED[name] for name in ("print_id", "removed_at", *PRECEDENCE)}
)


class RecentRows:
    """Finds the rows of a batch that are stored already. Used by one thread at a time, within the transaction that
    writes the rows.

    The keys of all rows from the instant `_floor` on are held as 64-bit hashes, in two generations. A batch that is
    newer and shares no hash with them is new. The store compares every other batch, so the result is always exact.
    The store is always asked when other processes write to it.
    """

    def __init__(self, store: Store, limit: int = LIMIT) -> None:
        self._store, self._limit = store, limit
        self._newer: set[int] = set()
        self._older: set[int] = set()
        self._floor: int | None = None
        self._boundary = self._newest = 0

    def forget(self) -> None:
        """Drop all keys, since those of a failed commit are not stored."""
        self._newer, self._older, self._floor = set(), set(), None

    def known(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a batch that are stored already, as `Store.known` does. Raises `StoreError`."""
        if rows.is_empty():
            return _NONE
        if self._store.shared or rows.height > LARGEST:
            return self._store.known(rows)
        if self._floor is None:
            span = self._store.span()
            self._newest = -(2**63) if span is None else span[1]
            self._floor = self._boundary = self._newest + 1
        hashes = _hashes(rows)
        new = self._newer.isdisjoint(hashes) and self._older.isdisjoint(hashes)
        return _NONE if new and _first(rows) >= self._floor else self._store.known(rows)

    def add(self, rows: pl.DataFrame) -> None:
        """Remember rows that the open transaction writes."""
        if self._floor is None or rows.is_empty():
            return
        self._newest = max(self._newest, int(rows["ts"].to_physical().max()))  # type: ignore[arg-type]
        if rows.height > LARGEST:
            self._newer, self._older = set(), set()
            self._floor = self._boundary = self._newest + 1
            return
        self._newer.update(_hashes(rows))
        if len(self._newer) > self._limit:
            # The newer generation has every row from the boundary on.
            self._older, self._newer = self._newer, set()
            self._floor, self._boundary = self._boundary, self._newest + 1


def _hashes(rows: pl.DataFrame) -> list[int]:
    return rows.select(ROW_IDENTITY).hash_rows().to_list()


def _first(rows: pl.DataFrame) -> int:
    return int(rows["ts"].to_physical().min())  # type: ignore[arg-type]
