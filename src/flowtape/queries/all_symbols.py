"""All symbols of an asset side by side, in order of name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from flowtape.cache.columns import look_up
from flowtape.cache.view import RIGHTS, CrossSection, Details, with_carry
from flowtape.model.exact import Ints, Numbers
from flowtape.orderflow.minute_bars import latest
from flowtape.storage.catalog import Named


class AllSymbols:
    """The symbols with prints in some minutes, in order of name.

    `numbers` are theirs in the catalog. `sums` has one array a name of `minute_bars.SUMS`, as long as `symbols`, in the
    units of bars.
    """

    def __init__(self, section: CrossSection | Pieces, named: Named) -> None:
        self._section = section
        self._names = named.names
        self._named, self._order = look_up(named.in_order, section.symbols)
        self.numbers = section.symbols[self._order]
        self.sums = {name: values[self._order] for name, values in section.sums.items()}

    @cached_property
    def symbols(self) -> list[str]:
        """The symbols, in order of name."""
        names = self._names
        return [names[place] for place in self._named.tolist()]

    def of(self, right: int) -> dict[str, Ints]:
        """Return the sums of a right, a place in `catalog.RIGHTS`."""
        return {name: values[self._order] for name, values in self._section.of(right).items()}

    def details(self, places: Ints) -> Details:
        """Return more of the symbols at some places."""
        return self._section.details(self._order[places])

    def squares(self, kind: str = "volume", *, directional: bool = False) -> Numbers:
        """See `CrossSection.squares`."""
        squares: Numbers = self._section.squares(kind, directional=directional)[self._order]
        return squares

    @cached_property
    def as_of(self) -> int | None:
        """The newest print of all (ns UTC), None without one."""
        return self._section.as_of


class Pieces:
    """A cross-section of minutes that are read a piece at a time, so that memory holds one piece's bars.

    It has the attributes of `CrossSection`. Pieces, at least one, are in order of their minutes and share none.

    Args:
        pieces: cross-sections of the pieces, each made when the one before has been summed up.
        kind, directional: which squares are summed up, as `CrossSection.squares` has them.
    """

    def __init__(self, pieces: Iterable[CrossSection], kind: str, *, directional: bool) -> None:
        self._squared = kind, directional
        symbols, sums, details, squares, newest = [], [], [], [], []
        for piece in pieces:
            symbols.append(piece.symbols)
            sums.append([piece.sums, *(piece.of(right) for right in range(RIGHTS))])
            details.append(piece.details(np.arange(len(piece.symbols))))
            squares.append(piece.squares(kind, directional=directional))
            newest.append(piece.as_of)
        self.as_of = max((ts for ts in newest if ts is not None), default=None)
        every = np.concatenate(symbols)
        # Stable: the rows of a symbol stay in the order of the pieces.
        order = np.argsort(every, kind="stable")
        starts = np.flatnonzero(np.diff(every[order], prepend=-1))
        self.symbols: Ints = every[order][starts]

        def total(columns: list[Numbers]) -> Numbers:
            joined: Numbers = np.concatenate(columns)[order]
            return np.add.reduceat(joined, starts) if len(starts) else joined

        self._sums = [
            with_carry({name: total([part[place][name] for part in sums]) for name in sums[0][0]})
            for place in range(1 + RIGHTS)
        ]
        self.sums = self._sums[0]
        # Of a few pieces each below 2^60, the sum may leave 64 bits.
        self._squares = total([piece.astype(object) for piece in squares])
        self._details = _latest_details(details, order, starts)

    def of(self, right: int) -> dict[str, Ints]:
        """Return the sums of a right of each of `symbols`."""
        return self._sums[1 + right]

    def details(self, places: Ints) -> Details:
        """See `CrossSection.details`."""
        return Details(*(column[places] for column in self._details))

    def squares(self, kind: str = "volume", *, directional: bool = False) -> Numbers:
        """Return the squares that were summed up. Raises `ValueError` for others."""
        if (kind, directional) != self._squared:
            raise ValueError(f"squares of {kind} were not summed up")
        return self._squares


def _latest_details(parts: list[Details], order: Ints, starts: Ints) -> Details:
    """Return the details of symbols whose rows begin at `starts`, in the order of the pieces."""
    if not len(starts):
        return Details(*(np.empty(0, np.int64) for _ in Details._fields))
    joined = Details(*(np.concatenate(columns)[order] for columns in zip(*parts, strict=True)))
    size, ts = latest(starts, joined.biggest, ~joined.biggest_ts)
    last = np.append(starts[1:], len(order)) - 1
    return Details(size, ~ts, joined.last_ts[last], joined.last_notional[last], joined.last_volume[last])
