"""Divergence: whether flow and price move in the same direction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers

Floats = npt.NDArray[np.float64]

LEAST = 10
"""The least number of minutes since the session's open for a statistic."""
STATES = ("flat", "confirming", "bullish_divergence", "bearish_divergence")
_LIMIT = 200
"""|t| from which a slope counts, in hundredths."""
_CAP = 99_999
"""The largest |t| shown, in hundredths. Increments that are all equal get it."""


class Divergence(NamedTuple):
    """Arrays of one length, one row for each minute that has a price.

    `place` is the minute's position among those given, `price` the price at its end, `n` the minutes in its look-back,
    `flow_t` and `price_t` are in hundredths, `state` is an index into `STATES`.
    """

    place: Ints
    price: Ints
    n: Ints
    flow_t: Ints
    price_t: Ints
    state: Ints


def divergence(
    minute: Ints, net: Numbers, opens: Ints, price_minute: Ints, price: Ints, lookback: int
) -> Divergence:
    """Return the slopes of cumulative flow and of the price over the last `lookback` minutes, as t-statistics.

    A running sum of flow and a price are close to random walks. The slope of a random walk with drift is estimated by
    the mean of its increments x, and t = mean(x) / (sd(x) / √n) with n − 1 degrees of freedom. A least-squares line
    through the levels shows slopes where there is only chance (Granger and Newbold, Spurious regressions in
    econometrics, Journal of Econometrics 2, 1974).

    Args:
        minute: minutes since 1970 that have prints, rising.
        net: the net volume of each of `minute`.
        opens: the minute at which the session of each of `minute` opened.
        price_minute: minutes since 1970 that have a price, rising.
        price: the last price of each of `price_minute`.
        lookback: the length of a look-back in minutes. It holds every clock minute since `minute − lookback`, but none
            before the session's open. Minutes without a print have no flow and keep the price.

    Returns:
        A row for each minute whose session has a price by then. With fewer than `LEAST` minutes, both t are 0. The
        state follows from the rounded t with the limit 2: `confirming` if both have the same direction,
        `bullish_divergence` if flow is up and price down, `bearish_divergence` if flow is down and price up, else
        `flat`.
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
    """Return the columns of `Divergence`, except the state, for the minutes of one session."""
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
    """Return t of the mean of the `n` increments that end at each of `ends`, in hundredths, rounded half to even."""
    # Python integers are exact at any size, so a minute's t does not depend on the rest of the query.
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
