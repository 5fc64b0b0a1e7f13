"""What is known of the texts of Categorical columns, kept by the numbers that Polars gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import polars as pl

_HELD = pl.Series("texts", [], pl.Categorical)
"""Polars numbers texts anew once no Categorical column is left. This one keeps the numbers for the whole process."""


class Judged:
    """One judgement of texts, made once for each text that is met, from 1 up.

    To judge a column of texts that were met before costs one look-up a row. May be called from several threads.
    """

    def __init__(self) -> None:
        self.met = 0
        self._judgements = pl.Series(dtype=pl.UInt8)

    def greatest(self, values: pl.Series, judge: Callable[[pl.Series], pl.Series]) -> int:
        """Return the greatest judgement of the texts of a column, 0 where it holds none.

        Args:
            values: type Categorical.
            judge: gives the judgements (UInt8) of distinct texts (String). Called where a text was not met before,
                with all texts of the column.
        """
        numbers, known = values.to_physical(), self._judgements
        last = cast("int | None", numbers.max())
        if last is None:
            return 0
        if last >= len(known):
            known = known.extend_constant(0, last + 1 - len(known))
        found = known.gather(numbers)
        if found.min() == 0:
            distinct = values.unique().drop_nulls()
            known = known.scatter(distinct.to_physical(), judge(distinct.cast(pl.String)))
            self._judgements, self.met = known, int((known > 0).sum())
            found = known.gather(numbers)
        return cast(int, found.max())
