"""Minutes made from prints for a filter, cached so that the next answer reads only minutes that changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from flowtape.cache.view import Totals
from flowtape.model.exact import Ints

_BYTES = 64 * 2**20
"""Bytes that all cached minutes may take."""
_APART = 10
"""Changed minutes with a gap of at least this many minutes are read separately."""
_MOST_RANGES = 4


class _Entry(NamedTuple):
    """Minutes [start, end) as of a version of the bars; `totals` has `last_ts`."""

    version: int
    start: int
    end: int
    totals: Totals


class Filtered:
    """Minutes by query. May be used from any thread.

    Args:
        most: bytes of memory; the least recently used entry is dropped first.
    """

    def __init__(self, most: int = _BYTES) -> None:
        self._most, self._held = most, 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def totals(
        self,
        key: Hashable,
        version: int,
        span: tuple[int, int],
        changed_since: Callable[[int], Ints | None],
        read: Callable[[int, int], Totals],
    ) -> Totals:
        """Return the minutes of a span, reading those that are not cached or have changed.

        Args:
            key: identifies the query and the length of its span.
            version: of the bars, taken before the snapshot that `read` reads from.
            span: the first minute and the end (exclusive).
            changed_since: returns the minutes that changed since a version, None if that is unknown.
            read: reads the minutes of a span, with `last_ts`.
        """
        with self._lock:
            known = self._entries.get(key)
        if known is not None and known.version > version:
            # The entry is from a later state of the store than this snapshot.
            return read(*span)
        stale = [span] if known is None else _stale(known, span, changed_since(known.version))
        parts = [read(*one) for one in stale]
        if known is not None and stale != [span]:
            parts.append(_without(known.totals, span, stale))
        made = _joined(parts)
        self._remember(key, _Entry(version, *span, made))
        return made

    def _remember(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None and before.version > entry.version:
                entry, before = before, entry
            self._entries[key] = entry
            self._held = sum(_weight(one.totals) for one in self._entries.values())
            while self._held > self._most and self._entries:
                self._held -= _weight(self._entries.popitem(last=False)[1].totals)


def _stale(known: _Entry, span: tuple[int, int], changed: Ints | None) -> list[tuple[int, int]]:
    """Return the parts of a span that must be read; the whole span if little of it is cached."""
    start, end = span
    low, high = max(start, known.start), min(end, known.end)
    if changed is None or low >= high:
        return [span]
    minutes = changed[(changed >= low) & (changed < high)]
    ranges = [(start, low)] if start < low else []
    starts = np.flatnonzero(np.diff(minutes, prepend=-_APART) > _APART)
    ranges += [(int(part[0]), int(part[-1]) + 1) for part in np.split(minutes, starts) if len(part)]
    ranges += [(high, end)] if high < end else []
    return ranges if len(ranges) <= _MOST_RANGES else [(ranges[0][0], ranges[-1][1])]


def _without(totals: Totals, span: tuple[int, int], stale: Sequence[tuple[int, int]]) -> Totals:
    """Return the minutes of a span outside some ranges."""
    minute = totals.minute
    kept = (minute >= span[0]) & (minute < span[1])
    for start, end in stale:
        kept &= (minute < start) | (minute >= end)
    return Totals(minute[kept], {name: values[kept] for name, values in totals.values.items()}, None)


def _joined(parts: Sequence[Totals]) -> Totals:
    """Return the minutes of several parts as one, rising."""
    minute = np.concatenate([part.minute for part in parts])
    order = np.argsort(minute, kind="stable")
    values = {name: np.concatenate([part.values[name] for part in parts])[order] for name in parts[0].values}
    newest = values["last_ts"]
    return Totals(minute[order], values, int(newest.max()) if len(newest) else None)


def _weight(totals: Totals) -> int:
    return totals.minute.nbytes + sum(values.nbytes for values in totals.values.values()) + 1000
