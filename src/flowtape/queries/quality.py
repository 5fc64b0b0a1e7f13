"""The quality fields of a minute: the share of volume with a quote, the share with a side, and the quotes' age."""

from __future__ import annotations

from typing import Any

import polars as pl
from msgspec import UNSET

from flowtape.model.conditions import FAMILIES
from flowtape.model.exact import times
from flowtape.model.query import Query
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.queries.flow_data import FlowData, Span
from flowtape.queries.render.numbers import Ints, decimals, half_even

FIELDS = ("nbbo_share", "sided_share", "families", "median_quote_age_ms")
"""The fields of a row that `quality` returns."""
_NS_PER_MS = 10**6
_SHARE_SCALE = 10_000


def quality(data: FlowData, query: Query, minute: Ints) -> dict[str, list[Any]]:
    """Return the columns of `FIELDS`, one value per minute of `minute` (rising, each with counted prints).

    Shares are of the minute's counted volume, to 4 decimals: with a valid NBBO in force, with the side buy or sell,
    and by condition family (families present). The age is the median over prints with such an NBBO of known time,
    unset without one.
    """
    if not len(minute):
        return {name: [] for name in FIELDS}
    span = Span(int(minute[0]) * NS_PER_MINUTE, (int(minute[-1]) + 1) * NS_PER_MINUTE)
    _, volume, nbbo, sided, *families, ages = data.quality(query, span).get_columns()

    def shares(part: pl.Series) -> list[float]:
        return decimals(half_even(times(part.to_numpy(), _SHARE_SCALE), volume.to_numpy()), _SHARE_SCALE)

    by_family = {name: (shares(part), part.to_list()) for name, part in zip(FAMILIES, families, strict=True)}
    return {
        "nbbo_share": shares(nbbo),
        "sided_share": shares(sided),
        "families": [
            {name: share[place] for name, (share, part) in by_family.items() if part[place]}
            for place in range(len(volume))
        ],
        "median_quote_age_ms": [UNSET if age is None else age / _NS_PER_MS for age in ages.to_list()],
    }
