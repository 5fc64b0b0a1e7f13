"""What the two engines call the same thing: the functions that statements over stored prints are made of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

from flowtape.model.conditions import CANCEL, FAMILIES, FAMILY_OF
from flowtape.model.prints import CONDITION_NAMES, Side

CANCELS = ", ".join(
    str(place) for place, name in enumerate(CONDITION_NAMES) if FAMILY_OF[name] == CANCEL
)  # fmt: skip
"""The numbers of the conditions that cancel an earlier print, as SQL lists them."""


class Dialect(NamedTuple):
    """An engine's words, as formats of SQL.

    `wide` is an integer of 128 bits, `whole` the quotient of two integers that are not negative, `earliest_largest` the
    least time among the rows of the largest size, `quote_time` the time of a print's quote in ns, `median` the exact
    median of numbers, the mean of two in the middle, `contracts` the exact number of distinct contracts, `of_series` a
    predicate on a contract's `expiry` and `right`, `literal` a date, `dates` the first and the last date there is.
    `by_name` tells that side and family are stored as text.
    """

    wide: str
    whole: str
    earliest_largest: str
    quote_time: str
    median: str
    contracts: str
    of_series: str
    literal: str
    dates: tuple[date, date]
    by_name: bool

    def day(self, day: date) -> str:
        """Return a date, or the nearest that the engine has."""
        return self.literal.format(min(max(day, self.dates[0]), self.dates[1]))

    def side(self, name: str) -> str:
        """Return the predicate of prints of a side."""
        return f"side = '{name}'" if self.by_name else f"side = {Side.categories.to_list().index(name)}"

    def family(self, names: Iterable[str]) -> str:
        """Return the predicate of prints of some condition families."""
        known = [name for name in names if name in FAMILIES]
        texts = (f"'{name}'" if self.by_name else str(FAMILIES.index(name)) for name in known)
        return f"family IN ({', '.join(texts)})" if known else "1 = 0"


DUCKDB = Dialect(
    wide="{}::HUGEINT",
    whole="({} // {})",
    earliest_largest="arg_min(t, (-size, t))",
    quote_time="epoch_ns(quote_ts)",
    median="median({})",
    contracts="count(DISTINCT series::BIGINT * 4294967296 + strike)",
    of_series="series IN (SELECT series FROM series WHERE {})",
    literal="DATE '{}'",
    dates=(date.min, date.max),
    by_name=False,
)
CLICKHOUSE = Dialect(
    wide="toInt128({})",
    whole="intDiv({}, {})",
    earliest_largest="argMin(t, (-size, t))",
    quote_time="toUnixTimestamp64Nano(quote_ts)",
    median="quantileExactInclusive(0.5)({})",
    contracts="uniqExact(root, expiry, `right`, strike)",
    of_series="({})",
    literal="toDate32('{}')",
    dates=(date(1900, 1, 1), date(2299, 12, 31)),
    by_name=True,
)
