"""Minute bars of a tape that is read in batches, with little of each batch kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import polars as pl

from flowtape.model.conditions import family
from flowtape.orderflow.cancels import counted
from flowtape.orderflow.classify import LIVE_RULES, RULES, sides
from flowtape.orderflow.identity import Rising
from flowtape.orderflow.minute_bars import BY, READ, aggregate, to_schema

_NAMED = ("ts", "asset", "symbol", "root", "expiry", "right", "strike", "price", "size", "condition")
"""The columns that match cancels to prints and that bars are made of."""
_OF_STOCKS = ("seq", "venue", "price_flags")
"""Further columns that the first and last price of a stock's bar need."""
_NARROWED = ("strike", "price", "size")
_MOST_NARROW = 2**31 - 1


BATCHED_ROWS = 250_000
"""Rows of a batch. Columns of this length fit a processor's cache, and their memory is reused."""


class BatchedBars:
    """Minute bars of prints that are added in batches, equal to the bars of all prints in one frame.

    A tape whose sequence numbers only rise has no duplicates. Its prints are therefore classified at once, and the
    columns that are needed only to compare duplicates are dropped.
    """

    def __init__(
        self,
        rule: str | Sequence[str] = "quote",
        max_quote_age: timedelta | None = None,
        by: Sequence[str] = BY,
    ) -> None:
        """Take the rule and the age as in `classify.sign`, and `by` as in `minute_bars.minutes`."""
        self._rule, self._age, self._by = rule, max_quote_age, by
        names = [rule] if isinstance(rule, str) else rule
        self._print_alone = all(name in LIVE_RULES for name in names if name in RULES)
        self._rising = Rising()
        self._kept: list[pl.DataFrame] = []

    def add(self, prints: pl.DataFrame) -> bool:
        """Add the next prints (`prints.SCHEMA`).

        Returns:
            False where bars cannot be made in batches: the rule looks at other prints, or a sequence number does not
            rise, so that a row may be a duplicate. In this case the caller needs all prints in one frame.
        """
        if not self._print_alone or not self._rising.holds(prints):
            return False
        stocks = bool((prints["asset"] == "stock").any())
        kept = prints[list(_NAMED + _OF_STOCKS if stocks else _NAMED)]
        small = [name for name in _NARROWED if cast(int, kept[name].max() or 0) <= _MOST_NARROW]
        families = [family()] if "family" in self._by else []
        side = sides(prints, self._rule, self._age)
        self._kept.append(kept.with_columns(pl.col(small).cast(pl.Int32), *families, side))
        return True

    def bars(self) -> pl.DataFrame:
        """Return the bars of all prints added (at least one batch), and drop the prints. Call it once."""
        prints = pl.concat(self._kept, how="diagonal_relaxed")
        self._kept.clear()
        # `select` would copy columns of many chunks; `[]` does not.
        summed = prints[[name for name in dict.fromkeys((*READ, *self._by)) if name in prints.columns]]
        # Sequence numbers rise, so rows of one instant are already in event order.
        return to_schema(aggregate(summed, self._by, counted=counted(prints[list(_NAMED)])), self._by)
