"""Reads of minute bars: the line of one symbol, and the cross-section of all symbols."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from flowtape.cache.blocks import Block, Rows, block_of_frame
from flowtape.cache.columns import (
    CALL,
    PUT,
    key_of,
    look_up,
    minute_of,
    rows_of,
    run_key,
    run_of,
    symbol_minute,
    symbol_of,
    unique,
)
from flowtape.model.exact import Ints, Numbers, carried, joined, square_sums
from flowtape.orderflow.minute_bars import NOTIONALS, NS_PER_MINUTE, SUMS, VOLUMES, gross, latest, net

_NET = {"volume": VOLUMES[:2], "notional": (*NOTIONALS["buy"], *NOTIONALS["sell"])}
"""The fields that nets are computed from."""
_PACKED = 2**16
"""Bars of a frame from which packing pays."""
RIGHTS = 3
"""The number of rights by which bars are kept."""


class Totals(NamedTuple):
    """A symbol's minutes.

    `minute` (since 1970) rises. `values` maps each field to an array as long as `minute`, in the units of minute
    bars. `as_of` is the time of the newest print (ns UTC), None without one.
    """

    minute: Ints
    values: dict[str, Ints]
    as_of: int | None


class Details(NamedTuple):
    """Details of some symbols of a cross-section, as arrays of one length in the units of minute bars: the size of
    the largest print and its first time (ns), the time of the newest print (ns), and notional and volume of the
    last minute with a print."""

    biggest: Ints
    biggest_ts: Ints
    last_ts: Ints
    last_notional: Numbers
    last_volume: Ints


class View:
    """An immutable snapshot of the bars of one asset. It has no minutes before `oldest`.

    `bases` hold the bars of one UTC day each, in order of days; `tail` holds later changes, the earliest first.
    """

    def __init__(
        self, bases: tuple[Block, ...], tail: tuple[Block, ...], oldest: int, *, edges: bool
    ) -> None:
        self.bases, self.tail, self.oldest, self.edges = bases, tail, oldest, edges

    @classmethod
    def of(cls, bases: Sequence[pl.DataFrame], tail: Sequence[pl.DataFrame] = (), *, edges: bool) -> View:
        """Return a view of frames of bars; no two of `bases` have a minute in common."""
        made = (
            tuple(
                block_of_frame(part, edges=edges, packed=len(part) > _PACKED) for part in parts if len(part)
            )
            for parts in (bases, tail)
        )
        return cls(next(made), next(made), 0, edges=edges)

    @cached_property
    def marked(self) -> Ints:
        """The symbols with a correction in the tail, rising."""
        return unique([block.marked for block in self.tail])

    def blocks(self, start: int, end: int) -> list[Block]:
        """Return the blocks with bars of minutes [start, end), earlier ones first."""
        return [block for block in (*self.bases, *self.tail) if block.last >= start and block.first < end]

    def line(
        self, symbol: int, start: int, end: int, names: Sequence[str], right: int | None = None
    ) -> Totals:
        """Return a symbol's minutes in [start, end), of a right or of both; `names` are of `minute_bars.FIELDS`."""
        rows = self.rows(np.array([symbol]), start, end, right)
        minute, values = rows.grouped(minute_of(rows.key), tuple(dict.fromkeys((*names, "last_ts"))))
        as_of = int(values["last_ts"].max()) if len(minute) else None
        return Totals(minute, {name: values[name] for name in names}, as_of)

    def rows(self, symbols: Ints, start: int, end: int, right: int | None) -> Rows:
        """Return the rows of some symbols in minutes [start, end)."""
        start = max(start, self.oldest)
        parts: list[tuple[Block, slice | Ints]] = []
        for block in self.blocks(start, end):
            found, _, _ = rows_of(*block.bounds(_runs(symbols, right), start, end))
            if len(found):
                parts.append((block, found))
        return Rows(parts, edges=self.edges)

    def rows_of_all(self, blocks: Sequence[Block], start: int, end: int) -> Rows:
        """Return the rows of all symbols in some blocks and minutes [start, end)."""
        parts: list[tuple[Block, slice | Ints]] = []
        for block in blocks:
            minute = minute_of(block.key)
            parts.append((block, np.flatnonzero((minute >= start) & (minute < end))))
        return Rows(parts, edges=self.edges)

    def newest(self, symbol: int) -> int | None:
        """Return the time of a symbol's newest print (ns UTC), None without one."""
        if symbol in self.marked:
            return self.line(symbol, self.oldest, _FOREVER, ()).as_of
        newest = -1
        for block in self.blocks(self.oldest, _FOREVER):
            low, high = block.bounds(_runs(np.array([symbol]), None), self.oldest, _FOREVER)
            found = block.columns["last_ts"][high[high > low] - 1]
            newest = max(newest, int(found.max(initial=-1)))
        return None if newest < 0 else newest

    def summed(self, key: Ints) -> dict[str, Ints]:
        """Return `SUMS` of some keys, 0 for a key without a bar."""
        return summed((*self.bases, *self.tail), key, SUMS)

    def cross_section(
        self, start: int, end: int, right: int | None = None, names: Sequence[str] = SUMS
    ) -> CrossSection:
        """Return all symbols summed over minutes [start, end), of a right or of both.

        `names` are of `minute_bars.SUMS`, `trades` among them.
        """
        return CrossSection(self, max(start, self.oldest), end, right, names)


