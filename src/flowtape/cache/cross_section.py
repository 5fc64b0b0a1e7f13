"""All symbols' minutes side by side, for answers that compare symbols: a window's sums come out of memory.

A row is one symbol's minute, all its expiries, rights and families together. Rows stand in order of symbol and minute
with running sums beside them, so that the sum over any window is one subtraction a symbol, however long the window.
What came since they were last put in order waits in a short tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Numbers, joined, numbers, square_sums
from flowtape.orderflow.minute_bars import NOTIONALS, NS_PER_MINUTE, SUMS, VOLUMES, combined

Ints = npt.NDArray[np.int64]

FIELDS = (*SUMS, "biggest", "biggest_ts", "last_ts")
TAIL = 50_000
"""Rows that may wait: grouping as many takes about two milliseconds."""
_AT = {name: place for place, name in enumerate(FIELDS)}
_SUMS = len(SUMS)
_VOID = np.array([-1, 0, -1], np.int64)
"""Peaks that lose against any other."""


class Details(NamedTuple):
    """Of some symbols of a board, within its minutes, arrays of one length and in the units of bars: the largest print
    and when it first came (ns), the newest print (ns), and notional and volume of the last minute traded."""

    biggest: Ints
    biggest_ts: Ints
    last_ts: Ints
    last_notional: Numbers
    last_volume: Ints


class BoardTotals(NamedTuple):
    """Symbols with prints in the board's minutes, in order of name: `sums` has one array a name of `minutes.SUMS`,
    as long as `symbols`; `details(places)` tells more of the symbols at some places, `squares()` sums the squares of
    each symbol's net volume a minute. `as_of` is the newest print."""

    symbols: list[str]
    sums: dict[str, Ints]
    details: Callable[[Ints], Details]
    squares: Callable[[], Numbers]
    as_of: int | None


class _Rows(NamedTuple):
    """What a board holds, never changed but put in another's place: `key` is (owner, minute) and rises, `prefix` is
    the running sum of `SUMS` before each row, `peaks` the other fields; `void` are places whose peaks do not hold any
    more. `late` rows, by `late_key`, have all fields and come on top."""

    key: Ints
    prefix: Ints
    peaks: Ints
    void: Ints
    late_key: Ints
    late: Ints


def _rows(key: Ints, values: Ints) -> _Rows:
    prefix = np.zeros((_SUMS, len(key) + 1), np.int64)
    np.cumsum(values[:_SUMS], axis=1, out=prefix[:, 1:])
    none = np.empty(0, np.int64)
    return _Rows(key, prefix, values[_SUMS:].copy(), none, none, np.empty((len(FIELDS), 0), np.int64))


class Bars(NamedTuple):
    """Bars in any order, arrays of one length: the number of each bar's owner, its minute since 1970, and its columns
    by `FIELDS`."""

    owner: Ints
    minute: Ints
    values: Mapping[str, Ints]


