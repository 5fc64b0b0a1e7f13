"""Minute bars of a tape that is read batch by batch, of which no more is kept than bars and cancels need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import cast

import polars as pl

from flowtape.model.conditions import family, is_cancel, is_official
from flowtape.orderflow.cancels import removals
from flowtape.orderflow.classify import LIVE_RULES, RULES, sign
from flowtape.orderflow.identity import Rising
from flowtape.orderflow.minute_bars import BY, NS_PER_MINUTE, READ, aggregate, shown

_KEPT = (
    "ts", "asset", "symbol", "root", "expiry", "right", "strike", "price", "size", "seq", "venue", "condition",
    "price_flags", "side",
)  # fmt: skip
"""What bars are made of, and what a cancel names."""
_NARROWED = ("strike", "price", "size")
_MOST_NARROW = 2**31 - 1


BATCHED_ROWS = 250_000
"""Rows of a batch: columns of this length stay in a processor's cache and in memory that is used again."""

PIECE_ROWS = 1_000_000
"""Rows that are summed at a time: of many more, the table of groups no longer fits a processor's cache."""


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
        piece_rows: int = PIECE_ROWS,
    ) -> None:
        """See `classify.sign` for the rule and the age, `minute_bars.minutes` for `by`. `piece_rows` are summed at a
        time."""
        self._piece_rows = piece_rows
        self._rule, self._age, self._by = rule, max_quote_age, by
        names = [rule] if isinstance(rule, str) else rule
        self._print_alone = all(name in LIVE_RULES for name in names if name in RULES)
        self._rising = Rising()
        self._newest: int | None = None
        self._in_order = True
        self._kept: list[pl.DataFrame] = []

    def add(self, prints: pl.DataFrame) -> bool:
        """Take the next prints (`prints.SCHEMA`).

        Returns:
            False where bars cannot be made batch by batch: the rule looks at other prints, or a sequence number does
            not rise, so that a row may repeat another. All prints must be had in one frame then.
        """
        if not self._print_alone or not self._rising.holds(prints):
            return False
        signed = sign(prints, self._rule, self._age).select(_KEPT)
        ts = signed["ts"].to_physical()
        if len(ts):
            before, self._newest = self._newest, int(ts[-1])
            self._in_order &= ts.is_sorted() and (before is None or before <= ts[0])
        small = [name for name in _NARROWED if cast(int, signed[name].max() or 0) <= _MOST_NARROW]
        self._kept.append(signed.with_columns(pl.col(small).cast(pl.Int32)))
        return True

    def bars(self) -> pl.DataFrame:
        """The bars of all prints added, at least one batch of them. They are let go, so this can be called once."""
        self._drop_removed()
        made = [shown(aggregate(piece, self._by), self._by) for piece in self._pieces()]
        return pl.concat(made)

    def _drop_removed(self) -> None:
        """Keep the prints that count, with the columns that bars are made of."""
        counted = pl.concat(batch.select(~(is_cancel() | is_official())).to_series() for batch in self._kept)
        every = bool(counted.all())
        if not every:
            whole = pl.concat(self._kept, how="vertical_relaxed")
            counted = counted.scatter(removals(whole)["row"], values=False)
            del whole
        columns = [*READ, *(family() if name == "family" else name for name in self._by if name not in READ)]
        start = 0
        for place, batch in enumerate(self._kept):
            summed = batch.select(columns)
            self._kept[place] = summed if every else summed.filter(counted.slice(start, batch.height))
            start += batch.height

    def _pieces(self) -> Iterator[pl.DataFrame]:
        """The prints in pieces of which no two share a minute; in one piece where they are in no order of time."""
        pending: list[pl.DataFrame] = [self._kept[0].clear()]
        rows = 0
        while self._kept:
            batch = self._kept.pop(0)
            rows, cut = rows + batch.height, 0
            if self._in_order and batch.height and rows >= self._piece_rows:
                minute = batch["ts"].to_physical() // NS_PER_MINUTE
                cut = int(minute.search_sorted(minute[-1]))
            if cut:
                yield pl.concat([*pending, batch.slice(0, cut)], how="vertical_relaxed")
                pending, rows = [], batch.height - cut
            pending.append(batch.slice(cut))
        yield pl.concat(pending, how="vertical_relaxed")