_FOREVER = 2**28 - 1


def summed(blocks: Sequence[Block], key: Ints, names: Sequence[str]) -> dict[str, Ints]:
    """Return the sums of some keys in some blocks, 0 for a key without a bar."""
    found = {name: np.zeros(len(key), np.int64) for name in names}
    minute = minute_of(key)
    for block in blocks:
        within = np.flatnonzero((minute >= block.first) & (minute <= block.last))
        there, place = look_up(key[within], block.key)
        for name in names:
            found[name][within[there]] += block.columns[name][place]
    return found


def _runs(symbols: Ints, right: int | None) -> Ints:
    """Return the runs of symbols; `RIGHTS` runs per symbol if no right is given."""
    if right is not None:
        return symbols << 2 | right
    runs: Ints = (symbols[:, None] << 2 | np.arange(RIGHTS)).ravel()
    return runs


class CrossSection:
    """The symbols with a print in some minutes. `symbols` are their numbers, rising. `sums` maps each name of
    `minute_bars.SUMS` to an array as long, of a right or of both."""

    def __init__(self, view: View, start: int, end: int, right: int | None, names: Sequence[str]) -> None:
        self._view, self._start, self._end, self._right = view, start, end, right
        self._blocks = view.blocks(start, end)
        self._bounds = [block.within(start, end) for block in self._blocks]
        symbols = unique([block.symbols for block in self._blocks])
        self._names = names
        found = np.zeros((len(symbols), RIGHTS, len(names)), np.int64)
        places = []
        for block, bounds in zip(self._blocks, self._bounds, strict=True):
            places.append(np.searchsorted(symbols, block.symbols)[block.owner])
            found[places[-1], block.runs & 3] += block.sums(bounds, names)
        chosen = found.sum(axis=1) if right is None else found[:, right]
        traded = chosen[:, names.index("trades")] > 0
        # For each run of each block, the index of its symbol in `symbols`, −1 if it is not there.
        self._places = [np.where(traded, np.cumsum(traded) - 1, -1)[place] for place in places]
        self.symbols = symbols[traded]
        self._by_right = found[traded]
        self.sums = _named(names, chosen[traded])

    def of(self, right: int) -> dict[str, Ints]:
        """Return the sums of one right for each of `symbols`."""
        return _named(self._names, self._by_right[:, right])

    @cached_property
    def as_of(self) -> int | None:
        """The time of the newest print of all symbols (ns UTC), None without one."""
        if not len(self.symbols):
            return None
        minute, newest = self._start, -1
        for block in sorted(self._blocks, key=lambda block: -block.last):
            if block.last >= minute:
                last = np.searchsorted(block.key, run_key(block.runs, self._end)) - 1
                last = last[last >= block.starts[:-1]]
                last = last[minute_of(block.key[last]) >= minute]
                last = last[~np.isin(symbol_of(block.key[last]), self._view.marked)]
                if self._right is not None:
                    last = last[run_of(block.key[last]) & 3 == self._right]
                if len(last):
                    newest = max(newest, int(block.columns["last_ts"][last].max()))
                    minute = newest // NS_PER_MINUTE
        rows = self._view.rows(self._view.marked, minute, self._end, self._right)
        later = rows.grouped(minute_of(rows.key), ("last_ts",)).values["last_ts"]
        return max(newest, int(later.max(initial=-1)))

    def details(self, places: Ints) -> Details:
        """Return the details of the symbols at the indices `places`."""
        symbols, back = np.unique(self.symbols[places], return_inverse=True)
        size, ts, last = (np.full(len(symbols), start, np.int64) for start in (-1, 0, -1))
        marked = np.isin(symbols, self._view.marked)
        plain = np.flatnonzero(~marked)
        for block in self._blocks:
            for mine, *found in self._peaks(block, symbols[plain]):
                at = plain[mine]
                better = (found[0] > size[at]) | ((found[0] == size[at]) & (found[1] < ts[at]))
                size[at], ts[at] = np.where(better, found[0], size[at]), np.where(better, found[1], ts[at])
                last[at] = np.maximum(last[at], found[2])
        rows = self._view.rows(symbols[marked], self._start, self._end, self._right)
        values = rows.grouped(symbol_of(rows.key), ("biggest", "biggest_ts", "last_ts")).values
        size[marked], ts[marked], last[marked] = values["biggest"], values["biggest_ts"], values["last_ts"]
        volume, notional = self._minute(symbols, last // NS_PER_MINUTE)
        return Details(size[back], ts[back], last[back], notional[back], volume[back])

    def _peaks(self, block: Block, symbols: Ints) -> list[tuple[Ints, Ints, Ints, Ints]]:
        """Return for each right: the indices of the symbols with bars in a block, largest size, its time, newest
        time."""
        parts = []
        for right in range(RIGHTS) if self._right is None else (self._right,):
            runs = symbols << 2 | right
            if self._start <= block.first and block.last < self._end:
                mine, place = look_up(runs, block.runs)
                size, ts = (peak[place] for peak in block.peaks)
                high = block.starts[place + 1]
            else:
                low, high = block.bounds(runs, self._start, self._end)
                mine = np.flatnonzero(high > low)
                high = high[mine]
                rows, ends, counts = rows_of(low[mine], high)
                columns = block.columns["biggest"][rows], ~block.columns["biggest_ts"][rows]
                size, ts = latest(ends - counts, *columns) if len(mine) else (mine, mine)
                ts = ~ts
            parts.append((mine, size, ts, block.columns["last_ts"][high - 1]))
        return parts

    def _minute(self, symbols: Ints, minute: Ints) -> tuple[Ints, Numbers]:
        """Return volume and notional of one minute of each symbol."""
        rights = range(RIGHTS) if self._right is None else (self._right,)
        parts = [self._view.summed(key_of(symbols, right, minute)) for right in rights]
        sums = {name: np.sum([part[name] for part in parts], axis=0) for name in SUMS}
        return gross(sums, "volume"), gross(sums, "notional")

    def squares(self, kind: str = "volume", *, directional: bool = False) -> Numbers:
        """Return Σ net² over each symbol's minutes, of net volume or net notional; with `directional`, of calls −
        puts.

        Notionals have no running sums, so they take as long as reading all bars.
        """
        weights = np.array([1, -1, 0] if directional else [1, 1, 1])
        if self._right is not None:
            weights[np.arange(RIGHTS) != self._right] = 0
        known: list[Block] = []
        loose: list[Block] = []
        found = np.zeros((len(self.symbols), 2), np.int64)
        for block, bounds, place in zip(self._blocks, self._bounds, self._places, strict=True):
            squares = None if block in self._view.tail or kind != "volume" else block.squares
            (known if squares else loose).append(block)
            if squares:
                halves = squares.over(bounds)
                halves[:, :2] *= np.abs(weights[block.runs & 3])[:, None]
                halves[:, :2] += 2 * weights[CALL] * weights[PUT] * halves[:, 2:]
                for right in range(RIGHTS):
                    mine = np.flatnonzero((place >= 0) & (block.runs & 3 == right))
                    found[place[mine]] += halves[mine, :2]
        sums = joined(found[:, 0], found[:, 1])
        return sums + self._loose(known, loose, weights, kind) if loose else sums

    def _loose(self, known: list[Block], loose: list[Block], weights: Ints, kind: str) -> Numbers:
        """Return what minutes with rows in `loose` blocks add to the squares of the `known` blocks."""
        rows = self._view.rows_of_all(loose, self._start, self._end)
        names = _NET[kind]
        key, sums = rows.grouped(rows.key, names, void=True)
        net_of_key = net(sums, kind)
        pairs = unique([symbol_minute(key)])
        mine, place = look_up(run_of(pairs), self.symbols)
        pairs = pairs[mine]
        before: Numbers = np.zeros(len(pairs), np.int64)
        late: Numbers = np.zeros(len(pairs), net_of_key.dtype)
        for right in np.flatnonzero(weights).tolist():
            wanted = key_of(run_of(pairs), right, minute_of(pairs))
            before = before + int(weights[right]) * net(summed(known, wanted, names), kind)
            there, at = look_up(wanted, key)
            late[there] += int(weights[right]) * net_of_key[at]
        begin, end = (
            np.searchsorted(place, np.arange(len(self.symbols)), side) for side in ("left", "right")
        )
        changed: Numbers = square_sums(before + late, begin, end) - square_sums(before, begin, end)
        return changed


def _named(names: Sequence[str], sums: Ints) -> dict[str, Ints]:
    return with_carry({name: np.ascontiguousarray(sums[:, place]) for place, name in enumerate(names)})


def with_carry(sums: dict[str, Ints]) -> dict[str, Ints]:
    """Return sums with the notionals carried, so that equal numbers have equal columns."""
    for upper, lower in NOTIONALS.values():
        if upper in sums:
            sums[upper], sums[lower] = carried(sums[upper], sums[lower])
    return sums