class Board:
    """The rows of one asset. One writer, any readers."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._rows = _rows(np.empty(0, np.int64), np.empty((len(FIELDS), 0), np.int64))

    @classmethod
    def of(cls, parts: Iterable[Bars]) -> Board:
        """A board of bars that come in parts, each of which is summed up before the next is taken."""
        made = [_sorted(part) for part in parts] or [_sorted(_NO_BARS)]
        key, values = (np.concatenate(each, axis=-1) for each in zip(*made, strict=True))
        order = np.argsort(key, kind="stable")
        board = cls()
        board._rows = _rows(*_grouped(key[order], lambda name: values[_AT[name]][order]))
        return board

    def add(self, owner: Ints, minute: Ints, values: Mapping[str, Ints], oldest: int) -> None:
        """Add bars in order of owner and minute, columns by `FIELDS`. Minutes before `oldest` may be dropped."""
        if not len(owner):
            return
        key, made = _grouped((owner << 32) | minute, lambda name: values[name])
        rows = self._rows
        self.version += 1
        if not len(rows.key) + len(rows.late_key):
            self._rows = _rows(key, made)
            return
        rows = rows._replace(
            late_key=np.append(rows.late_key, key), late=np.concatenate((rows.late, made), axis=1)
        )
        self._rows = _ordered(rows, oldest) if len(rows.late_key) > max(TAIL, len(rows.key) >> 5) else rows

    def replace(self, owner: int, minutes: Ints, minute: Ints, values: Mapping[str, Ints]) -> None:
        """Let an owner's `minutes` (rising) hold the given bars alone, whose minutes are `minute`."""
        keys = (owner << 32) | minutes
        order = np.argsort(minute, kind="stable")
        key, made = _grouped((owner << 32) | minute[order], lambda name: values[name][order])
        fresh = np.zeros((len(FIELDS), len(keys)), np.int64)
        fresh[_SUMS:] = _VOID[:, None]
        fresh[:, np.searchsorted(keys, key)] = made
        rows = self._rows
        before = _late(rows, int(minutes[0]), int(minutes[-1]) + 1)
        fresh[:_SUMS] -= np.stack([_sums_at(rows, before, one) for one in keys.tolist()], axis=1)
        place = np.searchsorted(rows.key, keys)
        place = place[place < len(rows.key)]
        late = rows.late.copy()
        late[_SUMS:, np.isin(rows.late_key, keys)] = _VOID[:, None]
        self._rows = rows._replace(
            void=np.append(rows.void, place[np.isin(rows.key[place], keys)]),
            late_key=np.append(rows.late_key, keys),
            late=np.concatenate((late, fresh), axis=1),
        )
        self.version += 1

    def totals(self, owners: list[tuple[int, str]], start: int, end: int) -> BoardTotals:
        """Sums over minutes [start, end) of the given owner numbers, which are in order of their symbols."""
        rows = self._rows
        number = np.array([owner for owner, _ in owners], np.int64)
        low, high = (np.searchsorted(rows.key, (number << 32) | bound) for bound in (start, end))
        sums = rows.prefix[:, high] - rows.prefix[:, low]
        late = _late(rows, start, end)
        if len(late.key):
            begin = np.flatnonzero(np.diff(late.key >> 32, prepend=-1))
            by_number = np.argsort(number)
            place = by_number[np.searchsorted(number, late.key[begin] >> 32, sorter=by_number)]
            sums[:, place] += np.add.reduceat(late.values[:_SUMS], begin, axis=1)
        traded = np.flatnonzero(sums[_AT["trades"]] > 0)
        segments = _Segments(rows, late, number[traded], low[traded], high[traded])
        return BoardTotals(
            [owners[place][1] for place in traded.tolist()],
            {name: sums[place, traded] for place, name in enumerate(SUMS)},
            segments.details,
            segments.squares,
            segments.newest(),
        )


class _Late(NamedTuple):
    """Late rows in order of `key`, the earlier come first; `values` by `FIELDS`."""

    key: Ints
    values: Ints


def _late(rows: _Rows, start: int, end: int) -> _Late:
    """The late rows of minutes [start, end)."""
    minute = rows.late_key & 0xFFFFFFFF
    within = np.flatnonzero((minute >= start) & (minute < end))
    order = within[np.argsort(rows.late_key[within], kind="stable")]
    return _Late(rows.late_key[order], rows.late[:, order])


