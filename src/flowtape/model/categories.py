"""Cached properties of the texts of Categorical columns, indexed by the numbers that Polars gives the texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import polars as pl

_HELD = pl.Series("texts", [], pl.Categorical)
"""Polars renumbers texts once no Categorical column is left. This series keeps the numbers for the whole process."""


class TextRanks:
    """One property of texts, a number from 1 up, computed once for each distinct text.

    Later batches with the same texts cost one look-up a row. May be called from several threads.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._known = pl.Series(dtype=pl.UInt8)

    def greatest(self, values: pl.Series, rank: Callable[[pl.Series], pl.Series]) -> int:
        """Return the greatest number among the texts of a column, or 0 where the column holds no text.

        Args:
            values: a Categorical column.
            rank: returns the numbers (UInt8) of distinct texts (String). It is called with all distinct texts of the
                column when one of them is new.
        """
        numbers, known = values.to_physical(), self._known
        last = cast("int | None", numbers.max())
        if last is None:
            return 0
        if last >= len(known):
            known = known.extend_constant(0, last + 1 - len(known))
        found = known.gather(numbers)
        if found.min() == 0:
            distinct = values.unique().drop_nulls()
            known = known.scatter(distinct.to_physical(), rank(distinct.cast(pl.String)))
            self._known, self.seen = known, int((known > 0).sum())
            found = known.gather(numbers)
        return cast(int, found.max())
