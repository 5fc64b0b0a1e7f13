"""The picture of a line."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from flowtape.errors import UsageError
from flowtape.model import columns
from flowtape.model.calendar import regular_sessions
from flowtape.model.prints import PRICE_SCALE
from flowtape.orderflow.signals import turning_points
from flowtape.report import Drawing, drawn

_TURNS = 6


def plot(line: Any, price: Any = None, *, title: str = "") -> Any:
    """Draw a cumulative line as `flowtape report` draws it.

    The line has marks at its six largest turning points; the regular sessions are shaded; the net volume of each minute
    stands beneath. Times on the axis are New York's.

    Args:
        line: a frame with `ts`, `cumulative` and `net_volume` or `net_premium`, as `cumulative` gives it.
        price: a frame with `ts` and `price` (floats or decimals in USD, integers of 1/10,000 USD), as
            `FlowStore.divergence` gives it. Its column `state`, where it has one, shades the divergences.
        title: what stands above the picture.

    Returns:
        A `matplotlib.figure.Figure`; `savefig("line.png")` writes it to a file. A notebook shows it.

    Raises:
        UsageError: where matplotlib is not installed, and for a frame without these columns.

    Example:
        >>> flowtape.plot(store.cumulative("SPY"), store.divergence("SPY"), title="SPY").savefig("spy.png")
    """
    shown = columns.polars_of(line)
    net = "net_premium" if "net_premium" in shown.columns else "net_volume"
    _need(shown, "line", "ts", "cumulative", net)
    shown = shown.sort("ts")
    times = shown["ts"].to_list()
    prices = pl.DataFrame() if price is None else columns.polars_of(price)
    if price is not None:
        _need(prices, "price", "ts", "price")
        prices = prices.sort("ts").drop_nulls(["ts", "price"])
    drawing = Drawing(
        title=title,
        times=times,
        net=shown[net].to_list(),
        cumulative=shown["cumulative"].to_list(),
        turns=_turns(shown),
        sessions=_sessions(times),
        price_times=prices["ts"].to_list() if price is not None else [],
        prices=_usd(prices["price"]) if price is not None else [],
        states=prices["state"].to_list() if "state" in prices.columns else ["flat"] * prices.height,
        price_source="",
        unit="volume" if net == "net_volume" else "premium, USD",
        dated=bool(times) and (times[-1] - times[0]).days > 0,
    )
    return drawn(drawing)


def _need(frame: pl.DataFrame, name: str, *needed: str) -> None:
    """Raise `UsageError` where a frame lacks a column, or its times have no zone."""
    if missing := [column for column in needed if column not in frame.columns]:
        raise UsageError(f"{name}: the frame lacks the column {', '.join(missing)}")
    kind = frame["ts"].dtype
    if not isinstance(kind, pl.Datetime):
        raise UsageError(f"{name}: the column ts must hold date-times, not {kind}")
    if kind.time_zone is None:
        raise UsageError(f"{name}: the column ts has no time zone; give it one with dt.replace_time_zone")


def _turns(line: pl.DataFrame) -> list[tuple[datetime, str, float]]:
    """Return the largest turning points of a line: time, `high` or `low`, value."""
    values = line["cumulative"]
    # Sums of USD have decimals: the turning points are found among values in cents.
    units = values if values.dtype.is_integer() else (values * 100).round().cast(pl.Int64)
    found = turning_points(units.to_numpy().astype(np.int64), _TURNS)
    return [
        (line["ts"][place], "high" if high else "low", values[place])
        for place, high in zip(found.place.tolist(), found.high.tolist(), strict=True)
    ]


def _sessions(times: list[datetime]) -> list[tuple[datetime, datetime]]:
    """Return the regular sessions of the stocks' exchange that a line touches."""
    if not times:
        return []
    first, last = (int(time.timestamp()) * 10**9 for time in (times[0], times[-1]))
    day = 24 * 3600 * 10**9
    known = [one for one in regular_sessions("stock", "", first - day, last + 1) if one.close > first]
    bounds = pl.DataFrame({"open": [one.open for one in known], "close": [one.close for one in known]})
    instants = bounds.cast(pl.Int64).select(pl.from_epoch(pl.all(), "ns").dt.replace_time_zone("UTC"))
    return list(instants.iter_rows())


def _usd(prices: pl.Series) -> list[float]:
    return [value / PRICE_SCALE if prices.dtype.is_integer() else float(value) for value in prices.to_list()]