class _Segments(NamedTuple):
    """The rows of some owners: those from `low` to `high` of each, and the late ones."""

    rows: _Rows
    late: _Late
    owners: Ints
    low: Ints
    high: Ints

    def details(self, places: Ints) -> Details:
        """See `BoardTotals.details`."""
        owners = self.owners[places]
        begin, end = (np.searchsorted(self.late.key, (owners + more) << 32) for more in (0, 1))
        columns = (owners, self.low[places], self.high[places], begin, end)
        void = np.sort(self.rows.void)
        found = [
            self._detail(void, *one) for one in zip(*(column.tolist() for column in columns), strict=True)
        ]
        columns_found = zip(*found, strict=True) if found else [()] * len(Details._fields)
        return Details(*(numbers(column) for column in columns_found))

    def _detail(
        self, void: Ints, owner: int, low: int, high: int, begin: int, end: int
    ) -> tuple[int, int, int, int, int]:
        peaks = self.rows.peaks[:, low:high]
        first, last = np.searchsorted(void, (low, high)).tolist()
        if first < last:
            peaks = peaks.copy()
            peaks[:, void[first:last] - low] = _VOID[:, None]
        largest = [self._largest(some) for some in (peaks, self.late.values[_SUMS:, begin:end])]
        size, ts = max(largest, key=lambda one: (one[0], -one[1]))
        newest = max(int(some.max(initial=-1)) for some in (peaks[2], self.late.values[-1, begin:end]))
        sums = _sums_at(self.rows, self.late, (owner << 32) | newest // NS_PER_MINUTE)
        notional = sum(
            joined(sums[[_AT[upper]]], sums[[_AT[lower]]]).item() for upper, lower in NOTIONALS.values()
        )
        return size, ts, newest, notional, int(sum(sums[_AT[name]] for name in VOLUMES))

    @staticmethod
    def _largest(peaks: Ints) -> tuple[int, int]:
        """Size and time of the first among the largest."""
        if not peaks.shape[1]:
            return -1, 0
        size = int(peaks[0].max())
        return size, int(peaks[1, peaks[0] == size].min())

    def squares(self) -> Numbers:
        """See `BoardTotals.squares`."""
        net = _net(self.rows.prefix)
        counts = self.high - self.low
        ends = np.cumsum(counts)
        place = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.low - (ends - counts), counts)
        found = square_sums(net[place + 1] - net[place], ends - counts, ends)
        if not len(self.late.key):
            return found
        begin = np.flatnonzero(np.diff(self.late.key, prepend=-1))
        key = self.late.key[begin]
        place = np.searchsorted(self.rows.key, key)
        known = np.append(self.rows.key, -1)[place] == key
        before = np.where(known, net[np.minimum(place + 1, len(net) - 1)] - net[place], 0)
        after = before + np.add.reduceat(_net(self.late.values), begin)
        # Late rows stand in order of owner: those of each are one stretch.
        bounds = [np.searchsorted(key, (self.owners + more) << 32) for more in (0, 1)]
        changed: Numbers = found + (square_sums(after, *bounds) - square_sums(before, *bounds))
        return changed

    def newest(self) -> int | None:
        """The newest print of all."""
        last = self.high - 1
        while (void := (last >= self.low) & np.isin(last, self.rows.void)).any():
            last = last - void
        times = np.append(self.rows.peaks[-1][last[last >= self.low]], self.late.values[-1])
        newest = int(times.max()) if len(times) else -1
        return None if newest < 0 else newest


_NO_BARS = Bars(np.empty(0, np.int64), np.empty(0, np.int64), dict.fromkeys(FIELDS, np.empty(0, np.int64)))


def _sorted(bars: Bars) -> tuple[Ints, Ints]:
    """Bars with one a key, in order of the key."""
    key = (bars.owner << 32) | bars.minute
    order = np.argsort(key, kind="stable")
    return _grouped(key[order], lambda name: bars.values[name][order])


def _net(sums: Ints) -> Ints:
    """Volume bought less volume sold, of columns by `SUMS`."""
    net: Ints = sums[_AT["buy_volume"]] - sums[_AT["sell_volume"]]
    return net


def _grouped(key: Ints, column: Callable[[str], Ints]) -> tuple[Ints, Ints]:
    """Rows of rising keys with one a key."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(starts):
        return key, np.empty((len(FIELDS), 0), np.int64)
    return key[starts], np.stack(list(combined(column, starts, FIELDS, edges=False).values()))


def _ordered(rows: _Rows, oldest: int) -> _Rows:
    """The same rows without a tail, from minute `oldest` on."""
    peaks = rows.peaks.copy()
    peaks[:, rows.void] = _VOID[:, None]
    key = np.append(rows.key, rows.late_key)
    values = np.concatenate((np.concatenate((np.diff(rows.prefix, axis=1), peaks)), rows.late), axis=1)
    kept = np.flatnonzero((key & 0xFFFFFFFF) >= oldest)
    # Stable sorting finds the two runs in order and merges them.
    order = kept[np.argsort(key[kept], kind="stable")]
    key, values = _grouped(key[order], lambda name: values[_AT[name]][order])
    traded = values[_AT["trades"]] > 0
    return _rows(key[traded], values[:, traded])


def _sums_at(rows: _Rows, late: _Late, key: int) -> Ints:
    """What the rows of a key sum up to; one value a name of `SUMS`."""
    place = int(np.searchsorted(rows.key, key))
    found = place < len(rows.key) and rows.key[place] == key
    sums = rows.prefix[:, place + found] - rows.prefix[:, place]
    begin, end = np.searchsorted(late.key, (key, key + 1)).tolist()
    total: Ints = sums + late.values[:_SUMS, begin:end].sum(axis=1)
    return total
