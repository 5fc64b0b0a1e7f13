"""All symbols of an asset side by side, in order of name."""

from __future__ import annotations

from functools import cached_property

from flowtape.cache.blocks import look_up
from flowtape.cache.view import CrossSection, Details
from flowtape.model.exact import Ints, Numbers
from flowtape.storage.catalog import Named


class AllSymbols:
    """The symbols with prints in some minutes, in order of name.

    `numbers` are theirs in the catalog. `sums` has one array a name of `minute_bars.SUMS`, as long as `symbols`, in the
    units of bars.
    """

    def __init__(self, section: CrossSection, named: Named) -> None:
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
