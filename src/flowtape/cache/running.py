"""Running sums: the sum over any range of rows of a block from two look-ups and a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flowtape.cache.columns import Column, Packed, range_sums, rows_of
from flowtape.model.exact import BITS, Ints, product

GROUP = 16
"""Rows between two running sums."""
_SMALL = 2**62
"""Sums of squares below this fit 64 bits."""
_MASK = 2**BITS - 1
_Columns = Callable[[slice | Ints, Sequence[str]], Iterable[Ints]]


class Edge:
    """The first row of each run that is not before a minute. `edge` is the run's first row, or the row after its
    last.

    `count` is the number of rows of the block. `inside` are the runs for which the row is neither.
    """

    def __init__(self, rows: Ints, edge: Ints, count: int) -> None:
        self.rows, self._groups = rows, count // GROUP
        self.inside = np.flatnonzero(rows != edge)

    @cached_property
    def near(self) -> _Near:
        """How the rows inside are reached from running sums."""
        rows = self.rows[self.inside]
        # There is no running sum after the last rows of a block.
        group = np.minimum((rows + GROUP // 2) // GROUP, self._groups)
        at = group * GROUP
        between, ends, counts = rows_of(np.minimum(rows, at), np.maximum(rows, at))
        return _Near(group, between, ends, counts, np.where(rows < at, -1, 1))


class _Near(NamedTuple):
    """The running sum nearest to each row, and the rows between them (`counts` rows before `ends`) to add or
    subtract."""

    group: Ints
    between: Ints
    ends: Ints
    counts: Ints
    sign: Ints


Bounds = tuple[Edge | None, Edge | None]
"""For each run, its first row and the row after its last one; None stands for the run's own bounds."""


class Running:
    """Sums of columns over ranges of rows of a block; `columns` returns named columns of some rows."""

    def __init__(self, starts: Ints, columns: _Columns, names: Sequence[str]) -> None:
        self._starts, self._columns, self._names = starts, columns, names
        running, first = [], []
        for column in columns(slice(None), names):
            running.append(_grouped(column))
            first.append(np.append(0, np.cumsum(np.add.reduceat(column, starts[:-1]))))
        # One running sum before every `GROUP`-th row, and one before each of `starts`. A row holds all columns.
        self._running, self._first = np.stack(running, axis=1), np.stack(first, axis=1)

    def over(self, bounds: Bounds, names: Sequence[str]) -> Ints:
        """Return the sums of some columns over the bounds of each run, as an array of shape (runs, names)."""
        places = [self._names.index(name) for name in names]
        low, high = bounds
        return self._before(high, slice(1, None), names, places) - self._before(low, slice(-1), names, places)

    def _before(self, bound: Edge | None, edge: slice, names: Sequence[str], places: list[int]) -> Ints:
        found = self._first[edge, places]
        if bound is None:
            return found
        near = bound.near
        sums = self._running[near.group[:, None], places]
        for place, column in enumerate(self._columns(near.between, names)):
            sums[:, place] += near.sign * range_sums(column, near.ends, near.counts)
        found[bound.inside] = sums
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._running.nbytes + self._first.nbytes


class Squares:
    """Sums of squared net volumes by run, over added rows.

    (call + put)² is the sum of both squares plus twice the product; (call − put)² is the sum minus twice the
    product. So squares and products (`cross`, at the call) give all three.
    """

    def __init__(self, columns: Mapping[str, Column], starts: Ints, net: Ints, cross: Ints) -> None:
        # Zigzag encoding: small numbers of either sign become small unsigned numbers.
        self._cross = packed = Packed((cross << 1) ^ (cross >> 63))
        floats = net.astype(np.float64)
        self._small = small = float(floats @ floats) < _SMALL
        self._names = ("squares", "cross") if small else ("upper", "lower", "cross_upper", "cross_lower")
        buy, sell = columns["buy_volume"], columns["sell_volume"]

        def squared(rows: slice | Ints, _names: Sequence[str]) -> tuple[Ints, ...]:
            net, zigzag = buy[rows] - sell[rows], packed[rows]
            cross = (zigzag >> 1) ^ -(zigzag & 1)
            if small:
                return net * net, cross
            size = np.abs(net)
            return (*product(size, size), *_halves(cross))

        self._running = Running(starts, squared, self._names)

    def over(self, bounds: Bounds) -> Ints:
        """Return Σ net² and Σ cross over the bounds of each run, shape (runs, 4): the upper and lower halves of
        each."""
        found = self._running.over(bounds, self._names)
        return np.stack([*_halves(found[:, 0]), *_halves(found[:, 1])], axis=1) if self._small else found

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._cross.nbytes + self._running.nbytes


def _halves(values: Ints) -> tuple[Ints, Ints]:
    return values >> BITS, values & _MASK


def _grouped(values: Ints) -> Ints:
    """Return the sum of the values before every `GROUP`-th one."""
    running = np.zeros(len(values) // GROUP + 1, np.int64)
    whole = len(values) - len(values) % GROUP
    np.cumsum(values[:whole].reshape(-1, GROUP).sum(axis=1), out=running[1:])
    return running
