"""Sorted, immutable blocks of minute bars.

A block holds bars of one asset in order of (symbol, right, minute), one row per key. The rows of one symbol and
right are a run. A row is one of three kinds. An added row (`ADDED`) is a part of its bar: sums are added, extremes
are compared. A restated row (`RESTATED`) corrects a bar: its sums are the difference from the bar before, and its
extremes replace those of all earlier rows of its key. A void row (`VOID`) does the same for a bar that has no print
any more.

Large blocks are packed: their columns use the narrowest integers that hold nearly all values, about 55 bytes a bar.
Running sums at every `GROUP`-th row give the sum over any range of rows from two look-ups and a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from flowtape.cache.columns import (
    CALL,
    MINUTE_BITS,
    RIGHT_MASK,
    Column,
    Instants,
    Packed,
    concatenated,
    key_of,
    look_up,
    minute_of,
    range_sums,
    rows_of,
    run_key,
    run_of,
    symbol_of,
    unique,
)
from flowtape.cache.running import Bounds, Edge, Running, Squares
from flowtape.model.exact import Ints
from flowtape.orderflow.minute_bars import (
    EDGES,
    FIELDS,
    INSTANTS,
    NOTIONALS,
    SUMS,
    VALUES,
    VOLUMES,
    combined,
    latest,
)
from flowtape.storage.catalog import BAR_KEY

Bools = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.uint8]

ADDED, RESTATED, VOID = 0, 1, 2
_FACTOR, _SQUARED = 2**31, 2**46
"""The product of net volumes below the first fits 64 bits; `exact.product` holds the square of those below the
second."""
_FEW = 2**14
"""Rows up to which a block is summed without running sums."""


class Block:
    """Bars in order of key. `columns` maps `minute_bars.VALUES`, or `FIELDS` with `edges`, to arrays.

    `kind` is None if all rows are added. `runs` are the runs; they begin at the rows `starts`, which has one more
    entry for the end. `symbols` are the symbols, and `owner` the index there of each run's symbol. `first` and
    `last` are the first and last minute. `marked` are the symbols with a row that is not added.
    """

    def __init__(self, key: Ints, columns: Mapping[str, Column], kind: Kinds | None = None) -> None:
        self.key, self.columns = key, columns
        self.kind = kind if kind is not None and kind.any() else None
        minute = minute_of(key)
        self.first, self.last = (int(minute.min()), int(minute.max())) if len(key) else (0, -1)
        run = run_of(key)
        starts = np.flatnonzero(np.diff(run, prepend=-1))
        self.runs: Ints = run[starts]
        self.starts: Ints = np.append(starts, len(key))
        self.marked = unique([symbol_of(key[self.kind != ADDED])] if self.kind is not None else [])
        symbol = symbol_of(self.key[starts])
        self.symbols = unique([symbol])
        self.owner: Ints = np.searchsorted(self.symbols, symbol)

    def __len__(self) -> int:
        return len(self.key)

    def bounds(self, runs: Ints, start: int, end: int) -> tuple[Ints, Ints]:
        """Return the rows [low, high) of each run in minutes [start, end)."""
        low, high = (np.searchsorted(self.key, run_key(runs, minute)) for minute in (start, end))
        return low, high

    def within(self, start: int, end: int) -> Bounds:
        """Return where the rows of [start, end) begin and end in each of `runs`; None stands for the run's own
        bounds."""
        bounds = (
            (start > self.first, start, self.starts[:-1]),
            (end <= self.last, end, self.starts[1:]),
        )
        first, last = (
            Edge(np.searchsorted(self.key, run_key(self.runs, minute)), edge, len(self)) if inside else None
            for inside, minute, edge in bounds
        )
        return first, last

    def sums(self, bounds: Bounds, names: Sequence[str]) -> Ints:
        """Return the sums over the bounds of each of `runs`, as an array of shape (runs, names)."""
        if len(self) > _FEW:
            return self._sums.over(bounds, names)
        low, high = (
            edge if bound is None else bound.rows
            for bound, edge in zip(bounds, (self.starts[:-1], self.starts[1:]), strict=True)
        )
        rows, ends, counts = rows_of(low, high)
        return np.stack([range_sums(self.columns[name][rows], ends, counts) for name in names], axis=1)

    @cached_property
    def _sums(self) -> Running:
        # The lambda does not refer to the block: a cycle would keep it in memory until a collection.
        columns = self.columns
        return Running(self.starts, lambda rows, names: (columns[name][rows] for name in names), SUMS)

    @cached_property
    def peaks(self) -> tuple[Ints, Ints]:
        """The largest size of each of `runs`, and the time (ns) at which it first printed."""
        size, ts = latest(self.starts[:-1], self.columns["biggest"][:], ~self.columns["biggest_ts"][:])
        return size, ~ts

    @cached_property
    def squares(self) -> Squares | None:
        """Sums of squared net volumes; None if one is too large."""
        net = self.columns["buy_volume"][:] - self.columns["sell_volume"][:]
        if _largest(net) >= _SQUARED:
            return None
        cross = np.zeros(len(net), np.int64)
        calls = np.flatnonzero((run_of(self.key) & RIGHT_MASK) == CALL)
        if len(calls):
            both, put = look_up(self.key[calls] + (1 << MINUTE_BITS), self.key)
            calls = calls[both]
            if max(_largest(net[calls]), _largest(net[put])) >= _FACTOR:
                return None
            cross[calls] = net[calls] * net[put]
        return Squares(self.columns, self.starts, net, cross)

    def prepare(self) -> None:
        """Compute the caches of answers: running sums, squares and peaks."""
        _ = self._sums, self.squares, self.peaks

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        made = vars(self)
        others = (*self.columns.values(), *made.get("peaks", ()), made.get("_sums"), made.get("squares"))
        return sum(one.nbytes for one in (self.key, self.runs, self.starts, *others) if one is not None)


def _largest(values: Ints) -> int:
    return max(int(values.max()), -int(values.min())) if len(values) else 0


def whole(block: Block) -> tuple[Block, slice]:
    """Return all rows of a block, for `Rows`."""
    return block, slice(None)


class Rows:
    """Rows of some blocks in order of `key`. Rows of one key are in the order of `parts`, the earliest first."""

    def __init__(self, parts: Sequence[tuple[Block, slice | Ints]], *, edges: bool) -> None:
        self._parts, self._edges = parts, edges
        key = concatenated([block.key[rows] for block, rows in parts])
        self._order = np.argsort(key, kind="stable") if len(parts) > 1 else None
        self.key: Ints = key if self._order is None else key[self._order]
        self._kind: Kinds | None = None
        self._counted: Bools | None = None
        if any(block.kind is not None for block, _ in parts):
            kind = np.concatenate(
                [np.zeros(len(block.key[rows]), np.uint8) if block.kind is None else block.kind[rows]
                 for block, rows in parts]
            )  # fmt: skip
            self._kind = kind if self._order is None else kind[self._order]
            self._counted = _counted(self.key, self._kind)

    def column(self, name: str) -> Ints:
        """Return one field of all rows."""
        values = concatenated([block.columns[name][rows] for block, rows in self._parts])
        return values if self._order is None else values.take(self._order)

    def grouped(self, by: Ints, names: Sequence[str], *, void: bool = False) -> Grouped:
        """Return fields summed by groups. `by` is the group of each row. With `void`, groups without a print are
        included."""
        order = None if (by[1:] >= by[:-1]).all() else np.argsort(by, kind="stable")
        by = by if order is None else by[order]

        def column(name: str) -> Ints:
            return self.column(name) if order is None else self.column(name)[order]

        starts = np.flatnonzero(np.diff(by, prepend=-1))
        if not len(starts):
            return Grouped(by, dict.fromkeys(names, by))
        kept = np.ones(len(starts), np.bool_) if void else np.add.reduceat(column("trades"), starts) > 0
        groups = by[starts][kept]
        sums = tuple(name for name in names if name in SUMS)
        found = combined(column, starts, sums, edges=False)
        if not kept.all():
            found = {name: values[kept] for name, values in found.items()}
        others = tuple(name for name in names if name not in SUMS)
        return Grouped(groups, found | self._extremes(others, by, groups, order, column))

    def _extremes(
        self, names: Sequence[str], by: Ints, groups: Ints, order: Ints | None, column: Callable[[str], Ints]
    ) -> dict[str, Ints]:
        """Return the fields of groups that are not sums, over counted rows; 0 for a group without one."""
        counted = self._counted if self._counted is None or order is None else self._counted[order]
        if counted is not None:
            by = by[counted]
        starts = np.flatnonzero(np.diff(by, prepend=-1))
        if not len(starts) or not len(names):
            return dict.fromkeys(names, np.zeros(len(groups), np.int64))
        pick = column if counted is None else lambda name: column(name)[counted]
        found = combined(pick, starts, names, edges=self._edges)
        if len(starts) == len(groups):
            return found
        there, place = look_up(groups, by[starts])
        for name, values in found.items():
            found[name] = np.zeros(len(groups), np.int64)
            found[name][there] = values[place]
        return found

    def kinds(self) -> Kinds | None:
        """Return the kind of the row that the rows of each key merge into."""
        if self._kind is None or self._counted is None:
            return None
        starts = np.flatnonzero(np.diff(self.key, prepend=-1))
        corrected = np.maximum.reduceat(self._kind != ADDED, starts)
        counted = np.maximum.reduceat(self._counted, starts)
        return np.where(corrected, np.where(counted, RESTATED, VOID), ADDED).astype(np.uint8)

    def merged(self, *, packed: bool) -> Block:
        """Return the rows as a block with one row per key, either packed and without corrections, or for earlier
        blocks to be merged with."""
        columns: dict[str, Column] = {}
        if packed and self._kind is None and (self.key[1:] > self.key[:-1]).all():
            names = (*VALUES, *(EDGES if self._edges else ()))
            return Block(self.key, {name: _packed(name, self.key, self.column(name)) for name in names})
        key, kind = self.key[:0], None if packed else self.kinds()
        for names in (*_TOGETHER, *((EDGES,) if self._edges else ())):
            key, values = self.grouped(self.key, names, void=not packed)
            for name in names:
                columns[name] = _packed(name, key, values[name]) if packed else values[name]
        return Block(key, columns, kind)


class Grouped(NamedTuple):
    """Group numbers, rising, and fields as arrays of the same length."""

    groups: Ints
    values: dict[str, Ints]


def block_of(
    key: Ints, columns: Mapping[str, Ints], *, edges: bool, packed: bool, kind: Kinds | None = None
) -> Block:
    """Return a block of rows in any order; added rows of one key are merged."""
    rising = (key[1:] > key[:-1]).all()
    if not rising:
        order = np.argsort(key, kind="stable")
        key, columns = key[order], {name: values[order] for name, values in columns.items()}
        kind = None if kind is None else kind[order]
    if not rising and (key[1:] == key[:-1]).any():
        return Rows([whole(Block(key, columns, kind))], edges=edges).merged(packed=packed)
    if packed:
        return Block(key, {name: _packed(name, key, values) for name, values in columns.items()}, kind)
    return Block(key, columns, kind)


def block_of_frame(bars: pl.DataFrame, *, edges: bool, packed: bool) -> Block:
    """Return a block of a frame with `catalog.BAR_KEY` and `minute_bars.FIELDS`, in any order."""
    names = FIELDS if edges else VALUES
    # One query, since each query costs more than its work on a small batch.
    values = bars.select(pl.col(names).cast(pl.Int64).fill_null(0))
    columns = {name: values[name].to_numpy() for name in names}
    return block_of(keys_of(bars), columns, edges=edges, packed=packed)


def keys_of(bars: pl.DataFrame) -> Ints:
    """Return the keys of a frame with `catalog.BAR_KEY`."""
    symbol, right, minute = bars.select(pl.col(BAR_KEY).cast(pl.Int64)).get_columns()
    return key_of(symbol.to_numpy(), right.to_numpy(), minute.to_numpy())


def _packed(name: str, key: Ints, values: Ints) -> Column:
    return Instants(key, values) if name in INSTANTS else Packed(values)


_PLAIN = ((name,) for name in (*VOLUMES, "trades", "high", "low", "last_ts"))
_TOGETHER = (*_PLAIN, *NOTIONALS.values(), ("biggest", "biggest_ts"))
"""`VALUES` in groups that are computed together, so that few wide columns exist at once."""


def _counted(key: Ints, kind: Kinds) -> Bools:
    """Return which rows set the extremes of their keys: the rows from a key's last correction on, without void
    rows."""
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    place = np.arange(len(key))
    last = np.maximum.reduceat(np.where(kind != ADDED, place, -1), starts) if len(starts) else starts
    counted: Bools = (place >= np.repeat(last, np.diff(starts, append=len(key)))) & (kind != VOID)
    return counted
