"""The measures of net flow: contracts or premium, as bought − sold or as bullish − bearish.

Bullish − bearish (`directional`) counts puts with the opposite sign: bought puts and sold calls are bearish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowtape.cache.columns import CALL, PUT, look_up
from flowtape.cache.view import Totals
from flowtape.model.exact import Ints, Numbers
from flowtape.model.prints import SIZE_SCALE
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NOTIONALS, VOLUMES, net
from flowtape.queries.all_symbols import AllSymbols
from flowtape.queries.render.numbers import NOTIONAL_SCALE, decimals, whole

SPLIT = {"calls_": "C", "puts_": "P"}
"""The prefix of the name of a sum over one right, and that right."""
_SUMS = {"volume": VOLUMES[:2], "notional": (*NOTIONALS["buy"], *NOTIONALS["sell"])}


class Measure(NamedTuple):
    """A measure: the `field` of an answer that shows it, whether it sums `volume` or `notional`, and whether puts
    count with the opposite sign."""

    name: str
    field: str
    kind: str
    directional: bool

    @property
    def sums(self) -> tuple[str, ...]:
        """The bar fields that the measure is computed from."""
        return _SUMS[self.kind]

    def names(self, *, split: bool = False) -> tuple[str, ...]:
        """Return the bar fields that the measure needs; with `split`, those of each right too."""
        sums = _SUMS[self.kind]
        if split or self.directional:
            return (*sums, *(f"{begin}{name}" for begin in SPLIT for name in sums))
        return sums

    def net(self, values: Mapping[str, Ints]) -> Numbers:
        """Return the net of the measure, in the units of minute bars."""
        if not self.directional:
            return net(values, self.kind)
        calls, puts = self.by_right(values)
        return calls + puts

    def by_right(self, values: Mapping[str, Ints]) -> tuple[Numbers, Numbers]:
        """Return the parts of the net that come from calls and from puts."""
        calls, puts = (
            net({name: values[f"{begin}{name}"] for name in _SUMS[self.kind]}, self.kind) for begin in SPLIT
        )
        return calls, -puts if self.directional else puts

    def of_all(self, section: AllSymbols, right: str | None) -> Numbers:
        """Return the net of each symbol of a cross-section; with `right`, only over that right."""
        if not self.directional:
            return net(section.sums, self.kind)
        signs = {"C": (CALL, 1), "P": (PUT, -1)}
        parts = [
            sign * net(section.of(of), self.kind)
            for name, (of, sign) in signs.items()
            if right in (None, name)
        ]
        return np.asarray(sum(parts))

    def scale(self, asset: str) -> int:
        """Return how many units of minute bars make one contract, share or USD."""
        return (SIZE_SCALE if self.kind == "volume" else NOTIONAL_SCALE)[asset]

    def shown(self, numbers: Numbers, asset: str) -> list[Any]:
        """Return numbers in whole contracts or shares, or in USD."""
        if self.kind == "volume":
            volumes: list[int] = whole(numbers, asset).tolist()
            return volumes
        return decimals(numbers, NOTIONAL_SCALE[asset])


MEASURES = {
    name: Measure(
        name, f"net_{name}", "notional" if name.endswith("premium") else "volume", name.startswith("dir")
    )
    for name in ("volume", "premium", "directional", "directional_premium")
}


def measure_of(query: Query) -> Measure:
    """Return the measure of a signal. The default is `directional` with the filter `right=P`, else `volume`.

    Sold puts are bullish, so net volume of puts would look opposed to a rising price.
    """
    return MEASURES[query.measure or ("directional" if query.filter.right == "P" else "volume")]


def line_measure(query: Query) -> Measure:
    """Return the measure of a line of minutes; the default is `volume`."""
    return MEASURES[query.measure or "volume"]


def split_totals(
    names: Sequence[str], right: str | None, read: Callable[[str | None, tuple[str, ...]], Totals]
) -> Totals:
    """Return fields of a symbol's minutes; a field whose name begins with a prefix of `SPLIT` is of that right alone.

    Args:
        names: fields of minute bars, and `minute_bars.SUMS` with a prefix.
        right: the right of the query's filter, None for both.
        read: reads fields over one right, or over both for None; all reads see the same state.
    """
    whole = read(right, tuple(name for name in names if not name.startswith(tuple(SPLIT))))
    values = dict(whole.values)
    for begin, which in SPLIT.items():
        mine = tuple(name.removeprefix(begin) for name in names if name.startswith(begin))
        values |= {f"{begin}{name}": np.zeros(len(whole.minute), np.int64) for name in mine}
        if right in (None, which):
            part = read(which, mine)
            _, place = look_up(part.minute, whole.minute)
            for name in mine:
                values[f"{begin}{name}"][place] = part.values[name]
    return Totals(whole.minute, {name: values[name] for name in names}, whole.as_of)
