"""The requests that each key has made on each UTC day."""

from __future__ import annotations

import asyncio
import logging

from flowtape.errors import StoreError
from flowtape.server.auth.counts import SharedCounts
from flowtape.server.auth.keyfile import FileCounts
from flowtape.server.auth.keys import Key
from flowtape.server.logs import Outage
from flowtape.settings import Settings

DAY = 86_400 * 10**9
"""Nanoseconds in a day; a day's number is the count of whole days since 1970, UTC."""
WRITE_EVERY = 1.0
"""Seconds between writes of the use of unlimited keys: what a kill can lose."""

_log = logging.getLogger(__name__)


def usage_of(settings: Settings) -> Usage:
    """The counts that the settings name. Raises `StoreError`, `UsageError`."""
    return Usage(SharedCounts(settings.quotas) if settings.quotas else FileCounts(settings.counts_path))


class Usage:
    """Requests by key and day: counted in a file of this node, in counts that servers share, or in this process alone.

    Raises `StoreError` where the file cannot be read or written.
    """

    def __init__(self, place: FileCounts | SharedCounts | None = None) -> None:
        self.shared = place if isinstance(place, SharedCounts) else None
        self._file = place if isinstance(place, FileCounts) else None
        self._used: dict[str, int] = {}
        self._day = -1
        self._pending: dict[tuple[str, int], int] = {}
        self._outage = Outage(_log, "counts cannot be written, they are kept", "counts are written again")

    def used(self, key: Key, day: int) -> int:
        """Requests of a key on a day, as far as this process knows."""
        if day != self._day:
            self._used, self._day = self._file.counted(day) if self._file else {}, day
        return self._used.get(key.id, 0)

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
        if key.stored and (self.shared or self._file):
            self._later(key.id, day, 1)

    def _later(self, key: str, day: int, many: int) -> None:
        self._pending[key, day] = self._pending.get((key, day), 0) + many

    def spend(self, key: Key, day: int, limit: int) -> bool:
        """Count a request if fewer than `limit` (≥ 1) are counted on that day; False when none is left.

        In a file the count is there before this returns.
        """
        known = self.used(key, day)
        if key.stored and self.shared:
            return self._spend_shared(self.shared, key, day, limit)
        if key.stored and self._file:
            told = self._file.spend(key.id, day, limit)
            self._used[key.id] = limit if told is None else told
            return told is not None
        self._used[key.id] = min(known + 1, limit)
        return known < limit

    def _spend_shared(self, shared: SharedCounts, key: Key, day: int, limit: int) -> bool:
        alone = shared.away
        told = shared.add(key.id, day)
        many = self.used(key, day) + 1 if told is None else told
        self._used[key.id] = min(many, limit)
        if alone and many <= limit:
            self._later(key.id, day, 1)
        return many <= limit

    def flush(self) -> None:
        """Write what `count` has gathered. Not for use beside a running `watch`."""
        batch = self._take()
        try:
            self._write(batch)
        finally:
            self._put_back(batch)

    def _put_back(self, batch: dict[tuple[str, int], int]) -> None:
        """Keep what of a batch could not be written, for the next time."""
        for (name, day), number in batch.items():
            self._later(name, day, number)

    def _take(self) -> dict[tuple[str, int], int]:
        batch, self._pending = self._pending, {}
        return batch

    def _write(self, batch: dict[tuple[str, int], int]) -> None:
        """Move a batch of counts to where they are kept. Runs in any thread."""
        if self.shared:
            self._share(self.shared, batch)
        elif self._file:
            self._file.write(batch)

    def _share(self, shared: SharedCounts, batch: dict[tuple[str, int], int]) -> None:
        """Move a batch to the shared counts; what they do not take stays in it."""
        shared.probe()
        for (name, day), number in list(batch.items()):
            if shared.away:
                break
            shared.add(name, day, number)
            del batch[name, day]

    async def watch(self) -> None:
        """Write counts until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY)
            away = self.shared is not None and self.shared.away
            if not (self._pending or away or (self._file and self._file.unfolded)):
                continue
            try:
                await self._write_aside()
            except StoreError as error:
                self._outage.note(str(error))
            else:
                self._outage.over()

    async def _write_aside(self) -> None:
        batch = self._take()
        try:
            await asyncio.to_thread(self._write, batch)
        finally:
            self._put_back(batch)

    def close(self) -> None:
        """Write what is left and let go. May be called again."""
        if self._pending:
            self.flush()
        for place in (self.shared, self._file):
            if place:
                place.close()
