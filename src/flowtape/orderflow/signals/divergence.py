"""Whether flow and price go the same way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers

Floats = npt.NDArray[np.float64]

LEAST = 10
"""Fewer minutes than this since the session's open say nothing."""
STATES = ("flat", "confirming", "bullish_divergence", "bearish_divergence")
_LIMIT = 200
"""|t| from which a slope counts, in hundredths."""
_CAP = 99_999
"""The largest |t| shown, in hundredths; also that of increments that are all alike."""


class Divergence(NamedTuple):
    """Arrays of one length, a row a minute that has a price: `place` the minute's place among those given, `price`
    the price known by its end, `n` minutes in its look-back, `flow_t` and `price_t` in hundredths, `state` a place
    in `STATES`."""

    place: Ints
    price: Ints
    n: Ints
    flow_t: Ints
    price_t: Ints
    state: Ints


def divergence(
    minute: Ints, net: Numbers, opens: Ints, price_minute: Ints, price: Ints, lookback: int
) -> Divergence:
    """The slopes of cumulative flow and of the price over the last `lookback` minutes, as t-statistics.

    `net` is the net volume of each minute and `opens` the minute its session opened; `price` the last price of each
    of `price_minute`. A look-back holds every clock minute since `minute − lookback`, but none before the session's
    open; minutes without a print have no flow and keep the price. Minutes whose session has no price yet are left
    out.

    A running sum of flow and a price are near to random walks. The slope of a random walk with drift is estimated by
    the mean of its increments x, and t = mean(x) / (sd(x) / √n) with n − 1 degrees of freedom. A least-squares line
    through the levels would show slopes where there is only chance (Granger and Newbold, Spurious regressions in
    econometrics, Journal of Econometrics 2, 1974). Below `LEAST` minutes both are 0. States, by the rounded t with
    2 as limit: `confirming` both the same way, `bullish_divergence` flow up and price down, `bearish_divergence`
    flow down and price up, else `flat`.
    """
    parts = []
    for open_at in np.unique(opens):
        mine = np.flatnonzero(opens == open_at)
        last = int(minute[mine[-1]])
        of_price = (price_minute >= open_at) & (price_minute <= last)
        if of_price.any():
            at = price_minute[of_price]
            parts.append(_session(mine, minute, net, int(open_at), at, price[of_price], lookback))
    if not parts:
        return Divergence(*(np.empty(0, np.int64) for _ in Divergence._fields))
    place, known, n, flow_t, price_t = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Divergence(place, known, n, flow_t, price_t, _states(flow_t, price_t))


def _session(
    places: Ints, minute: Ints, net: Numbers, open_at: int, price_minute: Ints, price: Ints, lookback: int
) -> tuple[Ints, ...]:
    """The columns of `Divergence`, but for the state, of one session's minutes."""
    length = int(minute[places[-1]]) - open_at + 1
    flow = np.zeros(length, net.dtype)
    flow[minute[places] - open_at] = net[places]
    latest = np.searchsorted(price_minute, np.arange(open_at, open_at + length), "right") - 1
    level = price[np.maximum(latest, 0)]
    places = places[latest[minute[places] - open_at] >= 0]
    ends = minute[places] - open_at
    n = np.minimum(ends + 1, lookback)
    flow_t = _t(flow, ends, n)
    price_t = _t(np.diff(level, prepend=level[0]), ends, n)
    return places, level[ends], n, flow_t, price_t


def _t(increments: Numbers, ends: Ints, n: Ints) -> Ints:
    """t of the mean of the `n` increments that end at each of `ends`, in hundredths, rounded half to even."""
    # In Python's integers: exact however large, so a minute's t is the same whatever else was asked for.
    one, two = (_sums(increments.astype(object) ** power, ends, n) for power in (1, 2))
    count = n.astype(object)
    spread = np.array(count * two - one * one, dtype=np.float64)
    mean = np.array(one, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = 100 * mean * np.sqrt(n - 1) / np.sqrt(spread)
    t = np.where(spread == 0, np.sign(mean) * _CAP, t)
    rounded = np.rint(np.clip(t, -_CAP, _CAP)).astype(np.int64)
    return np.where(n < LEAST, 0, rounded)


def _sums(values: npt.NDArray[np.object_], ends: Ints, n: Ints) -> npt.NDArray[np.object_]:
    running = np.concatenate(([0], np.cumsum(values)))
    sums: npt.NDArray[np.object_] = running[ends + 1] - running[ends + 1 - n]
    return sums


def _states(flow_t: Ints, price_t: Ints) -> Ints:
    up, down = flow_t >= _LIMIT, flow_t <= -_LIMIT
    rises, falls = price_t >= _LIMIT, price_t <= -_LIMIT
    chosen = np.select([up & rises | down & falls, up & falls, down & rises], [1, 2, 3], 0)
    return chosen.astype(np.int64)
