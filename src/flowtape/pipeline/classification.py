"""Side and family of stored prints, and the settings under which they were classified."""

from __future__ import annotations

import logging
from datetime import date, timedelta

import polars as pl

from flowtape.model.conditions import TABLE_DIGEST, family
from flowtape.orderflow.classify import sides
from flowtape.storage import Store

_NAMED = 10
"""The most outdated days that a log line names."""
_log = logging.getLogger(__name__)


def classified(prints: pl.DataFrame, max_quote_age: timedelta | None) -> pl.DataFrame:
    """Return prints (`prints.SCHEMA`) with `side` (`prints.Side`) and `family` (`conditions.Family`).

    Both are stored with the print. Answers and bars read them and do not classify again.
    """
    return prints.with_columns(sides(prints, max_quote_age=max_quote_age), family())


def classification(max_quote_age: timedelta | None) -> str:
    """Return a text that identifies the rules of `side` and `family`: the quote age and the table of sale
    conditions.

    Prints classified under equal texts have the same side and family.
    """
    age = "none" if max_quote_age is None else f"{max_quote_age // timedelta(microseconds=1)}us"
    return f"quote_age={age} conditions={TABLE_DIGEST}"


class Classifications:
    """The settings under which each day's prints of a store were classified.

    Used by one thread at a time; `add` and `replace` within the transaction that writes the prints. `outdated`
    holds the days with prints of other settings that the last `look` found.
    """

    def __init__(self, store: Store, max_quote_age: timedelta | None) -> None:
        self.outdated: list[date] = []
        self._store, self._mine = store, classification(max_quote_age)
        self._recorded: set[date] = set()

    def forget(self) -> None:
        """Drop the memory of uncommitted days after a failed commit."""
        self._recorded.clear()

    def add(self, days: pl.Series) -> None:
        """Record that prints of some days were classified under these settings."""
        fresh = set(days.unique().drop_nulls()) - self._recorded
        if fresh:
            self._store.set_classified(sorted(fresh), self._mine)
            self._recorded |= fresh

    def replace(self, day: date) -> None:
        """Record that all prints of a day were classified under these settings."""
        self._store.set_classified([day], self._mine, whole=True)

    def look(self) -> list[date]:
        """Return the days with prints that were classified under other settings, and log them."""
        kept = self._store.classified().filter(pl.col("classification") != self._mine)
        self.outdated = days = kept["day"].unique().sort().to_list()
        if days:
            shown = ", ".join(map(str, days[:_NAMED])) + (", …" if len(days) > _NAMED else "")
            fields = {"days": shown, "number": len(days), "mend": "flowtape rebuild --outdated"}
            _log.warning("days classified under other settings", extra={"fields": fields})
        return days
