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
"""Seconds between writes of what was used without a limit, and of what was reserved and not used."""
MOST_RESERVED = 256
"""Requests that are counted for a limited key before they are made: a kill can lose as many of each key."""
RESERVED_SHARE = 16
"""One part of so many of what is left of a limit is reserved at a time, so the last requests are counted one by one."""

_log = logging.getLogger(__name__)


def usage_of(settings: Settings) -> Usage:
    """The counts that the settings name. Raises `StoreError`, `UsageError`."""
    return Usage(SharedCounts(settings.quotas) if settings.quotas else FileCounts(settings.counts_path))


class Usage:
    """Requests by key and day: counted in a file of this node, in counts that servers share, or in this process alone.

    The requests of a limited key are counted there some at a time, before they are made (a reservation). What is not
    used is given back every `WRITE_EVERY` seconds. So no request is granted twice, whatever is killed, and a kill loses
    at most one reservation of each key.

    Raises `StoreError` where the file cannot be read or written.
    """

    def __init__(self, place: FileCounts | SharedCounts | None = None) -> None:
        self.shared = place if isinstance(place, SharedCounts) else None
        self._file = place if isinstance(place, FileCounts) else None
        self._used: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._day = -1
        self._pending: dict[tuple[str, int], int] = {}
        self._outage = Outage(_log, "counts cannot be written, they are kept", "counts are written again")

    def used(self, key: Key, day: int) -> int:
        """Requests of a key on a day, as far as this process knows."""
        if day != self._day:
            self._give_back()
            self._used, self._day = self._file.counted(day) if self._file else {}, day
        return self._used.get(key.id, 0)

    def used_by_all(self, key: Key, day: int) -> int:
        """Requests of a key on a day, counted by all servers; by this one alone while shared counts are away."""
        known = self.used(key, day)
        if self.shared and key.stored:
            told = self.shared.get(key.id, day)
            if told is not None:
                # What is not written yet is this process's own; what it has reserved is not used.
                own = self._pending.get((key.id, day), 0) - self._reserved.get(key.id, 0)
                self._used[key.id] = known = told + own
        return known

    def count(self, key: Key, day: int) -> None:
        """Count a request of a key without a limit; written within about a second."""
        self._used[key.id] = self.used(key, day) + 1
        if key.stored and (self.shared or self._file):
            self._later(key.id, day, 1)

    def _later(self, key: str, day: int, many: int) -> None:
        self._pending[key, day] = self._pending.get((key, day), 0) + many

    def spend(self, key: Key, day: int, limit: int) -> bool:
        """Count a request if fewer than `limit` (≥ 1) are counted on that day; False when none is left."""
        known = self.used(key, day)
        if not key.stored or not (self.shared or self._file):
            self._used[key.id] = min(known + 1, limit)
            return known < limit
        left = self._reserved.get(key.id, 0)
        if not left:
            left, known = self._reserve(key.id, day, known, limit)
        self._used[key.id] = min(known + 1, limit)
        self._reserved[key.id] = max(left - 1, 0)
        return left > 0

    def _reserve(self, key: str, day: int, known: int, limit: int) -> tuple[int, int]:
        """Reserve requests of a key. Returns how many, and how many were counted before."""
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
        # Away: this server counts alone. Whether the request that found it away was counted is not known.
        granted = int(known < limit)
        if alone and granted:
            self._later(key, day, 1)
        return granted, known

    def _give_back(self) -> None:
        """Uncount what is reserved and not used."""
        for key, left in self._reserved.items():
            if left:
                self._later(key, self._day, -left)
        self._reserved.clear()

    def flush(self) -> None:
        """Write what is not written, and give back what is reserved. Not for use beside a running `watch`."""
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
        self._give_back()
        batch = {place: number for place, number in self._pending.items() if number}
        self._pending = {}
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
            if not (self._pending or self._reserved or away or (self._file and self._file.unfolded)):
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
        if self._pending or self._reserved:
            self.flush()
        for place in (self.shared, self._file):
            if place:
                place.close()
