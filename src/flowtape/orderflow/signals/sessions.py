"""Morning against afternoon: what each part of a trading day did to the line."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flowtape.model.exact import Ints, Numbers, total

FIRST = 60
"""Minutes of the part `open`."""
MIDDAY = 300
"""Minutes since the open where the part `close` begins: 14:30 of a day that opens at 09:30."""


class Hours(NamedTuple):
    """A New York date and its regular session, minutes since 1970; both None on a day without one."""

    day: date
    open: int | None
    close: int | None


class Part(NamedTuple):
    """Minutes [start, end) of a day. `net` and `premium` are sums over it, `absolute` Σ |net of a minute|, `mean`
    (sum, count) of the line at the end of every clock minute so far, None of the part outside the session."""

    name: str
    start: int
    end: int
    net: int
    premium: int
    absolute: int
    mean: tuple[int, int] | None


class Day(NamedTuple):
    """A trading day: sums of all its minutes, and the line's high and low from the open with the minute of each, the
    first of equals; None where nothing printed since."""

    hours: Hours
    net: int
    premium: int
    absolute: int
    high: tuple[int, int] | None
    low: tuple[int, int] | None
    parts: tuple[Part, ...]


def days(minute: Ints, day: Ints, net: Numbers, premium: Numbers, hours: list[Hours], end: int) -> list[Day]:
    """The trading days that `hours` names, in that order.

    `day` is the New York date of each minute (days since 1970), `net` and `premium` its net volume and premium. Parts
    are `open` (the first hour), `midday` (until 14:30), `close`, and the halves `morning` and `afternoon` of the
    regular session; they end where the session does, on days of early close too, and hold what is before minute
    `end`; a part that has not begun is left out. What printed outside the session is one part, `outside`.

    The line is the sum of net volume since the regular open, or since midnight on a day without a session. Its mean
    gives each clock minute the same weight, so a burst of prints weighs by how long the line stands there.
    """
    found = []
    for one in hours:
        number = (one.day - date(1970, 1, 1)).days
        low, high = np.searchsorted(day, [number, number + 1])
        columns = (minute[low:high], net[low:high], premium[low:high])
        found.append(_day(one, *columns, end))
    return found


def _day(hours: Hours, minute: Ints, net: Numbers, premium: Numbers, end: int) -> Day:
    whole = np.ones(len(minute), np.bool_)
    inside = whole if hours.open is None else (minute >= hours.open) & (minute < (hours.close or 0))
    line = np.cumsum(net[inside])
    parts = []
    for name, start, stop in _bounds(hours, end):
        mine = (minute >= start) & (minute < stop)
        mean = _mean(minute[inside], line, start, stop)
        parts.append(_part(name, start, stop, mine, net, premium, mean))
    rest = whole if hours.open is None else ~inside
    if rest.any():
        parts.append(
            _part("outside", int(minute[rest][0]), int(minute[rest][-1]) + 1, rest, net, premium, None)
        )
    return Day(
        hours,
        int(net.sum()),
        total(premium),
        int(np.abs(net).sum()),
        _extreme(minute[inside], line),
        _extreme(minute[inside], -line, -1),
        tuple(parts),
    )


def _bounds(hours: Hours, end: int) -> list[tuple[str, int, int]]:
    if hours.open is None or hours.close is None:
        return []
    first, close = hours.open, hours.close
    half = first + (close - first) // 2
    named = (
        ("open", first, first + FIRST),
        ("midday", first + FIRST, first + MIDDAY),
        ("close", first + MIDDAY, close),
        ("morning", first, half),
        ("afternoon", half, close),
    )
    last = min(close, end)
    return [(name, start, min(stop, last)) for name, start, stop in named if start < min(stop, last)]


def _part(
    name: str, start: int, end: int, mine: npt.NDArray[np.bool_], net: Numbers, premium: Numbers,
    mean: tuple[int, int] | None,
) -> Part:  # fmt: skip
    absolute = int(np.abs(net[mine]).sum())
    return Part(name, start, end, int(net[mine].sum()), total(premium[mine]), absolute, mean)


def _mean(minute: Ints, line: Numbers, start: int, end: int) -> tuple[int, int]:
    """Sum and count of the line at the end of each clock minute of [start, end)."""
    place = np.searchsorted(minute, np.arange(start, end), "right")
    return int(np.concatenate(([0], line))[place].sum()), end - start


def _extreme(minute: Ints, line: Numbers, sign: int = 1) -> tuple[int, int] | None:
    if not len(line):
        return None
    place = int(np.argmax(line))
    return sign * int(line[place]), int(minute[place])
