"""Requests of each key by UTC day."""

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
"""Nanoseconds in a day; a day's number counts whole days since 1970 UTC."""
WRITE_EVERY = 1.0
"""Seconds between two writes of unlimited use and of unused reservations."""
MOST_RESERVED = 256
"""The most requests of a limited key that are counted before they are made; a kill can lose as many per key."""
RESERVED_SHARE = 16
"""One in so many of the remaining requests is reserved at a time, so that the last ones are counted one by one."""

_log = logging.getLogger(__name__)


def usage_of(settings: Settings) -> Usage:
    """Return the counts that the settings name. Raises `StoreError`, `UsageError`."""
    return Usage(SharedCounts(settings.quotas) if settings.quotas else FileCounts(settings.counts_path))


class Usage:
    """Requests by key and day, counted in a file of this node, in counts that servers share, or in this process
    alone.

    The requests of a limited key are counted before they are made, several at a time (a reservation). Unused ones
    are returned every `WRITE_EVERY` seconds. So no request is granted twice, and a kill loses at most one
    reservation per key.

    Raises `StoreError` if the file cannot be read or written.
    """

    def __init__(self, place: FileCounts | SharedCounts | None = None) -> None:
        self.shared = place if isinstance(place, SharedCounts) else None
        self._file = place if isinstance(place, FileCounts) else None
        self._used: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._spent: set[str] = set()
        """Keys with nothing left when last counted: other servers may give back what they have reserved."""
        self._day = -1
        self._pending: dict[tuple[str, int], int] = {}
        self._outage = Outage(_log, "counts cannot be written, kept in memory", "counts are written again")

    def used(self, key: Key, day: int) -> int:
        """Return the requests of a key on a day, as far as this process knows."""
        if day != self._day:
            self._give_back()
            self._spent.clear()
            self._used, self._day = self._file.counted(day) if self._file else {}, day
        return self._used.get(key.id, 0)

    def used_by_all(self, key: Key, day: int) -> int:
        """Return the requests of a key on a day over all servers; only of this one while shared counts are
        unreachable."""
        known = self.used(key, day)
        if self.shared and key.stored:
            told = self.shared.get(key.id, day)
            if told is not None:
                # Add this process's unwritten requests, and subtract its unused reservations.
                own = self._pending.get((key.id, day), 0) - self._reserved.get(key.id, 0)
                self._used[key.id] = known = told + own
        return known

    def count(self, key: Key, day: int) -> None:
        """Count a request of a key without a limit; it is written within about a second."""
        self._used[key.id] = self.used(key, day) + 1
        if key.stored and (self.shared or self._file):
            self._later(key.id, day, 1)

    def _later(self, key: str, day: int, many: int) -> None:
        self._pending[key, day] = self._pending.get((key, day), 0) + many

    def spend(self, key: Key, day: int, limit: int) -> bool:
        """Count a request if fewer than `limit` (≥ 1) are counted on that day; return False if none is left."""
        known = self.used(key, day)
        if not key.stored or not (self.shared or self._file):
            self._used[key.id] = min(known + 1, limit)
            return known < limit
        left = self._reserved.get(key.id, 0)
        if not left:
            left, known = self._reserve(key.id, day, known, limit)
        self._used[key.id] = min(known + 1, limit)
        (self._spent.discard if known + 1 < limit else self._spent.add)(key.id)
        self._reserved[key.id] = max(left - 1, 0)
        return left > 0

    def _reserve(self, key: str, day: int, known: int, limit: int) -> tuple[int, int]:
        """Reserve requests of a key. Return how many, and how many were counted before."""
        many = max(1, min(MOST_RESERVED, (limit - known) // RESERVED_SHARE))
        if self.shared:
            return self._reserve_shared(self.shared, key, day, known, many, limit)
        assert self._file is not None  # noqa: S101 - for the type checker: one of the two is there
        for number in (many, 1):
            told = self._file.reserve(key, day, number, limit)
            if told is not None:
                return number, told - number
        return 0, limit

    def _reserve_shared(
        self, shared: SharedCounts, key: str, day: int, known: int, many: int, limit: int
    ) -> tuple[int, int]:
        alone = shared.away
        told = shared.add(key, day, many)
        if told is not None:
            before = told - many
            granted = max(min(many, limit - before), 0)
            if many > 1 and granted < many:
                self._later(key, day, granted - many)
            return granted, before
        # Unreachable: this server counts alone. The request that met the failure may have been counted.
        granted = int(known < limit)
        if alone and granted:
            self._later(key, day, 1)
        return granted, known

    def _give_back(self) -> None:
        """Return unused reservations."""
        for key, left in self._reserved.items():
            if left:
                self._later(key, self._day, -left)
        self._reserved.clear()

    def flush(self) -> None:
        """Write all counts and return unused reservations. Not for use beside a running `watch`."""
        batch = self._take()
        try:
            self._write(batch)
        finally:
            self._put_back(batch)

    def _put_back(self, batch: dict[tuple[str, int], int]) -> None:
        """Keep the unwritten part of a batch for the next write."""
        for (name, day), number in batch.items():
            self._later(name, day, number)

    def _take(self) -> dict[tuple[str, int], int]:
        self._give_back()
        batch = {place: number for place, number in self._pending.items() if number}
        self._pending = {}
        return batch

    def _write(self, batch: dict[tuple[str, int], int]) -> None:
        """Move a batch of counts to its storage. Runs in any thread."""
        if self.shared:
            self._share(self.shared, batch)
        elif self._file:
            self._file.write(batch)

    def _share(self, shared: SharedCounts, batch: dict[tuple[str, int], int]) -> None:
        """Move a batch to the shared counts; entries that fail stay in the batch."""
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
            unfolded = self._file is not None and self._file.unfolded
            if not (self._pending or self._reserved or self._spent or away or unfolded):
                continue
            try:
                await self._write_aside()
                await self._look_again()
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

    async def _look_again(self) -> None:
        """Read what is counted of the keys with nothing left."""
        spent, day = list(self._spent), self._day
        if not spent:
            return
        told = await asyncio.to_thread(self._counted, spent, day)
        if day == self._day:
            self._used.update((key, told[key]) for key in self._spent & told.keys())

    def _counted(self, keys: list[str], day: int) -> dict[str, int]:
        """Requests of keys on a day, counted by all servers; none while shared counts are away. Runs in any thread."""
        place = self.shared or self._file
        assert place is not None  # noqa: S101 - for the type checker: without one no key is in `_spent`
        found = {key: place.get(key, day) for key in keys}
        return {key: told for key, told in found.items() if told is not None}

    def close(self) -> None:
        """Write the remaining counts and close the storage. May be called again."""
        if self._pending or self._reserved:
            self.flush()
        for place in (self.shared, self._file):
            if place:
                place.close()
