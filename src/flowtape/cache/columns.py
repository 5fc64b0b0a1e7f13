"""Columns of minute bars, the integer key of a bar, and operations on many ranges of rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints
from flowtape.orderflow.minute_bars import NS_PER_MINUTE

CALL, PUT = 0, 1
"""Rights, as indices of `catalog.RIGHTS`."""
RIGHT_MASK = 3
MINUTE_BITS, _RIGHT_BITS = 28, 2
_MINUTES = 2**MINUTE_BITS - 1
_NARROW = (np.uint8, np.uint16, np.uint32)
_EXCEPTIONS = 5
"""A type is narrow enough if at most one value in 2**5 does not fit it."""
_NS = 10**9


def key_of(symbol: Ints, right: Ints | int, minute: Ints | int) -> Ints:
    """Return (symbol, right, minute) as one integer that sorts in that order."""
    run: Ints = symbol << _RIGHT_BITS | right
    return run_key(run, minute)


def run_key(run: Ints, minute: Ints | int) -> Ints:
    """Return the key of a minute of a run; a minute before 1970 has the run's first key."""
    key: Ints = run << MINUTE_BITS | np.clip(minute, 0, _MINUTES)
    return key


def minute_of(key: Ints) -> Ints:
    """Return the minutes (since 1970) of keys."""
    minute: Ints = key & _MINUTES
    return minute


def run_of(key: Ints) -> Ints:
    """Return the runs of keys: symbol·4 + right."""
    return key >> MINUTE_BITS


def symbol_of(key: Ints) -> Ints:
    """Return the symbol numbers of keys."""
    symbol: Ints = key >> (MINUTE_BITS + _RIGHT_BITS)
    return symbol


def symbol_minute(key: Ints) -> Ints:
    """Return (symbol, minute) of keys as one integer that sorts in that order."""
    pair: Ints = symbol_of(key) << MINUTE_BITS | minute_of(key)
    return pair


class Column(Protocol):
    """64-bit integers that are read by a range of rows or by row numbers. A NumPy array is one."""

    def __getitem__(self, rows: slice | Ints, /) -> Ints: ...

    @property
    def nbytes(self) -> int: ...  # noqa: D102


class Packed:
    """A column in the narrowest unsigned type that holds nearly all values, and a table of the exceptions."""

    __slots__ = ("_exact", "_top", "_values", "_where")

    def __init__(self, values: Ints) -> None:
        self._where = self._exact = np.empty(0, np.int64)
        self._values: npt.NDArray[np.integer] = values
        self._top = 0
        # As unsigned integers, negative values are the largest.
        unsigned = values.view(np.uint64)
        for kind in _NARROW:
            top = np.iinfo(kind).max
            wide = unsigned >= top
            if np.count_nonzero(wide) <= len(values) >> _EXCEPTIONS:
                self._values, self._top = values.astype(kind), top
                self._where = np.flatnonzero(wide)
                self._exact = values[self._where]
                self._values[self._where] = top
                break

    def __getitem__(self, rows: slice | Ints, /) -> Ints:
        """Return the values of a range of rows or of rows by number."""
        found = (self._values[rows] if isinstance(rows, slice) else self._values.take(rows)).astype(np.int64)
        if not len(self._where):
            return found
        wide = np.flatnonzero(found == self._top)
        if len(wide):
            at = wide + rows.indices(len(self._values))[0] if isinstance(rows, slice) else rows[wide]
            found[wide] = self._exact[np.searchsorted(self._where, at)]
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._values.nbytes + self._where.nbytes + self._exact.nbytes


class Instants:
    """Instants (ns) within the minutes of their rows, stored as seconds and nanoseconds of the second."""

    __slots__ = ("_key", "_ns", "_second")

    def __init__(self, key: Ints, values: Ints) -> None:
        within = values - minute_of(key) * NS_PER_MINUTE
        second = within // _NS
        self._key, self._second, self._ns = key, Packed(second), Packed(within - second * _NS)

    def __getitem__(self, rows: slice | Ints, /) -> Ints:
        """Return the instants of a range of rows or of rows by number."""
        return minute_of(self._key[rows]) * NS_PER_MINUTE + self._second[rows] * _NS + self._ns[rows]

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without the keys."""
        return self._second.nbytes + self._ns.nbytes


def unique(arrays: Sequence[Ints]) -> Ints:
    """Return the distinct values of some arrays, rising."""
    values = np.sort(concatenated(arrays), kind="stable")
    return values[np.flatnonzero(np.diff(values, prepend=-1))]


def look_up(wanted: Ints, among: Ints) -> tuple[Ints, Ints]:
    """Return the indices of the values of `wanted` that are in `among` (rising), and their indices there."""
    place = np.searchsorted(among, wanted)
    there = np.flatnonzero(place < len(among))
    there = there[among[place[there]] == wanted[there]]
    return there, place[there]


def rows_of(low: Ints, high: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the rows of many ranges [low, high) as one array, the end of each range in it, and the length of each."""
    counts = np.maximum(high - low, 0)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(low - (ends - counts), counts), ends, counts


def range_sums(values: Ints, ends: Ints, counts: Ints) -> Ints:
    """Return the sum of the `counts` values before each of `ends`."""
    running = np.append(0, np.cumsum(values))
    sums: Ints = running[ends] - running[ends - counts]
    return sums


def concatenated(arrays: Sequence[Ints]) -> Ints:
    """Return the arrays as one, without copying a single one; empty for none."""
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0] if arrays else np.empty(0, np.int64)
