"""Minute bars of a tape that is read batch by batch, of which no more is kept than bars and cancels need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import polars as pl

from flowtape.model.conditions import family
from flowtape.orderflow.cancels import counted
from flowtape.orderflow.classify import LIVE_RULES, RULES, sides
from flowtape.orderflow.identity import Rising
from flowtape.orderflow.minute_bars import BY, READ, aggregate, shown

_NAMED = ("ts", "asset", "symbol", "root", "expiry", "right", "strike", "price", "size", "condition")
"""What a cancel names, and bars are made of."""
_OF_STOCKS = ("seq", "venue", "price_flags")
"""What the first and last price of stocks' bars takes besides."""
_NARROWED = ("strike", "price", "size")
_MOST_NARROW = 2**31 - 1


BATCHED_ROWS = 250_000
"""Rows of a batch: columns of this length stay in a processor's cache and in memory that is used again."""


class BatchedBars:
    """Minute bars of prints that are added batch by batch: the same that all prints give in one frame.

    A tape whose sequence numbers only rise repeats no row. Its prints can then be classified at once, and the columns
    that decide between rows of one print are let go.
    """

    def __init__(
        self,
        rule: str | Sequence[str] = "quote",
        max_quote_age: timedelta | None = None,
        by: Sequence[str] = BY,
    ) -> None:
        """See `classify.sign` for the rule and the age, `minute_bars.minutes` for `by`."""
        self._rule, self._age, self._by = rule, max_quote_age, by
        names = [rule] if isinstance(rule, str) else rule
        self._print_alone = all(name in LIVE_RULES for name in names if name in RULES)
        self._rising = Rising()
        self._kept: list[pl.DataFrame] = []

    def add(self, prints: pl.DataFrame) -> bool:
        """Take the next prints (`prints.SCHEMA`).

        Returns:
            False where bars cannot be made batch by batch: the rule looks at other prints, or a sequence number does
            not rise, so that a row may repeat another. All prints must be had in one frame then.
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
        """The bars of all prints added, at least one batch of them. They are let go, so this can be called once."""
        prints = pl.concat(self._kept, how="diagonal_relaxed")
        self._kept.clear()
        # Columns are taken by `[]`: `select` would copy those of many chunks.
        summed = prints[[name for name in dict.fromkeys((*READ, *self._by)) if name in prints.columns]]
        # Sequence numbers rise, so that rows of one instant are in event order as they stand.
        return shown(aggregate(summed, self._by, counted=counted(prints[list(_NAMED)])), self._by)
