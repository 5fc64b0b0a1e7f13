"""The cross-section: all symbols of an asset over the same minutes, in order of name."""

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
    """The symbols of an asset with prints in a window, in order of name.

    `numbers` are the symbols' numbers in the catalog. `sums` maps each name of `minute_bars.SUMS` to an array as long
    as `symbols`, in the units of minute bars.
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
        """Return the sums of one right; `right` is an index of `catalog.RIGHTS`."""
        return {name: values[self._order] for name, values in self._section.of(right).items()}

    def details(self, places: Ints) -> Details:
        """Return the largest, newest and last prints of the symbols at the indices `places`."""
        return self._section.details(self._order[places])

    def squares(self, kind: str = "volume", *, directional: bool = False) -> Numbers:
        """Return the sum of squared nets per minute of each symbol, as `CrossSection.squares` does."""
        squares: Numbers = self._section.squares(kind, directional=directional)[self._order]
        return squares

    @cached_property
    def as_of(self) -> int | None:
        """The time of the newest print of all symbols (ns UTC), None without one."""
        return self._section.as_of


class Pieces:
    """A cross-section that is read from the store in pieces of minutes, so that memory holds the bars of one piece.

    It has the attributes of `CrossSection`.

    Args:
        pieces: at least one cross-section, in order of minutes, without a minute in common. The next one is read after
            the previous one was summed.
        kind, directional: which squares are summed, as in `CrossSection.squares`.
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
        # Python integers: the sum of a few pieces below 2^60 may exceed 64 bits.
        self._squares = total([piece.astype(object) for piece in squares])
        self._details = _latest_details(details, order, starts)

    def of(self, right: int) -> dict[str, Ints]:
        """Return the sums of one right for each of `symbols`; `right` is an index of `catalog.RIGHTS`."""
        return self._sums[1 + right]

    def details(self, places: Ints) -> Details:
        """Return the largest, newest and last prints of the symbols at the indices `places`."""
        return Details(*(column[places] for column in self._details))

    def squares(self, kind: str = "volume", *, directional: bool = False) -> Numbers:
        """Return the squares that were summed. Raises `ValueError` for another kind."""
        if (kind, directional) != self._squared:
            raise ValueError(f"squares of {kind} were not summed up")
        return self._squares


def _latest_details(parts: list[Details], order: Ints, starts: Ints) -> Details:
    """Return the details of each symbol over all pieces; the rows of a symbol begin at `starts`."""
    if not len(starts):
        return Details(*(np.empty(0, np.int64) for _ in Details._fields))
    joined = Details(*(np.concatenate(columns)[order] for columns in zip(*parts, strict=True)))
    size, ts = latest(starts, joined.biggest, ~joined.biggest_ts)
    last = np.append(starts[1:], len(order)) - 1
    return Details(size, ~ts, joined.last_ts[last], joined.last_notional[last], joined.last_volume[last])
