"""What a minute's numbers rest on: how much of its volume had a quote and got a side, and how old the quotes were."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from msgspec import UNSET

from flowtape.model.conditions import FAMILIES
from flowtape.model.exact import times
from flowtape.model.query import Query
from flowtape.orderflow.classify import in_force
from flowtape.orderflow.minute_bars import NS_PER_MINUTE
from flowtape.queries.render.numbers import Ints, decimals, half_even
from flowtape.queries.source import Desk, Span

FIELDS = ("nbbo_share", "sided_share", "families", "median_quote_age_ms")
"""Fields of a row that `quality` gives."""
_AT_ONCE = 1440
"""Minutes whose prints are read at a time."""
_NS_PER_MS = 10**6
_SHARE_SCALE = 10_000


def quality(desk: Desk, query: Query, minute: Ints) -> dict[str, list[Any]]:
    """Columns of `FIELDS`, one value a minute (rising, each with counted prints).

    Shares are of the minute's counted volume, to 4 decimals: with a valid NBBO in force, with the side buy or sell,
    and by condition family (those present). The age is the median over prints with such an NBBO of known time, unset
    without any.
    """
    parts = [_measured(_prints(desk, query, some), desk.max_quote_age) for some in _together(minute)]
    if not parts:
        return {name: [] for name in FIELDS}
    found = pl.concat(parts)
    volume = found["volume"].to_numpy()

    def shares(name: str) -> list[float]:
        return decimals(half_even(times(found[name].to_numpy(), _SHARE_SCALE), volume), _SHARE_SCALE)

    return {
        "nbbo_share": shares("nbbo"),
        "sided_share": shares("sided"),
        "families": _by_minute({name: shares(name) for name in FAMILIES}, found.select(FAMILIES)),
        "median_quote_age_ms": [UNSET if age is None else age / _NS_PER_MS for age in found["age"].to_list()],
    }


def _together(minute: Ints) -> list[Ints]:
    """Minutes in groups that lie close enough to be read at once."""
    if not len(minute):
        return []
    return np.split(minute, np.flatnonzero(np.diff(minute // _AT_ONCE)) + 1)


def _prints(desk: Desk, query: Query, minute: Ints) -> pl.DataFrame:
    span = Span(int(minute[0]) * NS_PER_MINUTE, (int(minute[-1]) + 1) * NS_PER_MINUTE)
    return desk.signed(query, span)


def _measured(prints: pl.DataFrame, max_quote_age: timedelta | None) -> pl.DataFrame:
    """minute; volume in all, with an NBBO, sided and by family; median age in ns. Minutes rise."""
    size, ts = pl.col("size"), pl.col("ts")
    families = [size.filter(pl.col("family").cast(pl.String) == name).sum().alias(name) for name in FAMILIES]
    return (
        prints.select(
            "size", "side", "family", ts.to_physical().alias("ts"), pl.col("quote_ts").to_physical(),
            nbbo=in_force(prints, max_quote_age).fill_null(False),
        )
        .group_by(minute=ts // NS_PER_MINUTE)
        .agg(
            size.sum().alias("volume"),
            size.filter(pl.col("nbbo")).sum().alias("nbbo"),
            size.filter(pl.col("side") != "mid").sum().alias("sided"),
            (ts - pl.col("quote_ts")).filter(pl.col("nbbo")).median().alias("age"),
            *families,
        )
        .sort("minute")
    )  # fmt: skip


def _by_minute(shares: dict[str, list[float]], volumes: pl.DataFrame) -> list[dict[str, float]]:
    """A dict of shares a minute, of the families that had volume in it."""
    present = {name: (volumes[name] > 0).to_list() for name in shares}
    return [
        {name: shares[name][place] for name in shares if present[name][place]}
        for place in range(volumes.height)
    ]
